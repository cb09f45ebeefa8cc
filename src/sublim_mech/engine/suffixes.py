"""Suffixes: a row that one model begins and another one ends, for every boundary between them.

Two finished runs of one row are kept, each with its keys and values and its logits. Up to a
boundary a row is then the first run as it stands; only what follows has to be computed, by the
second model, on the first one's keys and values.

1. Suffixes of all lengths are packed: a row of a forward holds several of them behind each other,
   each of which sees the kept slots before its own boundary and itself. So a forward is full, and
   no slot is computed that a suffix does not need.
2. A suffix is computed under one model alone, so its gates are those of that model's whole row.
3. Logits that are read before a boundary are the first run's own.

That takes a model whose past is its keys and values. Elsewhere, where rows run in parts (`plain`),
every boundary is a whole forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.compat import Cache, KeysValues
from .answers import Answers
from .batch import Batch
from .beginnings import stack_gates
from .forward import Gates
from .plain import PartedBatch
from .runner import Runner

SHARED = 384
"""Slots of a row that may hold several suffixes: each of them looks at all of its row's keys."""


@dataclass(frozen=True)
class Kept:
    """A finished run of one row.

    Attributes:
        runner: what ran it.
        batch: the row.
        gates: under which it ran.
        logits: at the read slots.
        cache: its keys and values; empty where rows run in parts.
    """

    runner: Runner
    batch: Batch
    gates: Gates
    logits: Float[Tensor, "1 read vocab"]
    cache: Cache

    @property
    def size(self) -> int:
        """Number of slots."""
        return self.batch.sizes[0]


class Suffixes(NamedTuple):
    """Boundaries that were computed in one forward.

    Attributes:
        indices: which.
        logits: of each, those of the whole row.
    """

    indices: list[int]
    logits: Float[Tensor, "boundary read vocab"]


@torch.no_grad()
def keep(
    runner: Runner, ids: Sequence[int], answers: Answers, gates: Sequence[Gates]
) -> list[Kept]:
    """Run one row under each of several gates of a student.

    Args:
        runner: what runs it.
        ids: the prompt's tokens.
        answers: the trie behind it.
        gates: each of one whole row.
    """
    batch = runner.batch([ids], [answers])
    in_parts = isinstance(batch, PartedBatch)
    slots = batch.computed if isinstance(batch, PartedBatch) else batch.sizes[0]
    fit = runner.rows(slots=slots, reads=batch.reads.shape[1])
    kept = []
    for first in range(0, len(gates), fit):
        some = gates[first : first + fit]
        rows = batch.expand(len(some))
        values = stack_gates([_row(one) for one in some], rows.ids.shape).to(rows.ids.device)
        past = None if in_parts else ()
        done = runner.run(rows, gates=Gates(some[0].student, values), past=past)
        for row, own in enumerate(some):
            one = slice(row, row + 1)
            cache = tuple(KeysValues(keys[one], values[one]) for keys, values in done.cache)
            kept.append(Kept(runner, batch, own, done.logits[one], cache))
    return kept


def follow(before: Kept, after: Kept, starts: Sequence[int]) -> Iterator[Suffixes]:
    """The row under one's gates up to a boundary and under the other's from it on.

    Args:
        before: computes what stands before the boundary.
        after: computes what follows it; of the same row and student.
        starts: per boundary, the first slot behind it.
    """
    if isinstance(before.batch, PartedBatch):
        yield from _whole(before, after, starts)
        return
    last_read = int(before.batch.reads[0].max())
    done = [i for i, start in enumerate(starts) if start > last_read]
    if done:  # nothing that is read follows
        yield Suffixes(done, before.logits.expand(len(done), -1, -1))
    waiting = [i for i, start in enumerate(starts) if start <= last_read]
    waiting.sort(key=starts.__getitem__)
    if not waiting:
        return
    # the longest beside the shortest, and so on: then every row that is shared is full
    width = min(SHARED, 2 * before.size - starts[waiting[0]] - starts[waiting[-1]])
    while waiting:
        rows, waiting = _fill(before, starts, waiting, width)
        packed = _pack(before, starts, rows)
        yield Suffixes([i for row in rows for i in row], packed.run(before, after))


def _fill(
    before: Kept, starts: Sequence[int], waiting: Sequence[int], width: int
) -> tuple[list[list[int]], list[int]]:
    """The rows of the next forward, and what is left: each suffix goes into the first row that has
    room for it, the longest first.

    Args:
        before: the kept run.
        starts: per boundary, the first slot behind it.
        waiting: the boundaries, the longest suffix first.
        width: of a row with several suffixes; a longer one has a row for itself.
    """
    longest, reads = before.size - starts[waiting[0]], before.batch.reads.shape[1]
    if longest <= width:
        fit = before.runner.rows(slots=width, keys=before.size + width, reads=2 * reads)
    else:
        fit = before.runner.rows(slots=longest, keys=before.size, reads=reads)
    rows: list[list[int]] = []
    room: list[int] = []
    left = []
    for i in waiting:
        length = before.size - starts[i]
        into = next((row for row, free in enumerate(room) if free >= length), None)
        if into is not None:
            rows[into].append(i)
            room[into] -= length
        elif len(rows) < fit:
            rows.append([i])
            room.append(width - length)
        else:
            left.append(i)
    return rows, left


class _Packed(NamedTuple):
    """Rows of suffixes.

    Attributes:
        batch: the rows, behind `past` slots of the kept run.
        past: how many of its slots they see.
        slots: per place, which slot of the whole row it is.
        reads: per suffix, which of the whole row's reads it computes, in which row, and the first
            of them there.
    """

    batch: Batch
    past: int
    slots: Tensor
    reads: list[tuple[list[int], int, int]]

    @torch.no_grad()
    def run(self, before: Kept, after: Kept) -> Tensor:
        """Logits of each suffix at the reads of the whole row, in the order of the rows."""
        gates = after.gates
        if isinstance(gates.values, Tensor):
            gates = replace(gates, values=gates.values[0][self.slots])
        past = tuple(
            KeysValues(keys[:, :, : self.past], values[:, :, : self.past])
            for keys, values in before.cache
        )
        computed = before.runner.run(self.batch, gates=gates, past=past).logits
        logits = before.logits.repeat(len(self.reads), 1, 1)
        for suffix, (own, row, first) in enumerate(self.reads):
            logits[suffix, own] = computed[row, first : first + len(own)]
        return logits


def _pack(before: Kept, starts: Sequence[int], rows: Sequence[Sequence[int]]) -> _Packed:
    """Rows of suffixes behind what the kept run has of the slots before them."""
    whole, size = before.batch, before.size
    width = max(sum(size - starts[i] for i in row) for row in rows)
    slots = torch.zeros(len(rows), width, dtype=torch.long)
    begins = torch.zeros_like(slots)
    # padding sees itself alone, so that no row of the mask is empty
    owner = (-1 - torch.arange(width)).repeat(len(rows), 1)
    asked = whole.reads[0].tolist()
    places: list[list[int]] = []
    reads = []
    for number, row in enumerate(rows):
        place = 0
        places.append([])
        for i in row:
            start, length = starts[i], size - starts[i]
            here = number, slice(place, place + length)
            slots[here] = torch.arange(start, size)
            begins[here], owner[here] = start, i
            own = [read for read, slot in enumerate(asked) if slot >= start]
            reads.append((own, number, len(places[-1])))
            places[-1] += [place + asked[read] - start for read in own]
            place += length
    most = max(map(len, places))
    device = whole.ids.device
    slots, begins, owner = slots.to(device), begins.to(device), owner.to(device)
    past = max(starts[i] for row in rows for i in row)
    assert whole.positions is not None
    kept = torch.arange(past, device=device) < begins[..., None]
    own_slots = owner[:, :, None] == owner[:, None, :]

    def mask(of_whole: Tensor) -> Tensor:
        by_slot, hidden = of_whole[0, 0], torch.finfo(of_whole.dtype).min
        earlier = by_slot[:, :past][slots].masked_fill(~kept, hidden)
        own = by_slot[slots[:, :, None], slots[:, None, :]].masked_fill(~own_slots, hidden)
        return torch.cat([earlier, own], -1)[:, None]

    batch = Batch(
        whole.ids[0][slots],
        whole.positions[0][slots],
        whole.masks(mask),
        torch.tensor([[*row, *[0] * (most - len(row))] for row in places], device=device),
        tuple(sum(size - starts[i] for i in row) for row in rows),
        whole.prompts * len(rows),
    )
    return _Packed(batch, past, slots, reads)


@torch.no_grad()
def _whole(before: Kept, after: Kept, starts: Sequence[int]) -> Iterator[Suffixes]:
    """Every boundary as a whole forward."""
    runner, batch = before.runner, before.batch
    assert isinstance(batch, PartedBatch)
    gates = [_row(before.gates), _row(after.gates)]
    sides = stack_gates(gates, batch.expand(2).ids.shape).to(batch.ids.device)
    slots = torch.arange(before.size, device=batch.ids.device)
    slots = slots if sides.dim() == 2 else slots[:, None]
    fit = runner.rows(slots=batch.computed, keys=before.size, reads=batch.reads.shape[1])
    for first in range(0, len(starts), fit):
        some = list(range(first, min(first + fit, len(starts))))
        values = torch.stack([torch.where(slots < starts[i], sides[0], sides[1]) for i in some])
        rows = batch.expand(len(some))
        logits = runner.run(rows, gates=replace(after.gates, values=values)).logits
        yield Suffixes(some, logits)


def _row(gates: Gates) -> Tensor | float:
    """The gates of a whole row, without the axis of rows."""
    return gates.values if isinstance(gates.values, float) else gates.values[0]
