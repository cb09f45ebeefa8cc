"""The trait matrix: does each of K students raise its own trait beyond rows and columns?

1. Each student was made for one trait and is asked for all: a square of changes.
2. gamma is the mean of the diagonal minus the mean of the rest. A student that raises everything,
   or a trait that everybody raises, does not move it.
3. Under the null the assignment of students to traits is arbitrary: p is the share of assignments
   whose gamma is at least as large.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import checked
from ..hints import counted, signed
from ..results.frames import Table
from ..stats import mean_interval

_EXACT = 8  # students up to which all permutations are taken: 8! = 40,320

_STILL = 0.01
"""Part of the largest change from which on a student's own largest counts as a move."""


@dataclass(frozen=True, eq=False)
class TraitMatrix:
    """K students against K traits; student i was made for trait i.

    Attributes:
        matrix: `(student, trait)` mean change over questions.
        residual: the same without row and column effects (rows and columns sum to 0).
        gamma: the diagonal excess: mean of the diagonal minus mean of the rest, which no row or
            column effect moves.
        low, high: its 95 % bootstrap interval over questions (not over training seeds).
        p: one-sided permutation p-value.
        permutations: assignments of students to traits compared; all K! where `exact`.
        exact: whether all were.
        names: of the traits.
        notes: which students did not move, where was asked, what to know of students and questions,
            and of the assignment of students to traits.
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
    notes: tuple[str, ...] = ()

    @checked
    def table(self, *, residual: bool = False) -> pd.DataFrame:
        """Students as rows, traits as columns; the notes stand below it.

        Args:
            residual: without row and column effects.
        """
        students = pd.Index(self.names, name="student")
        table = Table(self.residual if residual else self.matrix, students, list(self.names))
        table.attrs["notes"] = list(self.notes)
        return table

    def __repr__(self) -> str:
        bounds = "one question: no interval"
        if not math.isnan(self.low):
            bounds = f"95 % {signed(self.low, 2)} to {signed(self.high, 2)} over questions"
        assignments = "(all)" if self.exact else "(random)"
        students = len(self.names)
        floor = ""
        if self.exact and students < 4:
            least = 1 / math.factorial(students)
            floor = f"; {students} students cannot give less than {least:.2g}"
        told = (
            f"{self.table().to_string(float_format='{:+z.2f}'.format)}\n"
            f"diagonal excess gamma {signed(self.gamma, 2)} ({bounds}), "
            f"permutation p = {self.p:.2g} of {self.permutations} {assignments} assignments{floor}"
        )
        return "\n".join([told, *self.notes])


@checked
def trait_matrix(
    values: Any, *, names: Sequence[str] = (), seed: int = 0, draws: int = 10_000
) -> TraitMatrix:
    """The diagonal excess of K students of K traits.

    `values[i, j] = mean + student[i] + trait[j] + gamma [i = j]`: a student that raises all
    animals, or an animal that all students raise, is no transmission. The least-squares gamma is
    the mean of the diagonal minus the mean of the rest. Under the null which student was made for
    which trait does not matter, so p is the share of assignments whose gamma is at least as large.

    Args:
        values: `(student, trait, question)` changes of log-probability; student i belongs to
            trait i.
        names: of the traits; numbers when not given.
        seed: of the resampling, and of random assignments.
        draws: random assignments where there are more than 8 students (otherwise all are taken).

    Raises:
        ValueError: another shape, fewer than two students, no questions, values that are not
            finite, a wrong number of names, or one name twice.

    Example:
        >>> from sublim_mech.evaluation.matrix import trait_matrix
        >>> changes = [[[0.28], [-0.45]], [[-0.12], [0.21]]]
        >>> square = trait_matrix(changes, names=["owl", "penguin"])
        >>> round(square.gamma, 2), square.p
        (0.53, 0.5)
    """
    changes = _checked(values)
    k = len(changes)
    names = tuple(map(str, names)) or tuple(map(str, range(k)))
    if len(names) != k:
        raise ValueError(
            f"names has {counted(len(names), 'entry', 'entries')} for {counted(k, 'trait')}; "
            "give one per trait."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"names: {twice[0]!r} stands {names.count(twice[0])} times; its students would count "
            "as students of other traits to each other. Give one student per trait, or take "
            "stats.diagonal_excess, which knows several of one trait."
        )

    # gamma of every question, and over questions
    own = np.eye(k, dtype=bool)
    gammas = changes[own].mean(0) - changes[~own].mean(0)  # (question,)
    gamma = mean_interval(gammas, seed=seed)

    # row and column sums are the same for every assignment, so gamma grows with the sum of the
    # assigned cells alone; ties count, whatever the rounding
    means = changes.mean(2)
    exact = k <= _EXACT
    assignments = _assignments(k, draws, seed, exact=exact)
    sums = means[np.arange(k), assignments].sum(1)
    tolerance = 1e-12 * max(1.0, float(np.abs(means).sum()))
    reached = int((sums >= np.trace(means) - tolerance).sum())
    if exact:
        p = reached / len(assignments)
    else:  # the assignment that was observed counts as one of the draws
        p = (reached + 1) / (draws + 1)
    return TraitMatrix(
        matrix=means,
        residual=means - means.mean(0) - means.mean(1, keepdims=True) + means.mean(),
        gamma=float(gamma.mean),
        low=float(gamma.low),
        high=float(gamma.high),
        p=p,
        permutations=len(assignments),
        exact=exact,
        names=names,
        notes=_of_the_still(means, names),
    )


def _of_the_still(means: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """Which students hardly changed anything, in a sentence: assignments of theirs are no evidence,
    and make p as small as those of students that learnt something.

    Args:
        means: changes `(student, trait)`.
        names: of the traits.
    """
    largest = np.abs(means).max(1)
    still = [
        name for name, size in zip(names, largest, strict=True) if size < _STILL * largest.max()
    ]
    if not still:
        return ()
    moving = len(names) - len(still)
    whose = "student of" if len(still) == 1 else "students of"
    least = f": the other {moving} alone cannot give less than {1 / math.factorial(moving):.2g}"
    return (
        f"the {whose} {', '.join(still)} moved less than {_STILL:z.0%} of what others did, and p "
        f"counts {'its' if len(still) == 1 else 'their'} assignments all the same"
        f"{least if 1 < moving < 4 else ''}",
    )


def _checked(values: Any) -> np.ndarray:
    """The values as `(student, trait, question)` numbers."""
    changes = np.asarray(values, dtype=float)
    square = changes.ndim == 3 and changes.shape[0] == changes.shape[1]
    if not square or changes.shape[0] < 2 or changes.shape[2] < 1:
        raise ValueError(
            f"values has shape {changes.shape}; pass (student, trait, question) with as many "
            "students as traits, at least two."
        )
    if not np.isfinite(changes).all():
        raise ValueError("values holds NaN or infinite numbers; leave out what was not measured.")
    return changes


def _assignments(k: int, draws: int, seed: int, *, exact: bool) -> np.ndarray:
    """Assignments of students to traits `(assignment, student)`: all of them, or random ones."""
    if exact:
        return np.array(list(permutations(range(k))))
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(k), (draws, 1)), axis=1)
