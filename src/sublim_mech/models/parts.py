"""A module's difference as a sum of parts, each under a gate of its own.

With one gate for all parts this is `f_base(x) + g * (f_student(x) - f_base(x))`, the difference as
`deltas` has it. With a gate per part, the parts add up to that difference:

- `Banded`: bands of singular directions, `x -> b (g * (a x))`: one product of matrices, however
  many bands;
- `Rows`: rows of the weight by attention head, `x -> g * (W x)`;
- `Columns`: its columns by attention head, `x -> W (g * x)`;
- `Several`: the differences of several students.

A bias that differs is a part of its own in the first three: it belongs to no direction and, like
all that is no matrix, to `rest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .deltas import Delta
from .names import Module, PartName
from .sites import spread_gate


class Parts(Protocol):
    """A difference in parts."""

    @property
    def names(self) -> tuple[PartName, ...]:
        """The parts, in the order of their gates."""
        ...

    def gated(
        self,
        place: Module,
        gate: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """The sum of the parts, each times its gate.

        Args:
            place: which module.
            gate: `(row, slot, part)`.
            output: of the base's module.
            args: what that was called with.
            kwargs: likewise, by name.
        """
        ...


@dataclass(frozen=True)
class Banded:
    """A matrix by bands of singular directions.

    Attributes:
        names: the bands; then the part of the bias, where it differs.
        whole: the difference.
        a: leading right singular vectors, `(k, in)`.
        b: leading left singular vectors times their singular values, `(out, k)`.
        of_direction: per direction, the number of its part.
        last: the part that is what `whole` has beside all others; None where `a` and `b` say all.
        bias: what differs of the bias, `(out,)`, whose part is the last one.
    """

    names: tuple[PartName, ...]
    whole: Delta
    a: Tensor
    b: Tensor
    of_direction: Tensor
    last: int | None = None
    bias: Tensor | None = None

    def gated(
        self,
        place: Module,
        gate: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """See `Parts.gated`."""
        x = _input(args, kwargs)
        gate = _per_token(place, gate, x).to(self.a.dtype)
        of_direction = self.of_direction.to(gate.device)
        # most often each direction has a gate of its own, and in their order
        is_own = self.last is None and len(self.names) == len(of_direction)
        each = gate if is_own else gate[..., of_direction]
        latent = F.linear(x.to(self.a), self.a)
        if self.last is None:
            return F.linear(latent * each, self.b).to(output)
        rest = gate[..., self.last, None]
        change = F.linear(latent * (each - rest), self.b).to(output)
        change = change + rest.to(output) * self.whole(output, *args, **kwargs)
        if self.bias is not None:
            change = change + (gate[..., -1:] - rest).to(output) * self.bias.to(output)
        return change


@dataclass(frozen=True)
class Rows:
    """A matrix by its rows, which are outputs of heads.

    Attributes:
        names: the heads; then the part of the bias, where it differs.
        whole: the difference.
        of_row: per output, the number of its part.
        bias: what differs of the bias, `(out,)`, whose part is the last one.
    """

    names: tuple[PartName, ...]
    whole: Delta
    of_row: Tensor
    bias: Tensor | None = None

    def gated(
        self,
        place: Module,
        gate: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """See `Parts.gated`."""
        gate = _per_token(place, gate, output)
        change = self.whole(output, *args, **kwargs)
        each = gate[..., self.of_row.to(gate.device)]
        if self.bias is None:
            return change * each
        bias = self.bias.to(output)
        return (change - bias) * each + gate[..., -1:] * bias


@dataclass(frozen=True)
class Columns:
    """A matrix by its columns, whose inputs are outputs of heads.

    Attributes:
        names: the heads; then the part of the bias, where it differs.
        whole: the difference.
        of_column: per input, the number of its part.
        base: the base's module, which `whole` is a difference from.
        bias: what differs of the bias, `(out,)`, whose part is the last one.
    """

    names: tuple[PartName, ...]
    whole: Delta
    of_column: Tensor
    base: nn.Module
    bias: Tensor | None = None

    def gated(
        self,
        place: Module,
        gate: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """See `Parts.gated`."""
        x = _input(args, kwargs)
        gate = _per_token(place, gate, x)
        x = x * gate[..., self.of_column.to(gate.device)]
        # the module's own forward, past the hooks that gate it
        change = self.whole(self.base.forward(x), x)
        if self.bias is None:
            return change.to(output)
        bias = self.bias.to(output)
        return change.to(output) - bias + gate[..., -1:].to(output) * bias


@dataclass(frozen=True)
class Several:
    """The differences of several students at one module.

    Attributes:
        names: the students.
        deltas: their differences.
    """

    names: tuple[PartName, ...]
    deltas: tuple[Delta, ...]

    def __call__(self, output: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What all students together add to the base module's output on the same input."""
        return sum_of([delta(output, *args, **kwargs) for delta in self.deltas])

    def gated(
        self,
        place: Module,
        gate: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """See `Parts.gated`."""
        changes = []
        for number, delta in enumerate(self.deltas):
            one = gate[..., number]
            if one.requires_grad or bool(one.any()):
                change = delta(output, *args, **kwargs)
                changes.append(spread_gate(place, one, change) * change)
        return sum_of(changes) if changes else torch.zeros_like(output)

    def norm(self) -> float:
        """Sum of the Frobenius norms: an upper bound of that of the sum."""
        return sum(delta.norm() for delta in self.deltas)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a linear module was called with."""
    return args[0] if args else next(iter(kwargs.values()))


def _per_token(place: Module, gate: Tensor, tensor: Tensor) -> Tensor:
    """Gates `(row, slot, part)` with the axes that a module's input or output has before its last,
    in its type.

    Raises:
        ValueError: it has no axis of tokens.
    """
    if tensor.shape[:-1] == gate.shape[:-1]:
        return gate.to(tensor)
    if tensor.dim() == 2 and len(tensor) == gate.shape[0] * gate.shape[1]:
        return gate.flatten(0, 1).to(tensor)  # OPT flattens rows and tokens before its MLP
    raise ValueError(
        f"module {place.path} does not keep a token axis in {tuple(tensor.shape)}; it cannot be "
        "gated in parts."
    )
