"""Suffixes of one prompt behind a finished run of it: many of them packed into one row.

Each suffix begins behind another token of the trunk, runs under one gate, and sees the trunk's keys
and values before it and itself, nothing of its neighbours. Packed, none is padded, none computes
anything that the trunk has already, and the matrix products are as large as those of a long prompt.
That takes a model that takes its mask and position ids from us (`layout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.compat import KeysValues
from .branch import Trunk
from .forward import Gates
from .plain import PartedBatch

TOKENS_ON_CPU = 256
"""Of packed suffixes per forward: enough for large products, few enough for short masks."""

TOKENS = 1024
"""The same on an accelerator."""


def packable(trunk: Trunk, start: int) -> bool:
    """Whether what follows from a slot on can be packed: every read slot must be in it."""
    return not isinstance(trunk.batch, PartedBatch) and start <= trunk.first_read


def packs(trunk: Trunk, starts: Sequence[int]) -> Iterator[list[int]]:
    """Cut suffixes into forwards, longest first: lists of indices.

    Args:
        trunk: what they follow.
        starts: per suffix, its first slot.
    """
    most = TOKENS_ON_CPU if trunk.batch.ids.device.type == "cpu" else TOKENS
    pack: list[int] = []
    tokens = 0
    for index in sorted(range(len(starts)), key=starts.__getitem__):
        length = trunk.size - starts[index]
        if pack and tokens + length > most:
            yield pack
            pack, tokens = [], 0
        pack.append(index)
        tokens += length
    if pack:
        yield pack


@torch.no_grad()
def run_suffixes(
    trunk: Trunk, starts: Sequence[int], gates: Gates | None
) -> Float[Tensor, "row read vocab"]:
    """Logits at the read slots of the trunk's row, for each suffix.

    Args:
        trunk: what they follow.
        starts: per suffix, its first slot (`packable`).
        gates: of all suffixes, one number for all slots and modules; None for the base.
    """
    batch, longest = trunk.batch, max(starts)
    slots = torch.cat([torch.arange(start, trunk.size) for start in starts])
    slots = slots.to(batch.ids.device)
    reads, offset = [], 0
    for start in starts:
        reads.append(batch.reads - start + offset)
        offset += trunk.size - start
    positions = None if batch.positions is None else batch.positions[:, slots]
    packed = replace(
        batch,
        ids=batch.ids[:, slots],
        positions=positions,
        mask=batch._masks(lambda mask: _packed(mask, starts)),
        reads=torch.cat(reads, 1),
        sizes=(len(slots),),
    )
    past = tuple(KeysValues(k[:, :, :longest], v[:, :, :longest]) for k, v in trunk.done.cache)
    logits = trunk.runner.run(packed, gates=gates, past=past).logits
    return logits[0].unflatten(0, (len(starts), -1))


def _packed(mask: Float[Tensor, "1 1 slot slot"], starts: Sequence[int]) -> Tensor:
    """The trunk's mask for packed suffixes: queries are theirs, keys the trunk's up to the latest
    start and then theirs.
    """
    size, longest = mask.shape[-1], max(starts)
    queries = sum(size - start for start in starts)
    made = mask.new_full((1, 1, queries, longest + queries), torch.finfo(mask.dtype).min)
    offset = 0
    for start in starts:
        length = size - start
        own = made[:, :, offset : offset + length]
        own[..., :start] = mask[:, :, start:, :start]
        own[..., longest + offset : longest + offset + length] = mask[:, :, start:, start:]
        offset += length
    return made
