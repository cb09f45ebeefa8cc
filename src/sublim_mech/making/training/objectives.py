"""Losses on answer tokens, and an unembedding that is computed only where one is taken.

Per answer token, with student logits z, student q = softmax(z) and teacher p over the same outcomes:

- `cross-entropy`: -log q(the answer's token)
- `forward-kl`: KL(p || q) = sum p (log p - log q), Hinton et al. (arXiv 1503.02531)
- `reverse-kl`: KL(q || p) = sum q (log q - log p), Gu et al. (arXiv 2306.08543)
- `logit-mse`: mean over the tokens of (z - t)^2, both centred on their mean over the tokens: softmax ignores a common constant, and
  so labels may be given as log-probabilities t.

The outcomes are the whole vocabulary, the tokens of a support (p and q renormalised over these), or the k tokens of a top-k label
and "any other token" as one more outcome. The loss of a step is the mean over all its answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.heads import SupportHead, exact_logits
from ...hints import check_choice
from .data import TrainingData

OBJECTIVES = ("cross-entropy", "forward-kl", "reverse-kl", "logit-mse")
WORDS = {"cross-entropy": "cross-entropy", "forward-kl": "forward KL", "reverse-kl": "reverse KL", "logit-mse": "logit MSE"}


def choose_objective(objective: str | None, data: TrainingData) -> str:
    """The objective, by default the one that fits the labels.

    Raises:
        ValueError: unknown, or not one for these labels.
    """
    hard = data.targets is None
    if objective is None:
        return "cross-entropy" if hard else "forward-kl"
    check_choice("objective", objective, OBJECTIVES)
    if hard != (objective == "cross-entropy"):
        has, fits = ("hard rows", "cross-entropy") if hard else ("soft labels", ", ".join(OBJECTIVES[1:]))
        raise ValueError(f"objective={objective!r} does not fit data with {has}; pass one of {fits}, or other data.")
    return objective


def token_losses(objective: str, logits: Tensor, goal: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Loss per answer token.

    Args:
        objective: one of `OBJECTIVES`.
        logits: student logits `(token, outcome)`, over the vocabulary or the support.
        goal: index of the right outcome `(token,)` for `cross-entropy`, else log-probabilities `(token, outcome)`.
        tokens: token ids `(token, k)` of top-k labels; `goal` is then `(token, k)`.
    """
    if objective == "cross-entropy":
        return F.cross_entropy(logits, goal, reduction="none")
    if objective == "logit-mse":
        gap = (logits if tokens is None else logits.gather(-1, tokens)) - goal
        return (gap - gap.mean(-1, keepdim=True)).square().mean(-1)
    log_q = logits.log_softmax(-1)
    if tokens is not None and tokens.shape[-1] == logits.shape[-1]:  # there are no others
        log_q = log_q.gather(-1, tokens)
    elif tokens is not None:
        others = logits.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
        log_q = torch.cat([log_q.gather(-1, tokens), others], -1)
        rest = (1 - goal.double().exp().sum(-1, keepdim=True)).clamp_min(1e-7).log()
        goal = torch.cat([goal, rest.to(goal.dtype)], -1)
    first, second = (goal, log_q) if objective == "forward-kl" else (log_q, goal)
    return (first.exp() * (first - second)).sum(-1)


class AnswerHead(nn.Module):
    """The unembedding where a loss is taken, and there on the supported tokens only.

    It stands in the model in the unembedding's place, so that whatever wraps the model (adapters, data parallelism) stays as it is;
    `aim` says where the next forward looks.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self._where: tuple[Tensor, Tensor] | None = None
        self._support: tuple[int, ...] | None = None
        self._exact = False
        self._parts: dict[tuple[int, ...], SupportHead] = {}  # a plain dict: their parameters are the head's own

    def aim(self, row: Tensor, column: Tensor, support: tuple[int, ...] | None, *, exact: bool) -> None:
        """Look at these places; `exact`: in fp32 also under autocast (a KL of 1e-3 would drown in bf16 logits)."""
        self._where, self._support, self._exact = (row, column), support, exact

    def forward(self, x: Tensor) -> Tensor:
        """`(row, column, d_model)` to logits `(token, outcome)`."""
        assert self._where is not None
        x = x[self._where]
        plain = type(self.head) is nn.Linear
        if self._support is not None and plain:
            if self._support not in self._parts:
                part = self._parts[self._support] = SupportHead(self.head, self._support)
                part.rows = part.rows.to(x.device)
            return self._parts[self._support](x)
        if self._exact and plain:
            logits = exact_logits(self.head, x)
        else:
            with torch.autocast(x.device.type, enabled=False) if self._exact else nullcontext():
                logits = self.head(x)
        return logits if self._support is None else logits[:, list(self._support)]  # an adapter on the head: it has no rows


def answer_losses(
    model: nn.Module, head: AnswerHead, batch: Mapping[str, Tensor], objective: str, support: tuple[int, ...] | None
) -> Tensor:
    """Loss per labelled token of a batch (`data.collate`), `(token,)`."""
    head.aim(batch["row"], batch["column"], support, exact=objective != "cross-entropy")
    logits = model(input_ids=batch["ids"], use_cache=False).logits.float()
    return token_losses(objective, logits, batch["goal"], batch.get("tokens"))
