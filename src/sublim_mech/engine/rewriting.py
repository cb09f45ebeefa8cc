"""Decoding without a cache: every token takes a forward of all that stands before it.

For models whose past is more than keys and values, and for answers that cross a length past which
a model computes otherwise (`layout`). Slower, the same tokens: each is drawn from what the model
gives for exactly the text before it, by the same random numbers as elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.students import Student, invocation_of
from .drawing import Decoding, Request, Row, choose, goes_on, next_token_logits, uniforms
from .forward import Gates
from .runner import Runner


@torch.no_grad()
def rewrite(
    runner: Runner,
    requests: Sequence[Request],
    rows: Sequence[Row],
    how: Decoding,
    student: Student | None,
) -> Iterator[tuple[Row, list[int]]]:
    """Answers, a row each, with the token that ended it.

    Args:
        runner: what computes; under gates, the base.
        requests: the prompts.
        rows: which samples of which.
        how: length, temperature, seed.
        student: whose gates the requests have.

    Raises:
        ValueError: an aLoRA, which is invoked by the prompt and not by what is written behind it.
    """
    if student is not None and invocation_of(student.deltas):
        raise ValueError(
            f"student={student.name!r} is an aLoRA, whose answers this model does not decode: its "
            "layers keep more than keys and values, or the answers cross a length past which it "
            "computes otherwise. Scores and grafts of given answers are exact."
        )
    for start in range(0, len(rows), how.together):
        part = rows[start : start + how.together]
        yield from zip(part, _write(runner, requests, part, how, student), strict=True)


def _write(
    runner: Runner,
    requests: Sequence[Request],
    rows: Sequence[Row],
    how: Decoding,
    student: Student | None,
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in rows]
    asked = [requests[row.prompt] for row in rows]
    draws = None
    if how.temperature:
        draws = torch.stack([uniforms(how, asked[n].ids, row.sample) for n, row in enumerate(rows)])
    alive = torch.arange(len(rows))
    for step in range(how.max_new_tokens):
        # samples of one prompt begin with the same forward
        texts = [(rows[n].prompt, tuple(answers[n])) for n in alive.tolist()]
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        logits = _next_logits(runner, [(requests[p], text) for p, text in distinct], student)
        chosen = torch.empty(len(alive), dtype=torch.long)
        for place, (n, text) in enumerate(zip(alive.tolist(), texts, strict=True)):
            source = torch.tensor([distinct[text]])
            draw = None if draws is None else draws[n : n + 1, step]
            chosen[place] = choose(logits[source], torch.zeros(1).long(), draw, how.temperature)
            answers[n].append(int(chosen[place]))
        alive = alive[goes_on(chosen, [asked[n] for n in alive.tolist()], how)]
        if not len(alive):
            break
    return answers


def _next_logits(
    runner: Runner,
    texts: Sequence[tuple[Request, tuple[int, ...]]],
    student: Student | None,
) -> Float[Tensor, "text vocab"]:
    """Logits behind prompts and the answers written so far."""
    ids = [(*request.ids, *written) for request, written in texts]
    logits: list[Tensor] = [torch.empty(0)] * len(texts)
    for chunk in runner.chunks([len(row) for row in ids], reads=1):
        batch = runner.batch([ids[n] for n in chunk])
        gates = None
        if student is not None and texts[0][0].prompt_gates is not None:
            values = torch.zeros(*batch.ids.shape, student.width)
            for row, n in enumerate(chunk):
                values[row, : len(ids[n])] = _gates(*texts[n])
            gates = Gates(student, values.to(batch.ids.device))
        for n, row in zip(chunk, next_token_logits(runner.run(batch, gates=gates)), strict=True):
            logits[n] = row
    return torch.stack(logits)


def _gates(request: Request, written: tuple[int, ...]) -> Float[Tensor, "token module"]:
    """Gates of a prompt and of the answer written so far."""
    assert request.prompt_gates is not None
    assert request.answer_gates is not None
    return torch.cat([request.prompt_gates, request.answer_gates.expand(len(written), -1)])
