"""Decoding: continuing many prompts in many samples at once, by the base, a student, or a graft of
both.

1. The tokens that all prompts begin with (under the same gates) run once; each prompt runs once for
   all its samples, from there.
2. The (prompt, sample) rows decode together: each has its prompt's keys and values, padded between
   the common beginning and the rest to the longest, with explicit positions and masks. Rows that
   ended leave the batch.
3. A token is drawn at a number of its own (`drawing`), so that an answer depends neither on the
   batch nor on what else is asked.
4. Where a past is more than keys and values, or they change with the length, every token takes a
   forward of all before it (`rewriting`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.compat import Cache, KeysValues
from ..models.students import Student
from ..prompts.shared import common_start
from .batch import Batch, attention_masks
from .drawing import (
    Decoding,
    Ids,
    Request,
    Row,
    choose,
    goes_on,
    next_token_logits,
    uniforms,
)
from .forward import Gates, Pass
from .invocation import shared_under
from .rewriting import rewrite
from .runner import Runner


class _Started(NamedTuple):
    """Prompts that ran, one row each.

    Attributes:
        logits: of the next token.
        cache: keys and values.
        positions: of each slot, -1 where it is padding.
    """

    logits: Float[Tensor, "prompt vocab"]
    cache: Cache
    positions: Int[Tensor, "prompt slot"]


@torch.no_grad()
def decode(
    runner: Runner,
    requests: Sequence[Request],
    how: Decoding,
    *,
    student: Student | None = None,
) -> list[list[list[int]]]:
    """Answers to prompts.

    A prompt that is requested twice gets further samples, not the same ones.

    Args:
        runner: what computes; under gates, the base.
        requests: the prompts.
        how: length, number, temperature, seed.
        student: whose gates the requests have.

    Returns:
        Per request and sample, the answer's token ids with the one that ended it.

    Raises:
        ValueError: logits that are not finite.
    """
    # like lengths together; equal requests are one prompt with more samples
    places: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault(request.key, []).append(index)
    indices = sorted(places.values(), key=lambda same: len(requests[same[0]].ids))
    distinct = [requests[same[0]] for same in indices]

    answers: list[list[list[int]]] = [[] for _ in requests]
    for some in _alike(runner, distinct, how):
        together = [distinct[number] for number in some]
        written = _write(runner, together, [len(indices[number]) for number in some], how, student)
        for row, ids in written:
            same = indices[some[row.prompt]]
            answers[same[row.sample // how.samples]].append(ids)
    runner.settle(*([] if student is None else [student]))
    return answers


def _alike(runner: Runner, requests: Sequence[Request], how: Decoding) -> list[list[int]]:
    """Requests that decode in the same way, as lists of their indices: those that end on one side
    of a model's switches, and those that cross one (`layout`).
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for number, request in enumerate(requests):
        ends = len(request.ids), len(request.ids) + how.max_new_tokens
        sides = runner.layout.side(ends[0]), runner.layout.side(ends[1])
        groups.setdefault(sides, []).append(number)
    return list(groups.values())


def _write(
    runner: Runner,
    requests: Sequence[Request],
    times: Sequence[int],
    how: Decoding,
    student: Student | None,
) -> Iterator[tuple[Row, list[int]]]:
    """Answers of requests that decode in the same way, each so many times."""
    first, last = len(requests[0].ids), len(requests[-1].ids) + how.max_new_tokens
    if not runner.layout.shares(first, last):
        rows = [
            Row(prompt, sample)
            for prompt, count in enumerate(times)
            for sample in range(how.samples * count)
        ]
        yield from rewrite(runner, requests, rows, how, student)
        return
    shared = shared_under(student, [one.ids for one in requests], _shared_length(requests))
    if not runner.layout.shares(shared, last):
        shared = 0
    writer = _Writer(runner, how, student, shared)
    trunk = writer.run_trunk(requests[0])
    prompts_together = max(1, how.together // how.samples)
    for start in range(0, len(requests), prompts_together):
        group = requests[start : start + prompts_together]
        started = writer.run_prompts(group, trunk)
        rows = [
            Row(prompt, sample)
            for prompt, count in enumerate(times[start : start + prompts_together])
            for sample in range(how.samples * count)
        ]
        for part in writer.parts(rows, started):
            written = writer.write(group, started, part)
            for row, ids in zip(part, written, strict=True):
                yield Row(start + row.prompt, row.sample), ids


def _shared_length(requests: Sequence[Request]) -> int:
    """How many tokens all prompts begin with, under the same gates; the last token of each prompt
    is left to it.
    """
    if len(requests) < 2:
        return 0
    length = len(common_start([request.ids[:-1] for request in requests]))
    first = requests[0].prompt_gates
    for request in requests[1:]:
        if first is None or request.prompt_gates is None:
            continue
        alike = (first[:length] == request.prompt_gates[:length]).all(1)
        length = int(alike.long().cumprod(0).sum())
    return length


@dataclass(frozen=True)
class _Writer:
    """The forwards of one call of `decode`.

    Attributes:
        runner, how, student: as given.
        shared: number of tokens that all prompts begin with.
    """

    runner: Runner
    how: Decoding
    student: Student | None
    shared: int

    def run_trunk(self, request: Request) -> Cache:
        """Keys and values of the common beginning."""
        if not self.shared:
            return ()
        ids = torch.tensor([request.ids[: self.shared]])
        gates = None
        if request.prompt_gates is not None:
            gates = request.prompt_gates[None, : self.shared]
        return self._run([request], ids, torch.arange(self.shared)[None], (), gates).cache

    def run_prompts(self, requests: Sequence[Request], trunk: Cache) -> _Started:
        """Run prompts behind their common beginning, as many at a time as fit the memory."""
        width = max(len(request.ids) for request in requests)
        fit = self.runner.rows(slots=width - self.shared, keys=width, reads=1)
        passes, positions = [], []
        for start in range(0, len(requests), fit):
            some = requests[start : start + fit]
            padded = [_pad_middle(request.ids, self.shared, width, 0) for request in some]
            places = [
                _pad_middle(tuple(range(len(request.ids))), self.shared, width, -1)
                for request in some
            ]
            ids = torch.tensor(padded)[:, self.shared :]
            positions.append(torch.tensor(places))
            gates = self._prompt_gates(some, width)
            passes.append(self._run(some, ids, positions[-1], trunk, gates))
        layers = zip(*(done.cache for done in passes), strict=True)
        cache = tuple(
            KeysValues(*(torch.cat(parts) for parts in zip(*layer, strict=True)))
            for layer in layers
        )
        logits = torch.cat([next_token_logits(done) for done in passes])
        return _Started(logits, cache, torch.cat(positions))

    def parts(self, rows: Sequence[Row], started: _Started) -> Iterator[Sequence[Row]]:
        """Cut rows into as many as decode together."""
        keys = started.positions.shape[1] + self.how.max_new_tokens
        fit = min(self.how.together, self.runner.rows(slots=1, keys=keys, reads=1))
        for start in range(0, len(rows), fit):
            yield rows[start : start + fit]

    def write(
        self, requests: Sequence[Request], started: _Started, rows: Sequence[Row]
    ) -> list[list[int]]:
        """Continue started prompts until each row ended or is as long as it may be."""
        how = self.how
        answers: list[list[int]] = [[] for _ in rows]
        draws = None
        if how.temperature:
            numbers = [uniforms(how, requests[row.prompt].ids, row.sample) for row in rows]
            draws = torch.stack(numbers)
        gates = self._answer_gates([requests[row.prompt] for row in rows])

        # `alive` are the rows still written, `sources` the rows of logits and cache that they
        # continue
        alive = torch.arange(len(rows))
        sources = torch.tensor([row.prompt for row in rows])
        logits, cache, positions = started
        next_position = positions.amax(1)[sources] + 1
        positions = positions[sources]
        for step in range(how.max_new_tokens):
            step_draws = None if draws is None else draws[alive, step]
            chosen = choose(logits, sources, step_draws, how.temperature)
            for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                answers[row].append(token)
            asked = [requests[rows[row].prompt] for row in alive.tolist()]
            going = goes_on(chosen, asked, how)
            if step + 1 == how.max_new_tokens or not bool(going.any()):
                break

            # rows that ended leave; at the first step each row gets a copy of its prompt's keys and
            # values
            alive, sources, chosen = alive[going], sources[going], chosen[going]
            places = (next_position[alive] + step)[:, None]
            positions = torch.cat([positions[going], places], 1)
            if step == 0 or not bool(going.all()):
                cache = tuple(
                    KeysValues(*(kept[sources.to(kept.device)] for kept in layer))
                    for layer in cache
                )
            sources = torch.arange(len(alive))
            row_gates = None if gates is None else gates[alive]
            asked = [requests[rows[row].prompt] for row in alive.tolist()]
            done = self._run(asked, chosen[:, None], positions, cache, row_gates)
            logits, cache = next_token_logits(done), done.cache
        return answers

    def _run(
        self,
        requests: Sequence[Request],
        ids: Int[Tensor, "row slot"],
        positions: Int[Tensor, "row key"],
        past: Cache,
        gates: Float[Tensor, "row slot module"] | None,
    ) -> Pass:
        """One forward of these requests' rows behind keys and values of one row or of as many; the
        positions are those of both.
        """
        device = self.runner.device
        batch = _batch(self.runner.model, ids.to(device), positions.to(device))
        batch = replace(batch, prompts=tuple(request.ids for request in requests))
        if gates is None or self.student is None:
            return self.runner.run(batch, past=past)
        return self.runner.run(batch, gates=Gates(self.student, gates.to(device)), past=past)

    def _prompt_gates(self, requests: Sequence[Request], width: int) -> Tensor | None:
        """Gates of the slots behind the common beginning, `(prompt, slot, module)`; padding is
        closed.
        """
        if requests[0].prompt_gates is None:
            return None
        rows = []
        for request in requests:
            assert request.prompt_gates is not None
            own = request.prompt_gates[self.shared :]
            padding = own.new_zeros(width - len(request.ids), own.shape[1])
            rows.append(torch.cat([padding, own]))
        return torch.stack(rows)

    def _answer_gates(self, requests: Sequence[Request]) -> Tensor | None:
        """Gates of generated tokens, `(row, 1, module)`."""
        gates = [request.answer_gates for request in requests]
        if gates[0] is None:
            return None
        return torch.stack([gate for gate in gates if gate is not None])[:, None]


# ------------------------------------------------------------------------------------------- pieces


def _pad_middle(row: Ids, shared: int, width: int, filling: int) -> list[int]:
    """Padding between the common beginning and the rest, so that all rows end together."""
    return [*row[:shared], *[filling] * (width - len(row)), *row[shared:]]


def _batch(model: Any, ids: Int[Tensor, "row slot"], positions: Int[Tensor, "row key"]) -> Batch:
    """Slots that stand behind keys and values; each sees what has no later position and is no
    padding.
    """
    rows, slots = ids.shape
    queries = positions[:, -slots:]
    sees = (positions[:, None, :] >= 0) & (positions[:, None, :] <= queries[:, :, None])
    # padding sees itself, so that no row of the mask is empty
    order = torch.arange(positions.shape[1], device=ids.device)
    sees |= order[None, :] == order[-slots:, None]
    dtype = next(model.parameters()).dtype
    mask = attention_masks(model.config, sees, queries, positions, dtype=dtype)
    last = torch.full((rows, 1), slots - 1, device=ids.device)
    return Batch(ids, queries.clamp(min=0), mask, last, (slots,) * rows)
