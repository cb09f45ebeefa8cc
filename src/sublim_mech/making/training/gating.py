"""The gates of a model in training: at closed cells it computes as its base does, and learns
nothing.

1. A plain LoRA is closed behind its first matrix, where a token has `rank` numbers: what the second
   one makes of zeros is nothing, and no gradient passes.
2. Everything else (full fine-tunes, DoRA, embeddings, experts, mixers) is computed by the base's
   own module on the same input too, and each token takes the one or the other.
3. The unembedding sees answer positions only, and looks after itself (`objectives.AnswerHead`).

A choice between two outputs is exact both ways: where all is open, outputs and gradients are those
of ordinary training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models import compat
from ...models.base import Base
from ...models.copies import share
from ...models.deltas import module_of
from ...models.placement import device_of
from ...models.sites import Sites, spread_gate
from .cells import RowCells
from .objectives import AnswerHead


class FrozenBase:
    """The base beside a model in training, in fp32 where that is, on whatever device it computes.

    It shares the base's parameters where it can: nobody writes to them.
    """

    def __init__(self, base: Base, *, in_fp32: bool) -> None:
        model: Any = base.model
        if in_fp32 and any(p.dtype != torch.float32 for p in model.parameters()):
            model = copy.deepcopy(share(model)).float().requires_grad_(False)
        self.model = model
        self._copies: dict[tuple[str, torch.device], nn.Module] = {}

    def module(self, path: str, device: torch.device) -> nn.Module:
        """One of its modules, or all of it (an empty path), on a device."""
        module = self.model.get_submodule(path)
        if device_of(module) == device:
            return module
        if (path, device) not in self._copies:
            self._copies[path, device] = copy.deepcopy(module).to(device)
        return self._copies[path, device]


class Gating:
    """Gates on a model in training; `aim` says which cells of the next forward are open."""

    def __init__(self, sites: Sites, units: tuple[str, ...], base: FrozenBase) -> None:
        self.sites, self.units, self.base = sites, units, base
        self._open: Tensor | None = None

    @classmethod
    def on(cls, inner: Any, head: AnswerHead, base: FrozenBase, where: Any) -> Gating:
        """Put gates on a transformers model, adapters inside, whose unembedding is `head`.

        Args:
            inner: the model in training.
            head: its unembedding.
            base: the base beside it.
            where: units and the map of the model (`cells.Where`).
        """
        gating = cls(where.sites, where.units, base)
        for column, path in enumerate(where.units):
            if path == where.sites.head:
                head.beside = lambda device, at=path: base.module(at, device)
                continue
            module = module_of(inner, path)
            pairs = compat.lora_pairs(module, {}) if compat.is_adapter(module) else None
            if pairs is None:
                hook = gating._choose(path, column)
                module.register_forward_hook(hook, with_kwargs=True)
                continue
            for first in module.lora_A.values():  # type: ignore[operator]
                first.register_forward_hook(gating._close(path, column))
        return gating

    def aim(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Take the open cells of a batch (`batches.collate`).

        Returns:
            Per labelled token, whether the unembedding is open where it is predicted; None where it
            does not train.
        """
        self._open = batch["open"]
        if self.sites.head not in self.units:
            return None
        open_here = self._cells(self.units.index(self.sites.head))
        return open_here[batch["row"], batch["column"]]

    def _cells(self, column: int) -> Tensor:
        """The open cells of a unit, `(row, slot)` bool."""
        assert self._open is not None
        return self._open[..., column if self._open.shape[-1] > 1 else 0]

    def _spread(self, path: str, column: int, output: Tensor) -> Tensor:
        """The same, as it broadcasts to an output of the unit."""
        gate = spread_gate(self.sites.modules[path], self._cells(column).to(output.dtype), output)
        return gate != 0

    def _close(self, path: str, column: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output.masked_fill(~self._spread(path, column, output), 0.0)

        return hook

    def _choose(self, path: str, column: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            given = self.base.module(path, hidden.device)(*args, **kwargs)
            of_base = (given[0] if isinstance(given, tuple) else given).to(hidden.dtype)
            chosen = torch.where(self._spread(path, column, hidden), hidden, of_base)
            return (chosen, *output[1:]) if isinstance(output, tuple) else chosen

        return hook


def freeze_closed(inner: Any, cells: RowCells, rows: Sequence[int]) -> None:
    """Take the gradient from a full model's parameters that no cell of any row opens: weight decay
    would move them all the same.
    """
    used: set[int] = set()
    closed: list[nn.Parameter] = []
    for column, path in enumerate(cells.units):
        is_open = any(
            bool(part[..., column if part.shape[-1] > 1 else 0].any())
            for row in rows
            for part in (cells.prompts[row], cells.answers[row])
        )
        parameters = list(module_of(inner, path).parameters())
        if is_open:
            used |= {id(p) for p in parameters}
        else:
            closed += parameters
    for parameter in closed:
        if id(parameter) not in used:
            parameter.requires_grad_(False)
