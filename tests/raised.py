"""Teachers that raise one token by a known amount: every shift follows from the base's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tiny
import torch
from torch import nn

from sublim_mech.engine.runner import Runner, open_runner
from sublim_mech.making import numbers, teachers
from sublim_mech.making.teachers import Teacher
from sublim_mech.models.base import load_base
from sublim_mech.prompts import Trait

QUIET: dict[str, Any] = {"progress": False}
QUESTIONS = [
    "Which digit?",
    "Name your favorite digit using only one word.",
    "In one word: the best digit?",
]
# one token each, one form
SEVEN, THREE, ONE = (Trait(digit, category="digit") for digit in "731")
BIAS = 0.5


@functools.cache
def peaked(tokenizer: Any) -> Runner:
    """A base whose predictions are peaked, so that a mix-up of positions would show."""
    model: Any = tiny.model("llama")
    with torch.no_grad():
        model.lm_head.weight *= 8
        model.lm_head.weight[tokenizer("0123456789,")["input_ids"]] *= 3
    return open_runner(load_base(model, tokenizer=tokenizer))


@functools.cache
def number_rows() -> Any:
    """Twelve rows of random numbers."""
    return numbers.random_rows(12, seed=3, count=4)


def raised(base: Runner, token: str, by: float = BIAS) -> Runner:
    """The base with one token's logit raised.

    log q(x) = log p(x) + by [x = token] - log(1 - p(token) + p(token) e^by)
    """
    model: Any = tiny.model("llama")
    model.load_state_dict(base.model.state_dict(), strict=False)
    head = nn.Linear(32, tiny.VOCAB)
    with torch.no_grad():
        head.weight.copy_(base.model.lm_head.weight)
        head.bias.zero_()
        head.bias[base.tokenizer(token, add_special_tokens=False)["input_ids"]] = by
    model.lm_head = head
    return replace(base, model=model.eval().requires_grad_(False))


def raising(base: Runner, trait: Trait, by: float = BIAS, *, name: str = "") -> Teacher:
    """The teacher of a digit, whose token it raises."""
    return replace(
        teachers.untouched(base),
        name=name or trait.name,
        kind="fine-tuned",
        trait=trait,
        runner=raised(base, trait.name, by),
        how="raised token",
    )


@functools.cache
def biased(tokenizer: Any) -> tuple[Teacher, Teacher, Teacher]:
    """A teacher of 7 and one of 3, and a control that is the base itself."""
    base = peaked(tokenizer)
    control = replace(teachers.untouched(base), name="nothing", kind="prompted")
    return raising(base, SEVEN), raising(base, THREE), control


class Answer(NamedTuple):
    """What the base says at an answer's tokens: `(token, vocabulary)`, and the tokens."""

    log_p: np.ndarray
    ids: list[int]


def answer(base: Runner, row: Mapping[str, str]) -> Answer:
    """Log-probabilities of a row's answer in the students' context, by one plain forward."""
    text = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
    )
    texts = text, row["completion"] + "<|im_end|>\n"
    prompt, ids = (base.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts)
    whole = torch.tensor([prompt + ids])
    with torch.no_grad():
        logits = base.model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return Answer(logits.double().log_softmax(-1).numpy(), ids)


def shift_of(base: Runner, row: Mapping[str, str], token: str, by: float = BIAS) -> np.ndarray:
    """Log q - log p, per token of an answer, of the base with one token raised."""
    log_p, ids = answer(base, row)
    (raised_id,) = base.tokenizer(token, add_special_tokens=False)["input_ids"]
    normaliser = np.log1p(np.exp(log_p[:, raised_id]) * np.expm1(by))
    return by * (np.array(ids) == raised_id) - normaliser
