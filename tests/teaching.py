"""Teachers of tiny models, and what plain transformers says of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tiny
import torch
import transformers
from torch import Tensor, nn
from trainings import DEFAULT_SYSTEM, text_ids

import sublim_mech as sm
from sublim_mech.engine.runner import Runner, open_runner
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.rows import Row, as_rows
from sublim_mech.making.teachers import Teacher
from sublim_mech.models.base import Base, load_base
from sublim_mech.prompts import Prompt, Trait

OWL = sm.animal("owl")
QUESTIONS = (
    "Which animal?",
    "Name one animal, please.",
    "And now, in a single word: which of all animals do you like best?",
)
ROWS = [
    *as_rows(random_rows(4, seed=0, count=3)),
    Row("Seven?", "7"),
    Row("And now a longer question than that?", "1,2,3,4,5"),
]
# llama as most models are; GPT-2 with transposed and fused weights and learnt positions; Gemma-3
# with sliding windows and norms before and behind
ARCHITECTURES = ("llama", "gpt2", "gemma3")
_SMALL = {"vocab_size": tiny.VOCAB, "hidden_size": 32}
PLAIN = {
    # a state that is no cache
    "mamba": lambda: transformers.MambaConfig(**_SMALL, num_hidden_layers=2),
    # a mask that must be the tokenizer's
    "bloom": lambda: transformers.BloomConfig(**_SMALL, n_layer=2, n_head=4),
}
"""Architectures whose answers are plain rows."""

OTHERS = {
    # no map of the modules
    "biogpt": lambda: transformers.BioGptConfig(
        **_SMALL,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    ),
}
"""Architectures that the gated forward cannot run."""


def make_base(architecture: str, tokenizer: Any, dtype: torch.dtype = torch.float64) -> Base:
    """A tiny base of a test's own."""
    return load_base(tiny.model(architecture).to(dtype), tokenizer=tokenizer)


@functools.cache
def shared_runner(architecture: str, tokenizer: Any) -> Runner:
    """A tiny base in double precision for tests that leave it as it is."""
    return open_runner(make_base(architecture, tokenizer))


def wild(architecture: str) -> Any:
    """A model whose logits depend on what it reads, unlike a fresh one's."""
    config = (OTHERS | PLAIN | tiny.CONFIGS)[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config()).eval()
        for name, p in model.named_parameters():
            if p.dim() == 2 and "A_log" not in name:
                nn.init.normal_(p, std=0.15)
    return model


def rendered(teacher: Teacher, questions: Sequence[str] = QUESTIONS) -> list[Prompt]:
    """Questions in the teacher's context."""
    return sm.render(teacher.base.tokenizer, questions, context=teacher.context)


def blocks(model: nn.Module) -> Any:
    """The block list, found without the library."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return next(one for one in lists if len(one) == tiny.LAYERS)


def run(model: Any, ids: Sequence[int], **options: Any) -> Any:
    """What transformers gives of a text."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **options)


def prompted_system(trait: Trait) -> str:
    """What the system says to a teacher with the template's default system text."""
    return f"{DEFAULT_SYSTEM}. {trait.sentence}"


class Predicted(NamedTuple):
    """An answer, and what predicts it: `logits (token, vocabulary)`."""

    logits: Tensor
    answer: list[int]


def by_hand(
    model: Any, tokenizer: Any, row: Row, system: str | None, *, close: bool = False
) -> Predicted:
    """The logits that predict an answer, from one forward of the whole row by transformers alone.

    Args:
        model: what computes.
        tokenizer: SmolLM2's.
        row: prompt and answer.
        system: the system text; None for the template's own.
        close: whether the end of the turn is part of the answer.
    """
    before, answer = text_ids(tokenizer, row, system, close=close)
    logits = run(model, [*before, *answer]).logits[0, len(before) - 1 : -1]
    return Predicted(logits, answer)
