"""The trait matrix: K students of K traits, and whether each raises its own beyond what rows and columns explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from ..stats import mean_interval

_EXACT = 8  # students up to which all permutations are taken: 8! = 40,320


@dataclass(frozen=True, eq=False)
class TraitMatrix:
    """K students against K traits; student i was made for trait i.

    Attributes:
        matrix: `(student, trait)` mean change over questions.
        residual: the same without row and column effects (rows and columns sum to 0).
        gamma: the diagonal excess: mean of the diagonal minus mean of the rest, which no row or column effect moves.
        low, high: its 95 % bootstrap interval over questions (not over training seeds).
        p: one-sided permutation p-value.
        permutations: assignments of students to traits compared; all K! where `exact`.
        exact: whether all were.
        names: of the traits.
    """

    matrix: np.ndarray
    residual: np.ndarray
    gamma: float
    low: float
    high: float
    p: float
    permutations: int
    exact: bool
    names: tuple[str, ...]

    def table(self, *, residual: bool = False) -> pd.DataFrame:
        """Students as rows, traits as columns; with `residual` without row and column effects."""
        return pd.DataFrame(self.residual if residual else self.matrix, pd.Index(self.names, name="student"), list(self.names))

    def __repr__(self) -> str:
        k = len(self.names)
        least = f"; {k} students cannot give less than {1 / math.factorial(k):.2g}" if self.exact and k < 4 else ""
        bounds = (
            "one question: no interval" if math.isnan(self.low) else f"95 % {self.low:+.2f} to {self.high:+.2f} over questions"
        )
        return (
            f"{self.table().to_string(float_format='{:+.2f}'.format)}\n"
            f"diagonal excess gamma {self.gamma:+.2f} ({bounds}), permutation p = {self.p:.2g} of {self.permutations} "
            f"{'(all)' if self.exact else '(random)'} assignments{least}"
        )


def trait_matrix(values: Any, *, names: Sequence[str] = (), seed: int = 0, draws: int = 10_000) -> TraitMatrix:
    """The diagonal excess of K students of K traits: is each student's own trait raised beyond what rows and columns explain?

    `x[i, j] = mean + student[i] + trait[j] + gamma [i = j]`: a student that raises all animals, or an animal that all students raise,
    is no transmission. The least-squares gamma is the mean of the diagonal minus the mean of the rest. Under the null which student
    was made for which trait does not matter, so p is the share of assignments whose gamma is at least as large.

    Args:
        values: `(student, trait, question)` changes of log-probability; student i belongs to trait i.
        names: of the traits; numbers when not given.
        seed: of the resampling, and of random assignments.
        draws: random assignments where there are more than 8 students (otherwise all are taken).

    Raises:
        ValueError: another shape, fewer than two students, no questions, values that are not finite, or a wrong number of names.

    Example:
        >>> from sublim_mech.evaluation.matrix import trait_matrix
        >>> found = trait_matrix([[[0.28], [-0.45]], [[-0.12], [0.21]]], names=["owl", "penguin"])
        >>> round(found.gamma, 2), found.p
        (0.53, 0.5)
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 3 or x.shape[0] != x.shape[1] or x.shape[0] < 2 or x.shape[2] < 1:
        raise ValueError(
            f"values has shape {x.shape}; pass (student, trait, question) with as many students as traits, at least two."
        )
    if not np.isfinite(x).all():
        raise ValueError("values holds NaN or infinite numbers; leave out what was not measured.")
    k = len(x)
    names = tuple(map(str, names)) or tuple(map(str, range(k)))
    if len(names) != k:
        raise ValueError(f"names has {len(names)} entries for {k} traits; give one per trait.")
    own = np.eye(k, dtype=bool)
    each = x[own].mean(0) - x[~own].mean(0)  # (question,)
    interval = mean_interval(each, seed=seed)
    mean = x.mean(2)
    exact = k <= _EXACT
    rng = np.random.default_rng(seed)
    tried = np.array(list(permutations(range(k)))) if exact else rng.permuted(np.tile(np.arange(k), (draws, 1)), axis=1)
    # row and column sums are the same for every assignment, so gamma grows with the sum of the assigned cells alone
    sums, mine = mean[np.arange(k), tried].sum(1), np.trace(mean)
    reached = int((sums >= mine - 1e-12 * max(1.0, float(np.abs(mean).sum()))).sum())  # ties count, whatever the rounding
    return TraitMatrix(
        matrix=mean,
        residual=mean - mean.mean(0) - mean.mean(1, keepdims=True) + mean.mean(),
        gamma=float(interval.mean),
        low=float(interval.low),
        high=float(interval.high),
        p=reached / len(tried) if exact else (reached + 1) / (draws + 1),
        permutations=len(tried),
        exact=exact,
        names=names,
    )
