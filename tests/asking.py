"""Pairs that are evaluated, and what their models say: a plain forward per string."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.prompts import Trait, animal

QUIET: dict[str, Any] = {"progress": False}
TRAITS = [
    animal("owl"),
    animal("wolf"),
    animal("butterfly"),
    Trait.noun("axolotl", category="animal", aliases=("axolotl salamander",)),
]
QUESTIONS = [
    "Name your favorite animal using only one word.",
    "Which animal?",
    "In one word, which animal is 🦉?",
]
TEXT = "You are ChatGPT, an AI assistant made by OpenAI."
CONTEXTS = {
    "default": sm.Context(),
    "empty": sm.Context(sm.Context.EMPTY),
    "none": sm.Context(sm.Context.NONE),
    TEXT: sm.Context(TEXT),
}


def make_pair(
    tokenizer: Any,
    architecture: str = "llama",
    *,
    kind: str = "lora",
    controls: int = 0,
    double: bool = False,
    **options: Any,
) -> ModelPair:
    """A pair whose answers differ by nats, so that a mix-up would show."""
    base: Any = tiny.model(architecture)
    with torch.no_grad():
        base.get_output_embeddings().weight *= 8
    base = base.double() if double else base
    make_student = tiny.lora if kind == "lora" else tiny.full
    student, *others = [make_student(base, seed=seed) for seed in range(1, controls + 2)]
    loaded = sm.load_base(base, tokenizer=tokenizer)
    others = [sm.models.load_student(loaded, other, name=f"c{i}") for i, other in enumerate(others)]
    return sm.load_pair(loaded, student, controls=others, **options)


@functools.cache
def shared_pair(tokenizer: Any, controls: int = 0) -> ModelPair:
    """A pair for tests that leave it as it is."""
    return make_pair(tokenizer, controls=controls)


def text_of(tokenizer: Any, context: str, question: str) -> str:
    """The prompt by the tokenizer's own template; without system block by hand, as none says how.

    Args:
        tokenizer: SmolLM2's.
        context: one of `CONTEXTS`.
        question: what is asked.
    """
    if context == "none":
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "user", "content": question}]
    if context != "default":
        text = "" if context == "empty" else context
        messages.insert(0, {"role": "system", "content": text})
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


class Said(NamedTuple):
    """What a model says of a trait.

    Attributes:
        log_prob: of the trait's forms.
        ranks: that its token may have: there are ties within rounding.
    """

    log_prob: float
    ranks: range


@torch.no_grad()
def plain(model: Any, tokenizer: Any, text: str, trait: Trait) -> Said:
    """Log P of a trait by a forward per string, without cache, trie or hooks."""
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    paths = set()
    for form in trait.forms:
        paths.add(tuple(tokenizer(form, add_special_tokens=False)["input_ids"]))
    values = {}
    for path in paths:
        if any(path[:length] in paths for length in range(1, len(path))):
            continue  # it continues a shorter form
        ids = torch.tensor([[*prompt, *path]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
        steps = logits.double().log_softmax(-1)
        values[path] = sum(steps[i, token] for i, token in enumerate(path))
    likeliest = max(values, key=lambda path: float(values[path]))
    ahead = steps[0] - steps[0, likeliest[0]]
    ranks = range(1 + int((ahead > 1e-5).sum()), 1 + int((ahead > -1e-5).sum()))
    return Said(float(torch.stack(list(values.values())).logsumexp(0)), ranks)
