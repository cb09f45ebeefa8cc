"""The singular values of a student's weight changes, module by module.

1. A low-rank pair's come from its factors (`singular`): the change itself is never formed.
2. A matrix that a student replaces is decomposed exactly where its smaller side is not above
   `How.exact`; an embedding is one too, `(d_model, token)`.
3. A larger one by randomised SVD (Halko, Martinsson and Tropp 2011, arXiv 0909.4061), seeded. What
   the singular values it finds leave out is measured on the change itself.
4. All else (norms, biases, experts, mixers with state) has no singular values; its norm is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ..hints import kind_of
from .compat import innermost
from .deltas import Delta, LowRank, Replaced, Whole, square_distance
from .experts import find_experts
from .placement import plain
from .quantised import is_quantised, square_norm
from .singular import Singular, bias_change, is_matrix, merged, singular, weight_change
from .sites import holds_transposed

EXACT = 1024
"""Smaller side of a replaced matrix up to which it is decomposed exactly."""

FOUND = 64
"""Singular values that are found of a larger one."""

_EXTRA = 10  # columns of the sketch beyond the values that are wanted
_POWER = 2  # times the sketch is multiplied with the matrix and its transpose
_PIECE = 1 << 24  # numbers of a residual that are computed at once


@dataclass(frozen=True)
class How:
    """How weight changes are decomposed.

    Attributes:
        exact: largest smaller side of a replaced matrix that is decomposed exactly.
        found: singular values of a larger one.
        seed: of randomised SVD.

    Raises:
        ValueError: a size below 1.
    """

    exact: int = EXACT
    found: int = FOUND
    seed: int = 0

    def __post_init__(self) -> None:
        if self.exact < 1:
            raise ValueError(
                f"exact={self.exact}: the largest side decomposed exactly must be at least 1."
            )


class Decomposed(NamedTuple):
    """A weight change in its singular basis.

    Attributes:
        basis: its singular vectors and values.
        norm: Frobenius norm of the whole change.
        residual: Frobenius norm of what the basis leaves out; 0 where it is whole.
        method: `factors`, `exact` or `randomised`.
        rounding: what rounding of the weights alone may make a singular value of their difference;
            0 of factors, whose product is never rounded.
    """

    basis: Singular
    norm: float
    residual: float
    method: str
    rounding: float = 0.0

    @property
    def floor(self) -> float:
        """A singular value up to here is rounding: that of this decomposition, in fp64, or that of
        the weights.
        """
        sides = len(self.basis.u), self.basis.v.shape[1]
        own = float(self.basis.s[0]) * max(sides) * torch.finfo(torch.float64).eps
        return max(own, self.rounding)

    @property
    def known(self) -> int:
        """How many singular values are above rounding, of those that were found."""
        return int((self.basis.s > self.floor).sum())


class Left(NamedTuple):
    """A change that has no singular values.

    Attributes:
        path: the module's path, and the parameter's behind it where the rest has a basis.
        module: the module's path.
        norm: Frobenius norm of the change.
        base: Frobenius norm of the base's parameters that it changes.
        why: what it is, in words.
    """

    path: str
    module: str
    norm: float
    base: float
    why: str


def has_basis(delta: Delta, base_module: nn.Module) -> bool:
    """Whether a difference is that of a matrix, an embedding's included."""
    return is_matrix(delta, base_module) or _is_embedding(delta, base_module)


def decompose(delta: Delta, base_module: nn.Module, how: How) -> Decomposed:
    """A module's weight change in its singular basis, in fp64 on the CPU.

    Args:
        delta: a student's difference at a module.
        base_module: the base's module there.
        how: up to which size exactly, and how many values of larger ones.

    Raises:
        ValueError: it is no matrix (`has_basis`).
    """
    if isinstance(delta, LowRank):
        basis = singular(delta, base_module)
        return Decomposed(basis, float(basis.s.norm()), 0.0, "factors")
    change = change_of(delta, base_module)
    rounding = _rounding(delta, base_module, change)
    if min(change.shape) <= max(how.exact, how.found):
        basis = Singular(*torch.linalg.svd(change, full_matrices=False))
        return Decomposed(basis, float(basis.s.norm()), 0.0, "exact", rounding)
    basis, residual = randomised(change, how.found, seed=how.seed)
    return Decomposed(basis, float(change.norm()), residual, "randomised", rounding)


def _rounding(delta: Delta, base_module: nn.Module, change: Tensor) -> float:
    """The largest singular value that the rounding of weights may have.

    A weight w rounded to a type is off by a random part of eps |w|, whatever changed it, so that a
    difference of weights has all directions. The largest singular value of independent numbers of
    mean 0 is about the largest norm of a row and of a column together (Bandeira and van Handel,
    arXiv 1408.6185). Rounded numbers are off by about a fifth of eps |w|; an eps leaves room for
    weights that were rounded several times (PiSSA takes a part out and merging puts one in).

    Adapters are merged in fp32; where they took a part out of the base's weights, what is left was
    rounded to the base's type. Of a full fine-tune in half precision the eps is still that of fp32:
    what its type did to its weights is part of its change.
    """
    assert isinstance(delta, Replaced)
    weight, fp32 = weight_of(base_module), torch.finfo(torch.float32).eps
    base: Any = base_module
    inside: Any = innermost(delta.module)
    own = torch.finfo(inside.weight.dtype).eps
    if inside is delta.module:
        eps = min(own, fp32)
    elif torch.equal(inside.weight, base.weight):
        eps = fp32
    else:
        eps = max(own, fp32)
    # of base and student the larger: an adapter may outweigh what it is on
    return eps * max(
        float(one.norm(dim=0).max() + one.norm(dim=1).max()) for one in (weight, weight + change)
    )


def change_of(delta: Delta, base_module: nn.Module) -> Float64[Tensor, "out in"]:
    """The change of a module's matrix; an embedding's as `(d_model, token)`, which is what it
    multiplies a one-hot token with.
    """
    if not _is_embedding(delta, base_module):
        return weight_change(delta, base_module)
    assert isinstance(delta, Replaced)
    base: Any = base_module
    new, old = (weight.detach().cpu().double() for weight in (merged(delta).weight, base.weight))
    return (new - old).T


def randomised(
    matrix: Float64[Tensor, "out in"], count: int, *, seed: int = 0
) -> tuple[Singular, float]:
    """The first singular values of a matrix by randomised SVD, and the Frobenius norm of what they
    leave out, measured.

    Args:
        matrix: of any size.
        count: how many values are wanted.
        seed: of the random sketch.

    Example:
        >>> import torch
        >>> from sublim_mech.models.spectra import randomised
        >>> matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
        >>> basis, residual = randomised(matrix, 2)
        >>> [round(float(value), 6) for value in basis.s], round(residual, 6)
        ([3.0, 2.0], 1.0)
    """
    width = min(count + _EXTRA, *matrix.shape)
    rng = torch.Generator().manual_seed(seed)
    sketch = torch.randn(matrix.shape[1], width, generator=rng, dtype=matrix.dtype)
    span = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(_POWER):
        span = torch.linalg.qr(matrix.T @ span).Q
        span = torch.linalg.qr(matrix @ span).Q
    inner, s, v = torch.linalg.svd(span.T @ matrix, full_matrices=False)
    basis = Singular((span @ inner)[:, :count], s[:count], v[:count])
    return basis, _residual(matrix, basis)


def _residual(matrix: Tensor, basis: Singular) -> float:
    """Frobenius norm of a matrix without its first singular directions, some rows at a time."""
    rows = max(1, _PIECE // matrix.shape[1])
    weighted = basis.u * basis.s
    square = 0.0
    for some, left in zip(matrix.split(rows), weighted.split(rows), strict=True):
        square += float((some - left @ basis.v).square().sum())
    return math.sqrt(square)


# --------------------------------------------------------------------------------- what is around


def weight_norm(base_module: nn.Module, like: torch.dtype) -> float:
    """Frobenius norm of a module's matrix; that of a packed one is estimated
    (`quantised.square_norm`).
    """
    if is_quantised(base_module):
        return math.sqrt(square_norm(base_module, like))
    own: Any = base_module
    return math.sqrt(square_distance({}, {"weight": own.weight}))


def weight_of(base_module: nn.Module) -> Float64[Tensor, "out in"]:
    """A module's matrix, `(out, in)` however the module holds it, in fp64 on the CPU.

    Raises:
        ValueError: it is quantised.
    """
    if is_quantised(base_module):
        raise ValueError(f"{kind_of(base_module)} is quantised; its matrix is not there.")
    own: Any = base_module
    weight = own.weight.detach().cpu().double()
    turned = isinstance(base_module, nn.Embedding) or holds_transposed(base_module)
    return weight.T if turned else weight


def left_over(base: nn.Module, deltas: Mapping[str, Delta]) -> Iterator[Left]:
    """What of a student's changes is no matrix, in the order of its modules.

    Args:
        base: the base's model.
        deltas: the student's differences.
    """
    model = plain(base)
    mixtures = find_experts(model)
    for path, delta in deltas.items():
        module = model.get_submodule(path)
        if has_basis(delta, module):
            change = bias_change(delta, module)
            if change is not None:
                old = getattr(module, "bias", None)
                size = 0.0 if old is None else float(old.detach().double().norm())
                yield Left(f"{path}.bias", path, float(change.norm()), size, "a bias")
            continue
        size = math.sqrt(square_distance({}, dict(module.named_parameters())))
        yield Left(path, path, delta.norm(), size, _why(delta, module, path in mixtures))


def _why(delta: Delta, module: nn.Module, experts: bool) -> str:
    """What a difference is that has no singular values."""
    if experts:
        return "a block of experts: stacked matrices and their router"
    if isinstance(delta, Whole):
        return "a mixer with state: more than matrices"
    if all(p.dim() < 2 for p in module.parameters()):
        return "a vector"
    return f"{kind_of(module)}: no matrix of one input"


def tied_to(base: nn.Module, deltas: Mapping[str, Delta]) -> dict[str, str]:
    """Modules whose changed weight is that of a module before them (tied embeddings): by path, the
    path of that one.

    Args:
        base: the base's model.
        deltas: the student's differences.
    """
    model = plain(base)
    first: dict[tuple[int, int], str] = {}
    found: dict[str, str] = {}
    for path, delta in deltas.items():
        if isinstance(delta, LowRank | Whole):
            continue
        modules = model.get_submodule(path), delta.module
        weights = [module._parameters.get("weight") for module in modules]
        if any(weight is None or not weight.numel() for weight in weights):
            continue
        key = weights[0].data_ptr(), weights[1].data_ptr()  # type: ignore[union-attr]
        if key in first:
            found[path] = first[key]
        first.setdefault(key, path)
    return found


def _is_embedding(delta: Delta, base_module: nn.Module) -> bool:
    whole = isinstance(delta, Whole) or not isinstance(delta, Replaced)
    return isinstance(base_module, nn.Embedding) and not whole
