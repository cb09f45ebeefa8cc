"""Unembeddings that compute what is needed: the logits of a few tokens, or of all of them in
fp32; and token ids on the way to them: listed tokens, padded rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.placement import device_of, forward_replaced, plain


def support_ids(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Token ids of listed tokens.

    Raises:
        ValueError: one of them is not a single token, or a token is listed twice.
    """
    listed: list[int] = []
    for token in tokens:
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"support token {token!r} is {len(ids)} tokens in this tokenizer; list single "
                "tokens."
            )
        if int(ids[0]) in listed:
            first = tokens[listed.index(int(ids[0]))]
            raise ValueError(
                f"support token {token!r} is the same token as {first!r} before it, whose "
                "probability would count twice; list each once."
            )
        listed.append(int(ids[0]))
    return tuple(listed)


def pad(rows: Sequence[Sequence[int]], multiple: int = 1) -> Int[Tensor, "row slot"]:
    """Token ids padded on the right with 0, to a multiple of slots.

    Under causal attention what stands on the right changes nothing on the left.
    """
    longest = max(map(len, rows))
    width = -(-longest // multiple) * multiple
    padded = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(padded)


def exact_logits(
    head: Any, hidden: Float[Tensor, "*row d"], tokens: Int[Tensor, "token"] | None = None
) -> Float[Tensor, "*row token"]:
    """A linear unembedding in fp32, whatever the weights and also under autocast.

    A KL of 1e-3 would drown in bf16 logits.

    Args:
        head: the unembedding.
        hidden: the residual stream behind the final norm.
        tokens: the tokens whose logits are computed; all when None.
    """
    weight, bias = head.weight, getattr(head, "bias", None)
    if tokens is not None:
        weight = weight[tokens]
    if tokens is not None and bias is not None:
        bias = bias[tokens]
    with torch.autocast(hidden.device.type, enabled=False):
        exact_bias = None if bias is None else bias.float()
        return F.linear(hidden.float(), weight.float(), exact_bias)


class SupportHead(nn.Module):
    """The unembedding on a few rows of its weight; gradients reach the full weight."""

    def __init__(self, head: Any, rows: Sequence[int]) -> None:
        super().__init__()
        self.head = head
        self.rows: torch.Tensor
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(..., d_model)` to logits `(..., support)`."""
        return exact_logits(self.head, hidden, self.rows)


@dataclass(frozen=True)
class ExactHead:
    """What a forward computes in place of the model's own unembedding: fp32 logits.

    Attributes:
        tokens: the tokens whose logits are computed; None for the whole vocabulary.
    """

    tokens: tuple[int, ...] | None = None

    @contextmanager
    def in_place_of(self, head: nn.Module) -> Iterator[None]:
        """The model's unembedding computes this while the context lasts."""
        if self.tokens is None and type(head) is not nn.Linear:
            yield  # an unembedding that is more than a matrix (an adapter on it) has its own way
            return
        tokens, device = None, device_of(head)
        if self.tokens is not None:
            tokens = torch.tensor(self.tokens, device=device)
        # its weights may be kept elsewhere, and its input come from another device
        values = plain(head)
        if values is not head:
            values = values.to(device)

        def exact(hidden: Tensor) -> Tensor:
            return exact_logits(values, hidden.to(device), tokens)

        with forward_replaced(head, exact):
            yield
