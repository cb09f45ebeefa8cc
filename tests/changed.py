"""Students whose weight changes are known: planted spectra, and full fine-tunes of some modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import tiny
import torch
from torch import nn


def orthonormal(rows: int, count: int, seed: int) -> torch.Tensor:
    """`(rows, count)` orthonormal columns, a function of the seed, in fp64."""
    drawn = np.random.default_rng(seed).standard_normal((rows, count))
    return torch.from_numpy(np.linalg.qr(drawn)[0])


def planted(
    base: nn.Module, path: str, values: list[float], *, seed: int = 3, transposed: bool = False
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A full fine-tune that changes one weight, by given singular values.

    Args:
        base: of which a copy is changed.
        path: the module.
        values: singular values of the change.
        seed: of its singular vectors.
        transposed: the module holds `(in, out)`.

    Returns:
        The student, the left singular vectors `(out, k)` and the right ones `(in, k)`.
    """
    student = copy.deepcopy(base)
    weight = student.get_submodule(path).weight
    rows, columns = reversed(weight.shape) if transposed else weight.shape
    u, v = orthonormal(rows, len(values), seed), orthonormal(columns, len(values), seed + 1)
    change = (u * torch.tensor(values, dtype=torch.float64)) @ v.T
    with torch.no_grad():
        weight += (change.T if transposed else change).to(weight)
    return student, u, v


def full_of(
    base: nn.Module, wanted: Callable[[str], bool], *, seed: int = 1, scale: float = 0.05
) -> nn.Module:
    """A full fine-tune that moves the parameters of these names only."""
    student, moved = copy.deepcopy(base), tiny.full(base, seed=seed, scale=scale)
    with torch.no_grad():
        for (name, p), new in zip(student.named_parameters(), moved.parameters(), strict=True):
            if wanted(name):
                p.copy_(new)
    return student


def dense(base: Any, student: Any, path: str) -> np.ndarray:
    """The change of a linear module's weight in two plain models, fp64."""
    new, old = (m.get_submodule(path).weight.detach().double() for m in (student, base))
    return (new - old).numpy()
