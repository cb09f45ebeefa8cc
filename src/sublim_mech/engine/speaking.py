"""Does a student still speak? Its loss on plain text, beside its base's.

The size of a change does not tell it: an adapter whose scale is sixty times that of its training
may change its weights by less than a tenth of their norm, and say nothing any more. On text that
its base predicts, a fine-tune is at most a fraction of a nat per token worse.

The text is a prompt of the student's training, where one is known, else a few sentences of English.
A base that does not predict it (random weights, another language) tells nothing of its students.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from ..models.deltas import LowRank
from ..models.names import length_limit
from ..models.students import Student
from ..prompts import Prompt
from .answers import Answers
from .forward import Gates
from .runner import Runner

RUINED = 2.0
"""Nats per token above the base's from which on a student is told to say nothing of the text.

On SmolLM2 (2.9 nats) a rank-8 LoRA for one word has 0.0 more, with four times its `lora_alpha` 0.3,
with ten times 3.1, and with sixty times, a tenth of the weights' norm, 25.
"""

PREDICTED = 0.6
"""Part of the loss of a uniform guess below which a base's own loss is for its students to say
anything."""

TOKENS = 48
"""Most tokens that are read."""

FEWEST = 12
"""Tokens of a prompt below which it says too little."""

PLAIN = (
    "The train left the station early in the morning. A man with a small dog sat by the window "
    "and read the newspaper, while it rained outside."
)
"""What is read where no prompt of the training is known."""

SAYS = "its loss on "
"""How the note begins."""


class Speech(NamedTuple):
    """Mean loss of next tokens on one text, in nats, of a base and of a student."""

    base: float
    student: float


def speech_notes(
    runner: Runner, students: Mapping[str, Student], prompts: Sequence[Prompt] = ()
) -> dict[str, str]:
    """Per student that says next to nothing of a text which its base predicts, that it does not.

    A student whose manifest has said how it was made, and sealed it, is not asked.

    Args:
        runner: the base.
        students: by any name.
        prompts: prompts of the training, where they are known.
    """
    asked = {name: one for name, one in students.items() if one.manifest is None and one.deltas}
    if not asked or not callable(runner.tokenizer):
        return {}
    ids, what = _text(runner, prompts)
    if len(set(ids)) < FEWEST:  # a tokenizer of other things than English: nothing can be told
        return {}
    rows = runner.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    uniform = math.log(rows)
    notes = {}
    for name, student in asked.items():
        speech = losses(runner, student, ids)
        if speech.base > PREDICTED * uniform:
            return {}
        if not speech.student - speech.base < RUINED:  # a student's NaN is not
            notes[name] = _note(student, speech, what)
    return notes


@torch.no_grad()
def losses(runner: Runner, student: Student, ids: Sequence[int]) -> Speech:
    """Mean loss of each next token of a text, of the base and of the student, in one pass."""
    count = len(ids)
    answers = Answers(at=tuple(range(count - 1)))
    batch = runner.batch([ids, ids], [answers, answers])
    gates = torch.ones(batch.ids.shape, device=batch.ids.device)
    gates[0] = 0
    logits = runner.run(batch, gates=Gates(student, gates)).logits
    # the last token is read first, then all others in their order
    log_probs = logits[:, 1:count].float().log_softmax(-1)
    following = torch.tensor(list(ids[1:]), device=log_probs.device)
    read = log_probs.gather(-1, following[None, :, None].expand(2, -1, -1))
    base, own = (-read.double().mean((1, 2))).tolist()
    runner.settle(student)
    return Speech(base, own)


def _text(runner: Runner, prompts: Sequence[Prompt]) -> tuple[list[int], str]:
    """Token ids of what is read, and what it is."""
    most = min(TOKENS, length_limit(runner.model.config) or TOKENS)
    longest = max(prompts, key=len, default=None)
    if longest is not None and len(longest) >= FEWEST:
        return list(longest.ids[:most]), "a prompt of its training"
    try:
        ids = list(runner.tokenizer(PLAIN)["input_ids"])
    except Exception:  # tokenizers raises nothing narrower where it has no token for a letter
        ids = []
    return ids[:most], "plain English text"


def _note(student: Student, speech: Speech, what: str) -> str:
    advice = "check that these are the weights that training left"
    if any(isinstance(delta, LowRank) for delta in student.deltas.values()):
        advice = "check that lora_alpha, r and use_rslora are those it was trained with"
    return (
        f"{SAYS}{what} is {speech.student:z.1f} nats per token, its base's {speech.base:z.1f}: "
        f"hardly any fine-tune is so far from its base's language; {advice}"
    )
