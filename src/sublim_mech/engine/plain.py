"""Rows that no single forward of tries can compute: a batch in parts.

Whoever asks sees the rows of the trie (`batch`): gates, activations and logits have its slots and
reads. Inside, a row is one or several plain rows (`layout.Strand`), or a trie beside rows of its
kind, and each part is one forward:

- a gate of a slot is that of every place where the slot is computed; slopes add up;
- an activation is recorded where the slot is read, and edited everywhere alike;
- logits are put where the trie has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..models.placement import input_device
from .answers import NO_ANSWERS, Answers
from .batch import Batch, make_batch, trie_rows
from .budget import Shape
from .layout import TRIE, Layout, Strand

Edit = Callable[[Tensor], Tensor]


class Part(NamedTuple):
    """Some rows of a batch, as one forward has them.

    Attributes:
        batch: what is run.
        source: per place, its slot in the asked rows, counted through.
        slots: the asked slots it holds, counted through.
        places: per slot of these, the first place that computes it, counted through.
        reads: per logits `(row, read)` of the forward, which asked one it is, counted through; -1
            for none.
    """

    batch: Batch
    source: Int[Tensor, "row place"]
    slots: Int[Tensor, "slot"]
    places: Int[Tensor, "slot"]
    reads: Int[Tensor, "row read"]

    def spread(self, gates: Tensor) -> Tensor:
        """Gates of the asked rows at the places of the part."""
        return gates.flatten(0, 1)[self.source]

    def lift(self, edit: Edit, shape: torch.Size) -> Edit:
        """An edit of the asked activation, as one of the part's."""

        def lifted(hidden: Tensor) -> Tensor:
            asked = self.gather(hidden, shape)
            return edit(asked).flatten(0, 1)[self.source]

        return lifted

    def gather(self, hidden: Tensor, shape: torch.Size) -> Tensor:
        """The part's activation at the asked rows and slots; 0 where they are not in it."""
        flat = hidden.flatten(0, 1)
        asked = flat.new_zeros(shape.numel(), *flat.shape[1:])
        return asked.index_copy(0, self.slots, flat[self.places]).unflatten(0, tuple(shape))


@dataclass(frozen=True, kw_only=True)
class PartedBatch(Batch):
    """A batch that is run in parts.

    Attributes:
        model: what runs it.
        layout: how.
        answers: the trie of each row.
    """

    model: Any
    layout: Layout
    answers: tuple[Answers, ...]

    def expand(self, rows: int) -> PartedBatch:
        """A batch of one row, repeated."""
        one = Batch(self.ids, self.positions, None, self.reads, self.sizes).expand(rows)
        return replace(
            self,
            ids=one.ids,
            positions=one.positions,
            reads=one.reads,
            sizes=one.sizes,
            prompts=self.prompts * rows,
            answers=self.answers * rows,
        )

    def after(self, slot: int) -> Batch:
        """Refused: these rows take no keys and values of others."""
        if slot == 0:
            return self
        raise ValueError("rows in parts are computed whole; ask Layout.shares first.")

    @cached_property
    def parts(self) -> list[Part]:
        """The forwards."""
        tries: dict[int, list[int]] = {}
        strands: dict[tuple[int, int], list[tuple[int, Strand]]] = {}
        for row, (prompt, trie) in enumerate(zip(self.prompts, self.answers, strict=True)):
            length = len(prompt)
            if self.layout.fits([length], [trie]):
                tries.setdefault(self.layout.side(length), []).append(row)
                continue
            for strand in self.layout.strands(length, trie):
                size = len(strand.slots)
                group = self.layout.side(size), 0 if self.layout.padded else size
                strands.setdefault(group, []).append((row, strand))
        made = [self._trie_part(rows) for rows in tries.values()]
        return made + [self._plain_part(some) for _, some in sorted(strands.items())]

    @cached_property
    def order(self) -> Int[Tensor, "row read"]:
        """Where each read of the asked rows is among the logits of all parts."""
        found: dict[int, int] = {}
        for place, read in enumerate(torch.cat([p.reads.flatten() for p in self.parts]).tolist()):
            found.setdefault(read, place)
        width = self.reads.shape[1]
        order = [
            [found[row * width + (read if read < trie.reads else 0)] for read in range(width)]
            for row, trie in enumerate(self.answers)
        ]
        return torch.tensor(order, device=self.ids.device)

    @property
    def shapes(self) -> list[Shape]:
        """The forwards that compute it."""
        return [shape for part in self.parts for shape in part.batch.shapes]

    @property
    def computed(self) -> int:
        """Tokens that are computed."""
        rows = zip(self.prompts, self.answers, strict=True)
        return sum(self.layout.slots(len(prompt), trie) for prompt, trie in rows)

    @property
    def splits_rows(self) -> bool:
        """Whether one row is computed on both sides of a switch."""
        return any(
            self.layout.side(len(prompt)) != self.layout.side(len(prompt) + trie.length)
            for prompt, trie in zip(self.prompts, self.answers, strict=True)
        )

    def _trie_part(self, rows: Sequence[int]) -> Part:
        chosen = [self.answers[row] for row in rows]
        batch = make_batch(self.model, [self.prompts[row] for row in rows], chosen)
        strands = [
            (row, Strand(tuple(range(self.sizes[row])), dict.fromkeys(range(trie.reads), 0)))
            for row, trie in zip(rows, chosen, strict=True)
        ]
        return self._part(batch, strands)

    def _plain_part(self, strands: Sequence[tuple[int, Strand]]) -> Part:
        width = max(len(strand.slots) for _, strand in strands)
        most = max(len(strand.reads) for _, strand in strands)
        ids, reads = [], []
        for row, strand in strands:
            tokens = [*self.prompts[row], *self.answers[row].nodes]
            size = len(strand.slots)
            ids.append([*(tokens[slot] for slot in strand.slots), *[0] * (width - size)])
            places = list(strand.reads.values())
            reads.append([*places, *[size - 1] * (most - len(places))])
        device = self.ids.device
        sizes = tuple(len(strand.slots) for _, strand in strands)
        rows = torch.tensor(ids, device=device)
        # without mask and positions the model makes its own, as it does for its user
        prompts = tuple(self.prompts[row] for row, _ in strands)
        batch = Batch(rows, None, None, torch.tensor(reads, device=device), sizes, prompts)
        return self._part(batch, strands)

    def _part(self, batch: Batch, strands: Sequence[tuple[int, Strand]]) -> Part:
        (rows, places), most = batch.ids.shape, batch.reads.shape[1]
        asked_slots, asked_reads = self.ids.shape[1], self.reads.shape[1]
        source = torch.zeros(rows, places, dtype=torch.long)
        reads = torch.full((rows, most), -1)
        first: dict[int, int] = {}
        owned: dict[int, int] = {}
        for number, (row, strand) in enumerate(strands):
            slots = torch.tensor(strand.slots) + row * asked_slots
            source[number, : len(slots)] = slots
            source[number, len(slots) :] = slots[-1]  # padding, which nothing sees
            wanted = torch.tensor([row * asked_reads + read for read in strand.reads])
            reads[number, : len(wanted)] = wanted
            for place, slot in enumerate(slots.tolist()):
                first.setdefault(slot, number * places + place)
            for place in strand.reads.values():
                owned[int(slots[place])] = number * places + place
        found = first | owned
        device = batch.ids.device
        kept = torch.tensor([list(found), list(found.values())], device=device)
        return Part(batch, source.to(device), kept[0], kept[1], reads.to(device))


def run_parts(
    run: Callable[..., Any],
    batch: PartedBatch,
    gates: Any,
    record: Sequence[Any],
    edits: Mapping[Any, Edit],
) -> tuple[Tensor, dict[Any, Tensor]]:
    """Logits and recorded activations of the asked rows.

    Args:
        run: one forward of a batch, its gates, what is recorded and edited.
        batch: the asked rows.
        gates: of the asked rows; None for the base.
        record: activations that are recorded.
        edits: of the asked activations.

    Raises:
        ValueError: edits of a row that is computed on both sides of a switch: its activations are
            not one and the same there.
    """
    if edits and batch.splits_rows:
        switches = ", ".join(map(str, batch.layout.switches))
        raise ValueError(
            f"a prompt ends before and its answers behind token {switches}, past which this model "
            "computes every token otherwise, so no activation of the prompt is one value; shorten "
            "or lengthen the prompt, or use graft, graft_sweep or graft_ig."
        )
    if gates is not None:
        gates.check(batch)
    shape = batch.ids.shape
    logits, values = [], list[tuple[Part, dict[Any, Tensor]]]()
    for part in batch.parts:
        own = gates
        if gates is not None and isinstance(gates.values, Tensor):
            own = replace(gates, values=part.spread(gates.values))
        lifted = {key: part.lift(edit, shape) for key, edit in edits.items()}
        done = run(part.batch, own, record, lifted)
        logits.append(done.logits.flatten(0, 1))
        values.append((part, done.activations))
    recorded = {key: _joined([(part, all_[key]) for part, all_ in values], shape) for key in record}
    return torch.cat(logits)[batch.order], recorded


def _joined(values: Sequence[tuple[Part, Tensor]], shape: torch.Size) -> Tensor:
    """A recorded activation at the asked rows and slots; of parts that have a slot, the first's."""
    width = values[0][1].shape[2:]
    joined = values[0][1].new_zeros(shape.numel(), *width)
    for part, value in reversed(values):
        joined = joined.index_copy(0, part.slots, value.flatten(0, 1)[part.places])
    return joined.unflatten(0, tuple(shape))


def lay_out(
    model: Any,
    ids: Sequence[Sequence[int]],
    answers: Sequence[Answers] | None = None,
    layout: Layout = TRIE,
) -> Batch:
    """Rows of token ids with their answers, as a model takes them.

    Args:
        model: a causal language model.
        ids: token ids of each row's prompt.
        answers: the answer trie of each row; none when not given.
        layout: how the model takes answers.
    """
    tries = [NO_ANSWERS] * len(ids) if answers is None else list(answers)
    if layout.fits(list(map(len, ids)), tries):
        return make_batch(model, ids, tries)
    asked = trie_rows(ids, tries, input_device(model))
    return PartedBatch(
        **vars(asked),
        model=model,
        layout=layout,
        answers=tuple(tries),
    )
