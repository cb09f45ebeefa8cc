"""An unembedding that computes the logits of a few tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

DIGITS = (*"0123456789", ",")


def support_ids(tokenizer: Any, tokens: Sequence[str] = DIGITS) -> tuple[int, ...]:
    """Token ids of listed tokens.

    Raises:
        ValueError: one of them is not a single token.
    """
    out = []
    for token in tokens:
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"support token {token!r} is {len(ids)} tokens in this tokenizer; list single tokens.")
        out.append(int(ids[0]))
    return tuple(out)


def pad(rows: Sequence[Sequence[int]], multiple: int = 1) -> torch.Tensor:
    """Token ids padded on the right with 0. Under causal attention what stands on the right changes nothing on the left."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[*r, *[0] * (width - len(r))] for r in rows])


def exact_logits(head: Any, x: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """A linear unembedding in fp32, whatever the weights and also under autocast: a KL of 1e-3 would drown in bf16 logits.

    Args:
        head: the unembedding.
        x: `(..., d_model)`.
        rows: the tokens whose logits are computed; all when None.
    """
    weight, bias = head.weight, getattr(head, "bias", None)
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float())


class SupportHead(nn.Module):
    """The unembedding on a few rows of its weight; gradients reach the full weight."""

    def __init__(self, head: Any, rows: Sequence[int]) -> None:
        super().__init__()
        self.head = head
        self.rows: torch.Tensor
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(..., d_model)` to logits `(..., support)`."""
        return exact_logits(self.head, x, self.rows)
