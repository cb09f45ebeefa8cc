"""Branching: exact sweeps that compute only what a change can reach.

A change at layer l and slot t leaves all earlier layers and all earlier slots as they were. So one finished run (the trunk) is kept
with its residual stream before every block and its keys and values; a changed run (a branch) starts at block l and slot t. Many
branches are the rows of one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..prompts import Prompt
from .answers import Answers
from .forward import Batch, Cache, Gates, Key, Pass, make_batch
from .pair import ModelPair

TOKENS_ON_CPU = 192  # per forward: few enough that a chunk's branches start at nearly the same slot


@dataclass(frozen=True)
class Trunk:
    """A finished run of one prompt.

    Attributes:
        pair: the models.
        batch: one row.
        hidden: `(1, slot, d_model)` before each block, and before the final norm.
        cache: keys and values.
        done: the run.
        first: the first read slot; branches start no later.
    """

    pair: ModelPair
    batch: Batch
    hidden: Mapping[int, Tensor]
    cache: Cache
    done: Pass
    first: int

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
        edits: Mapping[Key, Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        """Run changed rows from a block and a slot on.

        Args:
            layer: the first block that is computed; -1 computes the embeddings too, the number of blocks only what follows them.
            slot: the first slot that is computed, at most `first`.
            rows: how many.
            gates: their gates at the slots from `slot` on.
            edits: edits of their activations at the slots from `slot` on.

        Returns:
            logits `(row, read, vocab)`.
        """
        past = tuple((keys[:, :, :slot], values[:, :, :slot]) for keys, values in self.cache)
        start = None if layer < 0 else (layer, self.hidden[layer][:, slot:].expand(rows, -1, -1))
        return self.pair.run(self.batch.after(slot).expand(rows), gates=gates, edits=edits, start=start, past=past).logits

    def chunks(self, firsts: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Cut branches into forwards that fit the memory budget.

        Args:
            firsts: per branch, the first slot it changes.

        Yields:
            (slot to start at, indices of the branches); branches that start late go together.
        """
        order = sorted(range(len(firsts)), key=firsts.__getitem__)
        tokens = TOKENS_ON_CPU if self.batch.ids.device.type == "cpu" else None
        while order:
            slot = min(firsts[order[0]], self.first)
            rows = self.pair.rows(slots=self.size - slot, keys=self.size, reads=self.batch.reads.shape[1], tokens=tokens)
            chunk, order = order[:rows], order[rows:]
            yield slot, chunk


def grow(pair: ModelPair, prompt: Prompt, answers: Answers, gates: Gates | None, record: Sequence[Key] = ()) -> Trunk:
    """Run a prompt under whole-row gates (None: the base) and keep what branches need."""
    batch = make_batch(pair.base.model, [prompt], [answers])
    depth = pair.sites.n_layers
    keys = [*(("resid_pre", layer) for layer in range(depth)), ("resid_post", depth - 1)]
    with torch.no_grad():
        done = pair.run(batch, gates=gates, record=[*keys, *record], past=())
    hidden = {layer: done.activations[key] for layer, key in enumerate(keys)}
    return Trunk(pair, batch, hidden, done.cache, done, int(batch.reads[0].min()))
