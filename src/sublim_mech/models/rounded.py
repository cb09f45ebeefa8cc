"""Two students that are one in all but rounding: stored once in half precision, or merged.

1. How far they are apart is the Frobenius norm of the difference of their changes, module by
   module: of low-rank pairs from Gram matrices, without forming the change.
2. They are one where that is next to nothing of the change, or where the weights of one, rounded to
   a stored type, are those of the other: of a full checkpoint that may be a large part of a small
   change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .deltas import Delta, LowRank, Replaced, Whole, square_distance
from .hashing import pieces
from .plausible import STORED, rounded
from .singular import bias_change, is_matrix, merged, weight_change
from .students import Student

NOTHING = 0.01
"""Part of the change below which a difference of two students is rounding: bfloat16 makes 0.003 of
a low-rank pair, and two trainings on other rows far more.
"""


def one_but_for_rounding(base: nn.Module, one: Student, other: Student) -> str:
    """In which way two students of a base are one, in words; empty where they are not, or change
    nothing.

    Args:
        base: the base's model, with its weights in memory (`placement.plain`).
        one: a student.
        other: another one.
    """
    if not (one.norm and other.norm) or (one.gates is None) != (other.gates is None):
        return ""
    stored = _stored_as(base, one.deltas, other.deltas)
    if stored:
        return f"the weights of one are those of the other, rounded to {stored}"
    if _taught_otherwise(one, other):
        return ""
    largest = NOTHING * min(one.norm, other.norm)
    if abs(one.norm - other.norm) > largest:  # they cannot be nearer than that
        return ""
    apart = _distance(base, one.deltas, other.deltas, largest)
    if apart > largest:
        return ""
    return f"their changes differ by {apart / one.norm:.2g} of their norm, which is rounding"


def _taught_otherwise(one: Student, other: Student) -> bool:
    """Whether manifests say that two students were trained on other data: these may be as good as
    the same, and yet what their changes differ by was learnt.
    """
    if one.manifest is None or other.manifest is None:
        return False
    here, there = (manifest.data.get("hash") for manifest in (one.manifest, other.manifest))
    return bool(here and there) and here != there


# ------------------------------------------------------------------------------------- the distance


def _distance(
    base: nn.Module, one: Mapping[str, Delta], other: Mapping[str, Delta], largest: float
) -> float:
    """Frobenius norm of the difference of two changes; infinite where it is beyond the largest."""
    square = 0.0
    for path in {**one, **other}:
        square += _square(base.get_submodule(path), one.get(path), other.get(path))
        if square > largest**2:
            return math.inf
    return math.sqrt(square)


def _square(module: nn.Module, one: Delta | None, other: Delta | None) -> float:
    """Squared distance of two differences at a module; infinite where they cannot be compared."""
    if one is None or other is None:
        alone = one or other
        assert alone is not None
        return alone.norm() ** 2
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return math.inf if one.invocation != other.invocation else _square_of_pairs(one, other)
    if isinstance(one, Replaced) and isinstance(other, Replaced):
        here, there = _weights(module, one), _weights(module, other)
        alike = here.keys() == there.keys()
        return square_distance(here, there) if alike else math.inf
    if not (is_matrix(one, module) and is_matrix(other, module)):
        return math.inf
    square = float((weight_change(one, module) - weight_change(other, module)).square().sum())
    biases = [bias_change(delta, module) for delta in (one, other)]
    return square + sum(float(bias.square().sum()) for bias in biases if bias is not None)


def _square_of_pairs(one: LowRank, other: LowRank) -> float:
    a = torch.cat([delta.a.detach().cpu().double() for delta in (one, other)])
    b = [delta.scale * delta.b.detach().cpu().double() for delta in (one, other)]
    both = torch.cat([b[0], -b[1]], dim=1)
    return max(float(((both.T @ both) * (a @ a.T)).sum()), 0.0)


# --------------------------------------------------------------------------------- the stored types


def _stored_as(base: nn.Module, one: Mapping[str, Delta], other: Mapping[str, Delta]) -> str:
    """The type to which all weights of one are rounded in the other; empty where none is."""
    for dtype in STORED:
        for fine, coarse in ((one, other), (other, one)):
            if all(
                _is_rounded(base.get_submodule(path), fine.get(path), coarse.get(path), dtype)
                for path in {**fine, **coarse}
            ):
                return str(dtype).removeprefix("torch.")
    return ""


def _is_rounded(
    module: nn.Module, fine: Delta | None, coarse: Delta | None, dtype: torch.dtype
) -> bool:
    """Whether what a student has at a module is what another one has there, rounded to a type."""
    if isinstance(fine, LowRank) and isinstance(coarse, LowRank):
        same = (fine.scale, fine.invocation) == (coarse.scale, coarse.invocation)
        pairs = (fine.a, coarse.a), (fine.b, coarse.b)
        return same and all(_is_of(old, new, dtype) for old, new in pairs)
    if isinstance(fine, LowRank) or isinstance(coarse, LowRank):
        return False
    here, there = _weights(module, fine), _weights(module, coarse)
    if here.keys() != there.keys():
        return False
    return all(_is_of(here[key], there[key], dtype) for key in here)


def _is_of(fine: Tensor, coarse: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is another one, rounded to a type."""
    if fine.shape != coarse.shape or fine.dtype != coarse.dtype:
        return False
    return all(
        torch.equal(rounded(old, dtype), new)
        for old, new in zip(pieces(fine), pieces(coarse), strict=True)
    )


def _weights(module: nn.Module, delta: Replaced | None) -> dict[str, Tensor]:
    """The weights a student has at a module: the base's own where it differs in none."""
    if delta is None:
        return dict(module.named_parameters(recurse=False))
    if isinstance(delta, Whole):
        return dict(delta.module.named_parameters())
    return dict(merged(delta).named_parameters(recurse=False))
