"""What of a model is trained: a low-rank adapter, or its own parameters."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ...arguments import checked
from ...hints import nearest
from ...models.adapters import attach_lora
from ...models.base import Base
from ...models.compat import is_adapter
from ...models.copies import share
from ...models.deltas import walk
from ...models.devices import own_generators
from ...models.placement import check_whole

PARAMETER_GROUPS = ("embeddings", "unembedding", "norms")
"""Groups of parameters that `FullFT(freeze=...)` knows by name."""


@checked
@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al., arXiv 2106.09685) by PEFT.

    Args:
        rank: rank of each update.
        alpha: scale; the update is multiplied by alpha / rank, or alpha / sqrt(rank) with `rslora`.
        targets: `all-linear` (all projections, not the unembedding), names of modules, or one
            regular expression over module paths. Among names, `experts.gate_up_proj` and
            `experts.down_proj` are the stacked matrices of a mixture's experts; whether
            `all-linear` has them too is PEFT's to say, by architecture.
        dropout: dropout on the adapter's input.
        rslora: rank-stabilised scale (Kalajdzievski, arXiv 2312.03732).
        layers: indices of the blocks that get an adapter; None for all.
        dora: weight-decomposed adaptation (Liu et al., arXiv 2402.09353): the norms of the weight's
            columns are trained too.

    Raises:
        TypeError: an unknown option.
        ValueError: a value out of range.

    Example:
        >>> sm.LoRA(rank=4, alpha=8, targets=("q_proj", "v_proj")).rank
        4
    """

    rank: int = 8
    alpha: float = 32
    targets: str | Sequence[str] = "all-linear"
    dropout: float = 0.0
    rslora: bool = False
    layers: Sequence[int] | None = None
    dora: bool = False
    kind: ClassVar[str] = "lora"
    lr: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA(rank={self.rank}): the rank must be at least 1.")
        if not self.alpha > 0:
            raise ValueError(f"LoRA(alpha={self.alpha}): the scale must be above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA(dropout={self.dropout}): must be at least 0 and below 1.")
        if not len(self.targets):
            raise ValueError(
                f"LoRA(targets={self.targets!r}): name at least one module, or pass 'all-linear'."
            )
        if self.layers is not None and not len(self.layers):
            raise ValueError(
                f"LoRA(layers={self.layers!r}): name at least one block, or leave it out for all."
            )
        # a list would not hash, and JSON gives lists back; numbers may be numpy's
        object.__setattr__(self, "rank", int(self.rank))
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(map(int, self.layers)))

    def check(self, base: Base) -> None:
        """Raise ValueError where this method cannot train this base."""
        with own_generators():  # an adapter is initialised from torch's generator
            self.attach(base)

    def notices(self, base: Base) -> list[str]:
        """What has to be told before this base is trained: nothing."""
        return []

    def changes(self, base: Base) -> list[str]:
        """Paths of the modules that get an adapter."""
        with own_generators():  # an adapter is initialised from torch's generator
            model = self.attach(base)
        return [path for path, module in walk(model.get_base_model()) if is_adapter(module)]

    def attach(self, base: Base) -> Any:
        """A trainable PEFT model over the base's parameters."""
        return attach_lora(
            base,
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            dropout=self.dropout,
            rslora=self.rslora,
            layers=self.layers,
            dora=self.dora,
        )


@checked
@dataclass(frozen=True)
class FullFT:
    r"""Full fine-tuning: the model's own parameters train, from fp32 master weights.

    Args:
        freeze: what stays as it is: groups (`embeddings`, `unembedding`, `norms`) or regular
            expressions searched in parameter names (`r"layers\.[01]\."`). Where embedding and
            unembedding are tied, each of the two groups is both.

    Raises:
        TypeError: an unknown option.

    Example:
        >>> sm.FullFT(freeze=("embeddings", r"layers\.0\.")).lr
        2e-05
    """

    freeze: str | Sequence[str] = ()
    kind: ClassVar[str] = "full"
    lr: ClassVar[float] = 2e-5

    def __post_init__(self) -> None:
        entries = (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze)
        object.__setattr__(self, "freeze", entries)

    def check(self, base: Base) -> None:
        """Raise ValueError where this method cannot train this base."""
        self._frozen(base.model)

    def notices(self, base: Base) -> list[str]:
        """What has to be told before this base is trained: that more stays as it is than was named,
        because embeddings and unembedding are one matrix.
        """
        model: Any = base.model
        named = {"embeddings", "unembedding"} & set(self.freeze)
        if len(named) != 1:
            return []
        (own,) = named
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        if getattr(head, "weight", None) is not table.weight:
            return []
        other = "unembedding" if own == "embeddings" else "embeddings"
        return [
            f"FullFT(freeze={self.freeze!r}): embeddings and unembedding of this model are one "
            f"matrix (tied), so that the {other} {'is' if other == 'unembedding' else 'are'} "
            f"frozen with the {own}."
        ]

    def changes(self, base: Base) -> list[str]:
        """Paths of the modules whose parameters train."""
        frozen = {id(p) for p in self._frozen(base.model)}
        return [
            path
            for path, module in walk(base.model)
            if any(id(p) not in frozen for p in module.parameters(recurse=False))
        ]

    def attach(self, base: Base) -> Any:
        """A trainable copy of the base in fp32.

        Raises:
            ValueError: an entry of `freeze` matches nothing, or nothing is left to train.
        """
        check_whole(base.model, base.name)
        model = copy.deepcopy(share(base.model)).float().requires_grad_(True)
        for parameter in self._frozen(model):
            parameter.requires_grad_(False)
        return model

    def _frozen(self, model: Any) -> list[nn.Parameter]:
        """The parameters that stay as they are."""
        frozen = []
        for entry in self.freeze:
            chosen = _parameters(model, entry)
            if not chosen:
                raise ValueError(_matches_nothing(model, entry))
            frozen += chosen
        if {id(p) for p in model.parameters()} <= {id(p) for p in frozen}:
            raise ValueError(f"FullFT(freeze={self.freeze!r}) leaves nothing to train.")
        return frozen


def _parameters(model: Any, entry: str) -> list[nn.Parameter]:
    """The parameters of a group, or those whose names a regular expression finds."""
    if entry == "unembedding":
        return list(model.get_output_embeddings().parameters())
    if entry not in PARAMETER_GROUPS:
        return [p for name, p in model.named_parameters() if re.search(entry, name)]

    chosen: list[nn.Parameter] = []
    for module in model.modules():
        if entry == "norms":
            belongs = "norm" in type(module).__name__.lower()
        else:
            belongs = isinstance(module, nn.Embedding)
        if belongs:
            chosen += module.parameters(recurse=False)
    return chosen


def _matches_nothing(model: Any, entry: str) -> str:
    """Why an entry of `freeze` is refused, with the names that are near it."""
    paths = [name for name, _ in model.named_parameters()]
    names = [*PARAMETER_GROUPS, *{part for path in paths for part in path.split(".")}]
    return (
        f"FullFT(freeze={entry!r}) matches no parameter{nearest(entry, names) or '.'} "
        f"Pass one of {', '.join(PARAMETER_GROUPS)} or a regular expression over names such as "
        f"{paths[0]!r}."
    )
