"""Batches: prompts with their answer tries as rows of one forward.

1. A row holds the prompt's tokens, then the nodes of its answer trie; rows are padded on the right.
2. A 4-d attention mask lets each node see the prompt and its own ancestors; position ids are those
   of its depth.
3. Logits are read at a few slots per row only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.names import attention_windows, within
from ..models.placement import input_device
from .answers import NO_ANSWERS, Answers
from .budget import Shape

Mask = Float[Tensor, "row 1 query key"]
"""An additive attention mask: 0 where a query sees a key, the least number elsewhere."""


LONG = 512
"""Tokens from which on a row without answers is left to the model's own mask: its attention then
leaves out what stands behind a token, half of the scores, where a mask of ours has it multiplied by
0. In shorter rows that is next to nothing."""


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, ready for a forward.

    Attributes:
        ids: token ids.
        positions: position ids; a trie node's is that of its depth. The model's own where None.
        mask: additive attention mask, or one per layer type. The model's own where None: plain rows
            are causal, and padding stands behind them.
        reads: the slots whose logits are needed: the last prompt token, the trie nodes, further
            prompt tokens; where a row has fewer than the others, its last prompt token again.
        sizes: per row, the number of tokens and nodes before padding.
        prompts: per row, the token ids of its whole prompt, also where the batch begins later: by
            them an aLoRA is invoked. Position ids count its tokens.
        causal: whether rows are whole and the mask is what the model makes by itself.
    """

    ids: Int[Tensor, "row slot"]
    positions: Int[Tensor, "row slot"] | None
    mask: Mask | dict[str, Mask] | None
    reads: Int[Tensor, "row read"]
    sizes: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...] = ()
    causal: bool = False

    @property
    def shapes(self) -> list[Shape]:
        """The forwards that compute it."""
        rows, slots = self.ids.shape
        return [Shape(rows, slots, self.reads.shape[1])]

    def expand(self, rows: int) -> Batch:
        """A batch of one row, repeated without copying."""
        return Batch(
            self.ids.expand(rows, -1),
            None if self.positions is None else self.positions.expand(rows, -1),
            self.masks(lambda mask: mask.expand(rows, -1, -1, -1)),
            self.reads.expand(rows, -1),
            self.sizes * rows,
            self.prompts * rows,
            self.causal,
        )

    def after(self, slot: int) -> Batch:
        """The batch from `slot` on, whose queries still see the keys before it; every read slot
        must be among them.
        """
        return Batch(
            self.ids[:, slot:],
            None if self.positions is None else self.positions[:, slot:],
            self.masks(lambda mask: mask[:, :, slot:]),
            self.reads - slot,
            tuple(size - slot for size in self.sizes),
            self.prompts,
        )

    def masks(self, change: Callable[[Tensor], Tensor]) -> Tensor | dict[str, Tensor] | None:
        """The mask, or that of each type of layer, changed; None where the model makes its own."""
        if isinstance(self.mask, dict):
            return {kind: change(mask) for kind, mask in self.mask.items()}
        return None if self.mask is None else change(self.mask)


def make_batch(
    model: Any, ids: Sequence[Sequence[int]], answers: Sequence[Answers] | None = None
) -> Batch:
    """Build a batch on the model's device.

    Args:
        model: a causal language model.
        ids: token ids of each row's prompt.
        answers: the answer trie of each row; none when not given.
    """
    answers = [NO_ANSWERS] * len(ids) if answers is None else answers
    parameter = next(model.parameters())
    device = input_device(model)
    rows = trie_rows(ids, answers, device)
    sees = _sees(ids, answers, rows.ids.shape[1]).to(device)
    positions = rows.positions
    assert positions is not None
    mask = attention_masks(model.config, sees, positions, positions, dtype=parameter.dtype)
    causal = len(set(rows.sizes)) == 1 and not any(trie.nodes for trie in answers)
    return replace(rows, mask=mask, causal=causal and rows.ids.shape[1] >= LONG)


def trie_rows(
    ids: Sequence[Sequence[int]], answers: Sequence[Answers], device: torch.device
) -> Batch:
    """Prompts with their tries as rows, without a mask."""
    sizes = tuple(len(prompt) + len(trie.nodes) for prompt, trie in zip(ids, answers, strict=True))
    rows, width = len(ids), max(sizes)
    tokens = torch.zeros(rows, width, dtype=torch.long)
    positions = torch.zeros(rows, width, dtype=torch.long)
    reads = torch.zeros(rows, max(trie.reads for trie in answers), dtype=torch.long)
    for row, (prompt, trie) in enumerate(zip(ids, answers, strict=True)):
        length, size = len(prompt), sizes[row]
        tokens[row, :size] = torch.tensor([*prompt, *trie.nodes])
        depths = (length - 1 + depth for depth in trie.depths)
        positions[row, :size] = torch.tensor([*range(length), *depths])
        reads[row] = length - 1
        reads[row, : trie.reads] = torch.tensor([*range(length - 1, size), *trie.at])
    prompts = tuple(map(tuple, ids))
    return Batch(tokens.to(device), positions.to(device), None, reads.to(device), sizes, prompts)


def _sees(
    ids: Sequence[Sequence[int]], answers: Sequence[Answers], width: int
) -> Bool[Tensor, "row query key"]:
    """What each slot of tries sees."""
    # padding sees itself, so that no row of the mask is empty
    sees = torch.eye(width, dtype=torch.bool).repeat(len(ids), 1, 1)
    for row, (prompt, trie) in enumerate(zip(ids, answers, strict=True)):
        length, size = len(prompt), len(prompt) + len(trie.nodes)
        # the prompt is causal; a node sees the prompt, itself and whatever its parent sees
        sees[row, :length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
        sees[row, length:size, :length] = True
        for node, parent in enumerate(trie.parents):
            if parent >= 0:
                sees[row, length + node] |= sees[row, length + parent]
    return sees


def attention_masks(
    config: Any,
    sees: Bool[Tensor, "row query key"],
    queries: Int[Tensor, "row query"],
    keys: Int[Tensor, "row key"],
    *,
    dtype: torch.dtype,
) -> Mask | dict[str, Mask]:
    """Additive masks from what each query sees and the positions.

    Sliding-window layers see no further back than their window.

    Args:
        config: the model's configuration.
        sees: what each query may see.
        queries: positions of the queries.
        keys: positions of the keys.
        dtype: of the mask.
    """

    def additive(visible: Tensor) -> Tensor:
        hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        hidden = hidden.masked_fill(~visible, torch.finfo(dtype).min)
        return rearrange(hidden, "row query key -> row 1 query key")

    between = queries[:, :, None], keys[:, None, :]
    masks = {
        kind: additive(sees if window is None else sees & within(window, *between))
        for kind, window in attention_windows(config).items()
    }
    if None in masks:  # a model that takes one mask for all its layers has no type of layer
        return masks[None]
    return {str(kind): mask for kind, mask in masks.items()}
