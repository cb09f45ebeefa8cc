"""Branching: exact sweeps that compute only what a change can reach.

A change at layer l and slot t leaves all earlier layers and all earlier slots as they were. So one
finished run (the trunk) is kept with its residual stream before every block and its keys and
values; a changed run (a branch) starts at block l and slot t. Many branches are the rows of one
forward.

That takes a model whose past is its keys and values. Elsewhere, where rows run in parts (`plain`),
branches are whole forwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.compat import KeysValues
from .answers import Answers
from .batch import Batch
from .forward import Edit, Gates, Key, Pass, Start
from .plain import PartedBatch
from .runner import Runner

TOKENS_ON_CPU = 192  # per forward: few enough that a chunk's branches start at nearly the same slot


class Branches(NamedTuple):
    """Branches that go into one forward: the slot they start at, and their indices."""

    slot: int
    indices: list[int]


@dataclass(frozen=True)
class Trunk:
    """A finished run of one prompt.

    Attributes:
        runner: what ran it.
        batch: one row.
        hidden: the residual stream before each block, and before the final norm; empty where
            branches are whole forwards (`plain.PartedBatch`).
        done: the run, with its keys and values.
        first_read: the first read slot; branches start no later.
        gates: under which it ran.
    """

    runner: Runner
    batch: Batch
    hidden: Mapping[int, Float[Tensor, "1 slot d_model"]]
    done: Pass
    first_read: int
    gates: Gates | None = None

    @property
    def size(self) -> int:
        """Number of slots."""
        return self.batch.sizes[0]

    def branch(
        self,
        layer: int,
        slot: int,
        rows: int,
        *,
        gates: Gates | None = None,
        edits: Mapping[Key, Edit] | None = None,
    ) -> Float[Tensor, "row read vocab"]:
        """Run changed rows from a block and a slot on.

        Args:
            layer: the first block that is computed; -1 computes the embeddings too, the number of
                blocks only what follows them.
            slot: the first slot that is computed, at most `first_read`.
            rows: how many.
            gates: their gates at the slots from `slot` on.
            edits: edits of their activations at the slots from `slot` on.
        """
        if isinstance(self.batch, PartedBatch):
            return self._whole(slot, rows, gates, edits or {})
        past = tuple(
            KeysValues(keys[:, :, :slot], values[:, :, :slot]) for keys, values in self.done.cache
        )
        start = None
        if layer >= 0:
            start = Start(layer, self.hidden[layer][:, slot:].expand(rows, -1, -1))
        batch = self.batch.after(slot).expand(rows)
        return self.runner.run(batch, gates=gates, edits=edits, start=start, past=past).logits

    def _whole(
        self, slot: int, rows: int, gates: Gates | None, edits: Mapping[Key, Edit]
    ) -> Float[Tensor, "row read vocab"]:
        """A branch as a whole forward: before its first slot it is the trunk."""
        if gates is not None and isinstance(gates.values, Tensor):
            before = 0.0 if self.gates is None else self.gates.values
            late, shape = gates.values, (rows, slot, *gates.values.shape[2:])
            if isinstance(before, Tensor):
                early = before[:, :slot].expand(shape)
            else:
                early = late.new_full(shape, before)
            gates = replace(gates, values=torch.cat([early, late], 1))
        whole = {key: _behind(slot, edit) for key, edit in edits.items()}
        return self.runner.run(self.batch.expand(rows), gates=gates, edits=whole).logits

    def forwards(self, first_slots: Sequence[int]) -> Iterator[Branches]:
        """Cut branches into forwards that fit the memory budget; branches that start late go
        together.

        Args:
            first_slots: per branch, the first slot it changes.
        """
        order = sorted(range(len(first_slots)), key=first_slots.__getitem__)
        on_cpu = self.batch.ids.device.type == "cpu"
        while order:
            if isinstance(self.batch, PartedBatch):
                slot, computed, tokens = 0, self.batch.computed, None
            else:
                slot = min(first_slots[order[0]], self.first_read)
                computed = self.size - slot
                tokens = TOKENS_ON_CPU if on_cpu else None
            rows = self.runner.rows(
                slots=computed,
                keys=self.size,
                reads=self.batch.reads.shape[1],
                tokens=tokens,
            )
            indices, order = order[:rows], order[rows:]
            yield Branches(slot, indices)


def _behind(slot: int, edit: Edit) -> Edit:
    """An edit of the slots from one on."""
    return lambda hidden: torch.cat([hidden[:, :slot], edit(hidden[:, slot:])], 1)


@torch.no_grad()
def grow(runner: Runner, ids: Sequence[int], answers: Answers, gates: Gates | None) -> Trunk:
    """Run a prompt under whole-row gates (None: the base) and keep what branches need."""
    batch = runner.batch([ids], [answers])
    first_read = int(batch.reads[0].min())
    if isinstance(batch, PartedBatch):
        return Trunk(runner, batch, {}, runner.run(batch, gates=gates), first_read, gates)
    depth = runner.sites.n_layers
    keys: list[Key] = [("resid_pre", layer) for layer in range(depth)]
    keys.append(("resid_post", depth - 1))
    done = runner.run(batch, gates=gates, record=keys, past=())
    hidden = {layer: done.activations[key] for layer, key in enumerate(keys)}
    return Trunk(runner, batch, hidden, done, first_read, gates)
