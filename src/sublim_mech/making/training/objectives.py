"""Losses on answer tokens, and an unembedding that is computed only where one is taken.

Per answer token, with student logits z, q = softmax(z) and teacher p over the same outcomes:

- `cross-entropy`: -log q(the answer's token)
- `forward-kl`: KL(p || q) = sum p (log p - log q), Hinton et al. (arXiv 1503.02531)
- `reverse-kl`: KL(q || p) = sum q (log q - log p), Gu et al. (arXiv 2306.08543)
- `logit-mse`: mean over the tokens of (z - t)^2, both centred on their mean over the tokens:
  softmax ignores a common constant, and so labels may be given as log-probabilities t.

The outcomes are the whole vocabulary, the tokens of a support (p and q renormalised over these), or
the k tokens of a top-k label and "any other token" as one more outcome. The loss of a step is the
mean over all its answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.heads import SupportHead, exact_logits
from ...hints import check_choice
from .data import TrainingData

OBJECTIVES = ("cross-entropy", "forward-kl", "reverse-kl", "logit-mse")
"""What `train(objective=)` takes."""

OBJECTIVE_WORDS = {
    "cross-entropy": "cross-entropy",
    "forward-kl": "forward KL",
    "reverse-kl": "reverse KL",
    "logit-mse": "logit MSE",
}
"""How manifests call the objectives."""


def choose_objective(objective: str | None, data: TrainingData) -> str:
    """The objective, by default the one that fits the labels.

    Raises:
        ValueError: unknown, or not one for these labels.
    """
    hard = data.label_kind == "hard"
    if objective is None:
        return "cross-entropy" if hard else "forward-kl"
    check_choice("objective", objective, OBJECTIVES)
    if hard != (objective == "cross-entropy"):
        labels = "hard rows" if hard else "soft labels"
        fitting = "cross-entropy" if hard else ", ".join(OBJECTIVES[1:])
        raise ValueError(
            f"objective={objective!r} does not fit data with {labels}; "
            f"pass one of {fitting}, or other data."
        )
    return objective


def token_losses(
    objective: str, logits: Tensor, goal: Tensor, tokens: Tensor | None = None
) -> Tensor:
    """Loss per answer token.

    Args:
        objective: one of `OBJECTIVES`.
        logits: student logits `(token, outcome)`, over the vocabulary or the support.
        goal: index of the right outcome `(token,)` for `cross-entropy`, else log-probabilities
            `(token, outcome)`.
        tokens: token ids `(token, k)` of top-k labels; `goal` is then `(token, k)`.

    Returns:
        `(token,)` losses in nats; of `logit-mse` in squared logits.
    """
    if objective == "cross-entropy":
        return F.cross_entropy(logits, goal, reduction="none")
    if objective == "logit-mse":
        chosen = logits if tokens is None else logits.gather(-1, tokens)
        gap = chosen - goal
        return (gap - gap.mean(-1, keepdim=True)).square().mean(-1)

    log_q, log_p = logits.log_softmax(-1), goal
    if tokens is not None:
        listed = log_q.gather(-1, tokens)  # (token, k)
        if tokens.shape[-1] == logits.shape[-1]:  # there are no others
            log_q = listed
        else:
            log_q = torch.cat([listed, _log_others(logits, tokens)], -1)  # (token, k + 1)
            log_p = torch.cat([goal, _log_rest(goal)], -1)
    first, second = (log_p, log_q) if objective == "forward-kl" else (log_q, log_p)
    return (first.exp() * (first - second)).sum(-1)


def _log_others(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability `(token, 1)` of all tokens that are not listed, from logits."""
    others = logits.scatter(-1, tokens, -torch.inf)
    return others.logsumexp(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)


def _log_rest(listed: Tensor) -> Tensor:
    """What is left `(token, 1)` for all other tokens beside listed log-probabilities."""
    rest = 1 - listed.double().exp().sum(-1, keepdim=True)
    return rest.clamp_min(1e-7).log().to(listed.dtype)


class AnswerHead(nn.Module):
    """The unembedding where a loss is taken, and there on the supported tokens only.

    It stands in the model in the unembedding's place, so that whatever wraps the model (adapters,
    data parallelism) stays as it is; `aim` says where the next forward looks.

    Attributes:
        beside: the base's unembedding by device, where this one is closed at some tokens.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self._places: tuple[Tensor, Tensor] | None = None
        self._support: tuple[int, ...] | None = None
        self._exact = False
        self._open: Tensor | None = None
        self.beside: Callable[[torch.device], nn.Module] | None = None
        # a plain dict, because the parameters of these are the head's own
        self._of_support: dict[tuple[int, tuple[int, ...]], SupportHead] = {}

    def aim(
        self,
        row: Tensor,
        column: Tensor,
        support: tuple[int, ...] | None,
        *,
        exact: bool,
        is_open: Tensor | None = None,
    ) -> None:
        """Look at these places.

        Args:
            row: `(token,)` in which rows of the batch.
            column: `(token,)` at which positions there.
            support: token ids whose logits are wanted; None for all.
            exact: in fp32 also under autocast (a KL of 1e-3 would drown in bf16 logits).
            is_open: `(token,)`, at which of them it is the student's; all when None.
        """
        self._places, self._support, self._exact = (row, column), support, exact
        self._open = is_open

    @property
    def weight(self) -> Tensor:
        """The unembedding's own, whose dtype some models (Mamba) ask for."""
        return self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        """`(row, column, d_model)` to logits `(token, outcome)`."""
        assert self._places is not None
        x = x[self._places]  # (token, d_model)
        logits = self._logits(self.head, x)
        if self._open is None or self.beside is None:
            return logits
        of_base = self._logits(self.beside(x.device), x)
        return torch.where(self._open[:, None], logits, of_base.to(logits.dtype))

    def _logits(self, head: Any, x: Tensor) -> Tensor:
        """`(token, d_model)` to `(token, outcome)`, by the student's unembedding or the base's."""
        plain = type(head) is nn.Linear
        if plain and self._support is not None:
            return self._support_head(head, self._support, x.device)(x)

        if plain and self._exact:
            logits = exact_logits(head, x)
        else:
            with torch.autocast(x.device.type, enabled=False) if self._exact else nullcontext():
                logits = head(x)
        if self._support is None:
            return logits
        return logits[:, list(self._support)]  # an adapter on the head: it has no rows to choose

    def _support_head(
        self, head: nn.Module, support: tuple[int, ...], device: torch.device
    ) -> SupportHead:
        """A head's rows of a support, made once."""
        key = id(head), support
        if key not in self._of_support:
            part = self._of_support[key] = SupportHead(head, support)
            part.rows = part.rows.to(device)
        return self._of_support[key]


def answer_losses(
    model: nn.Module,
    head: AnswerHead,
    batch: Mapping[str, Tensor],
    objective: str,
    support: tuple[int, ...] | None,
    is_open: Tensor | None = None,
) -> Tensor:
    """Loss per labelled token of a batch (`batches.collate`), `(token,)`.

    `is_open` says at which of them the unembedding is the student's (`AnswerHead.aim`).
    """
    exact = objective != "cross-entropy"
    head.aim(batch["row"], batch["column"], support, exact=exact, is_open=is_open)
    logits = model(input_ids=batch["ids"], use_cache=False).logits.float()
    return token_losses(objective, logits, batch["goal"], batch.get("tokens"))
