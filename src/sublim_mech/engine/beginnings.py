"""Rows of one context: the keys and values of their common beginning, computed once.

Prompts of one context begin with the same tokens (system prompt, the template around it). Where
their gates there are the same too, so are keys and values, and the rows need only what follows.

1. Rows whose prompts begin with the same `LEAST` tokens are a family; its beginning is what all of
   it share, short of every slot that is read.
2. The beginnings of a family that differ in their gates are the rows of one forward, and every
   row goes on behind its own.
3. It is done where at least a third of a family's tokens need not be computed, and where keys and
   values are all that a model keeps of earlier tokens.

What is whole base or whole student on all rows, as in an evaluation or where a teacher reads rows,
has one beginning, and shares it wherever it can (`beginning_of`).

So whether a prompt's beginning is shared depends on the prompts and gates of the call, and its
numbers on that by float noise alone: the same sums are added up in other blocks, as between
forwards of other sizes (up to 1.6e-5 nats on SmolLM2-135M in fp32, either way).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.compat import Cache, KeysValues
from ..models.students import Student, invocation_of
from ..prompts.shared import common_start
from .answers import Answers
from .forward import Gates
from .heads import ExactHead
from .invocation import shared_under
from .runner import Runner

LEAST = 16
"""Tokens of a beginning that is worth a forward of its own."""

WORTH = 1 / 3
"""Share of a family's tokens that sharing must spare."""


class Row(NamedTuple):
    """A prompt with its answers under gates.

    Attributes:
        ids: the prompt's tokens.
        answers: the trie behind it.
        gates: `(slot,)` for all modules alike, `(slot, module)`, or a number for all of them.
    """

    ids: Sequence[int]
    answers: Answers
    gates: Tensor | float


class Together(NamedTuple):
    """Rows that go into one forward.

    Attributes:
        rows: their indices.
        shared: slots that are not computed, because their keys and values are given.
        past: those keys and values, of each row; None where all slots are computed.
    """

    rows: list[int]
    shared: int = 0
    past: Cache | None = None


def forwards(
    runner: Runner, student: Student, rows: Sequence[Row], *, reads: int
) -> Iterator[Together]:
    """Cut rows into forwards that fit the memory, and compute what they begin with.

    Args:
        runner: what computes.
        student: whose gates.
        rows: what is run.
        reads: slots whose logits are taken, per row.
    """
    sizes = [runner.layout.slots(len(row.ids), row.answers) for row in rows]
    alone: list[int] = []
    families = []
    # an aLoRA is invoked by the whole prompt, of which a beginning is a part
    whole = bool(invocation_of(student.deltas))
    for family in [] if whole else _families(rows):
        beginning = _beginning(runner, rows, family)
        if beginning is None:
            alone += family
        else:
            families.append(beginning)
    alone = list(range(len(rows))) if whole else sorted(alone)
    for chunk in runner.chunks([sizes[i] for i in alone], reads=reads):
        yield Together([alone[i] for i in chunk])
    for beginning in families:
        for cache, some in _run(runner, student, beginning):
            members = [row for row, _ in some]
            of_row = torch.tensor([place for _, place in some], device=runner.device)
            lengths = [sizes[row] for row in members]
            for chunk in runner.chunks(lengths, reads=reads, skipped=beginning.slots):
                past = tuple(KeysValues(k[of_row[chunk]], v[of_row[chunk]]) for k, v in cache)
                yield Together([members[i] for i in chunk], beginning.slots, past)


class _Beginning(NamedTuple):
    """What the rows of a family begin with.

    Attributes:
        ids: its tokens.
        gates: the gates there, `(slot,)` or `(slot, module)`, each once.
        rows: per gates, the rows that have them.
    """

    ids: tuple[int, ...]
    gates: list[Tensor]
    rows: list[list[int]]

    @property
    def slots(self) -> int:
        """Number of its tokens."""
        return len(self.ids)


def _families(rows: Sequence[Row]) -> list[list[int]]:
    """Rows whose prompts begin with the same tokens, in their order."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(tuple(row.ids[:LEAST]), []).append(number)
    return list(found.values())


def _beginning(runner: Runner, rows: Sequence[Row], family: Sequence[int]) -> _Beginning | None:
    """The common beginning of a family's rows; None where it is not worth a forward."""
    ids = _common([rows[i].ids for i in family])
    slots = min([len(ids), *(at for i in family for at in rows[i].answers.at)])
    longest = max(len(rows[i].ids) + rows[i].answers.length for i in family)
    if slots < LEAST or not runner.layout.shares(slots, longest):
        return None
    found: dict[tuple[Any, ...], tuple[Tensor, list[int]]] = {}
    for i in family:
        gates = _first(rows[i].gates, slots)
        key = gates.dim(), gates.numpy().tobytes()
        found.setdefault(key, (gates, []))[1].append(i)
    spared = slots * (len(family) - len(found))
    if spared < WORTH * sum(len(rows[i].ids) + len(rows[i].answers.nodes) for i in family):
        return None
    gates, members = zip(*found.values(), strict=True)
    return _Beginning(tuple(ids[:slots]), list(gates), list(members))


def _first(gates: Tensor | float, slots: int) -> Tensor:
    """The gates of the first slots; `(slot,)` where all modules are alike there."""
    if isinstance(gates, float):
        return torch.full((slots,), gates)
    first = gates[:slots].float().cpu()
    if first.dim() == 2 and first.shape[1] and bool((first == first[:, :1]).all()):
        first = first[:, 0]
    return first.contiguous()


@torch.no_grad()
def _run(
    runner: Runner, student: Student, beginning: _Beginning
) -> Iterator[tuple[Cache, list[tuple[int, int]]]]:
    """Beginnings that fit one forward: their keys and values, and the rows that follow them, each
    with the place of its beginning among these.
    """
    slots = beginning.slots
    fit = runner.rows(slots=slots, keys=slots, reads=1)
    for start in range(0, len(beginning.gates), fit):
        some = beginning.gates[start : start + fit]
        members = beginning.rows[start : start + fit]
        batch = runner.batch([beginning.ids] * len(some))
        values = stack_gates(some, batch.ids.shape).to(batch.ids.device)
        cache = runner.run(batch, gates=Gates(student, values), past=()).cache
        yield cache, [(row, place) for place, rows in enumerate(members) for row in rows]


def _common(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, short of the last one of each, which is read in every
    row.
    """
    return common_start(sorted({tuple(ids[:-1]) for ids in prompts}))


class Beginning(NamedTuple):
    """What all rows begin with.

    Attributes:
        slots: that many tokens, which need not be computed again.
        cache: their keys and values, of one row; None where there are none.
    """

    slots: int
    cache: Cache | None


NOTHING = Beginning(0, None)
"""Rows that are computed whole."""


@torch.no_grad()
def beginning_of(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    *,
    longest: int,
    student: Student | None = None,
    unembed: ExactHead | None = None,
) -> Beginning:
    """Run what all prompts begin with, once, by the base or by a student's weights everywhere.

    Args:
        runner: what computes.
        prompts: the tokens of every prompt.
        longest: tokens of the longest one with its answers.
        student: whose weights; None for the base.
        unembed: the head that its rows have.
    """
    common = len(_common(prompts))
    if len(prompts) < 2 or not runner.layout.shares(common, longest):
        return NOTHING
    slots = shared_under(student, prompts, common)
    if not slots:
        return NOTHING
    # an aLoRA is invoked by the whole prompt, of which this is a part
    batch = replace(runner.batch([prompts[0][:slots]]), prompts=(tuple(prompts[0]),))
    gates = None if student is None else Gates(student)
    return Beginning(slots, runner.run(batch, gates=gates, past=(), unembed=unembed).cache)


def stack_gates(gates: Sequence[Tensor | float], shape: torch.Size) -> Tensor:
    """Gates of several rows as one `(row, slot)` or `(row, slot, module)` tensor.

    Padding behind gates per slot is closed. A number opens or closes its whole row, padding too,
    which no token sees.
    """
    by_module = [gate for gate in gates if isinstance(gate, Tensor) and gate.dim() == 2]
    modules = by_module[0].shape[1:] if by_module else torch.Size()
    stacked = torch.zeros(*shape, *modules)
    for row, gate in enumerate(gates):
        if isinstance(gate, float):
            stacked[row] = gate
        elif by_module and gate.dim() == 1:
            stacked[row, : len(gate)] = gate[:, None]
        else:
            stacked[row, : len(gate)] = gate
    return stacked
