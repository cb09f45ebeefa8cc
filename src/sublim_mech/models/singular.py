"""A module's weight change in its singular basis.

1. Of a low-rank pair from thin QR of its two factors and an SVD between them, rank x rank: the
   change itself, `(out, in)`, is never formed.
2. Of a linear module that a student replaces from an SVD of the difference of the weights, with
   adapters merged (DoRA and its like).
3. What is no matrix (norms, biases, embeddings, stacks of experts, parts that are replaced whole)
   has no singular basis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ..hints import kind_of
from . import compat
from .deltas import Delta, LowRank, Replaced, Whole
from .quantised import is_quantised
from .sites import holds_transposed


class Singular(NamedTuple):
    """A matrix as `u @ diag(s) @ v`.

    Attributes:
        u: left singular vectors, in its columns.
        s: singular values, largest first.
        v: right singular vectors, in its rows.
    """

    u: Float64[Tensor, "out k"]
    s: Float64[Tensor, " k"]
    v: Float64[Tensor, "k in"]


def is_matrix(delta: Delta, base_module: nn.Module) -> bool:
    """Whether a difference is that of a matrix a module multiplies with: a low-rank pair, or a
    linear module (`nn.Linear`, GPT-2's `Conv1D`) that is replaced.
    """
    if isinstance(delta, LowRank):
        return True
    if isinstance(delta, Whole) or not isinstance(delta, Replaced) or is_quantised(base_module):
        return False
    return isinstance(base_module, nn.Linear) or holds_transposed(base_module)


def singular(delta: Delta, base_module: nn.Module) -> Singular:
    """The singular basis of a weight change, in fp64 on the CPU.

    Args:
        delta: a student's difference at a module.
        base_module: the base's module there, with its weights in memory (`placement.plain`).

    Returns:
        As many singular values as the change has at most: the smallest of its rank, rows and
        columns. What it does to a bias is not part of it.

    Raises:
        ValueError: the difference is none of a matrix (`is_matrix`).

    Example:
        >>> from sublim_mech.models.singular import singular
        >>> path = "model.layers.0.mlp.up_proj"
        >>> u, s, v = singular(pair.delta[path], pair.model.get_submodule(path))
        >>> round(float(s.square().sum().sqrt() / pair.delta[path].norm()), 5)
        1.0
    """
    if isinstance(delta, LowRank):
        left, inner_left = torch.linalg.qr(delta.b.detach().cpu().double())
        right, inner_right = torch.linalg.qr(delta.a.detach().cpu().double().T)
        u, s, v = torch.linalg.svd(delta.scale * inner_left @ inner_right.T, full_matrices=False)
        return Singular(left @ u, s, v @ right.T)
    return Singular(*torch.linalg.svd(weight_change(delta, base_module), full_matrices=False))


def weight_change(delta: Delta, base_module: nn.Module) -> Float64[Tensor, "out in"]:
    """The change of a module's weight, `(out, in)` however the module holds it, in fp64 on the CPU.

    Args:
        delta: a student's difference at a module.
        base_module: the base's module there.

    Raises:
        ValueError: the difference is none of a matrix (`is_matrix`).
    """
    if not is_matrix(delta, base_module):
        raise ValueError(
            f"a difference of {kind_of(base_module)} is no difference of a matrix; ask "
            "is_matrix first."
        )
    if isinstance(delta, LowRank):
        return delta.scale * delta.b.detach().cpu().double() @ delta.a.detach().cpu().double()
    base: Any = base_module
    change = _double(merged(delta).weight) - _double(base.weight)
    return change.T.contiguous() if holds_transposed(base_module) else change


def bias_change(delta: Delta, base_module: nn.Module) -> Float64[Tensor, " out"] | None:
    """The change of a linear module's bias, in fp64 on the CPU; None where there is none."""
    if isinstance(delta, LowRank) or not is_matrix(delta, base_module):
        return None
    old: Any = getattr(base_module, "bias", None)
    new = getattr(merged(delta), "bias", None)
    if new is None:
        return None if old is None or not bool(old.any()) else -_double(old)
    change = _double(new) if old is None else _double(new) - _double(old)
    return change if bool(change.any()) else None


def merged(delta: Replaced) -> Any:
    """The module of a replaced one, with PEFT's adapters merged into a copy of it in fp32."""
    inside = compat.innermost(delta.module)
    return inside if inside is delta.module else compat.merged_copy(delta.module)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
