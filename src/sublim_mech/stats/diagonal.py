"""gamma of a trait matrix with several row seeds: do students raise their own trait?

1. Each student was made for one trait, on the data of one row seed, and is asked for all traits.
   `change = student + row seed's trait + gamma [asked for its own]`: a student that raises all
   traits, or a trait that all students of a row seed raise, is no transmission.
2. A data set is the rows of one trait and one row seed. Students that differ by training seed only
   are averaged: they are no further data sets.
3. gamma by least squares, with standard errors robust to anything that students of one row seed
   have in common (CR1) and t with G - 1 degrees of freedom over G row seeds.
4. Under the null the assignment of data sets to traits within each row seed is arbitrary: p is the
   share of all assignments, of all row seeds together, whose gamma is at least as large. K traits
   and S row seeds have K! ^ S, so p is never below 1 / K! ^ S.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..arguments import checked
from ..hints import counted, nearest, signed
from .nesting import NO_SPREAD, is_no_spread
from .over_prompts import Array
from .students_t import quantile_of_t, two_sided_p

_MOST_LISTED = 10**6  # assignments up to which all are compared
_MOST_PER_SEED = 8  # students of a row seed whose assignments are listed: 8! = 40,320


@dataclass(frozen=True)
class DiagonalExcess:
    """gamma with its interval over row seeds and its permutation test within them.

    Attributes:
        gamma: how much more a student raises its own trait than rows and columns say.
        low, high: 95 %, CR1 with t over row seeds; NaN of a single one.
        standard_error: CR1.
        p_t: two-sided, of that t.
        p: one-sided permutation p within row seeds.
        least_p: the least p that these assignments can give.
        assignments: of data sets to traits that were compared; all there are where `exact`.
        exact: whether all were.
        by_row_seed: gamma of each row seed alone; NaN of one with a single student.
        traits: how many students were made for.
        data_sets: pairs of trait and row seed.
        runs: students.
    """

    gamma: float
    low: float
    high: float
    standard_error: float
    p_t: float
    p: float
    least_p: float
    assignments: int
    exact: bool
    by_row_seed: dict[Hashable, float]
    traits: int
    data_sets: int
    runs: int

    def __repr__(self) -> str:
        seeds = counted(len(self.by_row_seed), "row seed")
        interval = f"{seeds}: no interval"
        if not math.isnan(self.low):
            interval = f"95 % {signed(self.low)} to {signed(self.high)} over {seeds}, CR1"
        if is_no_spread(self.low, self.high):
            interval = f"{seeds}: {NO_SPREAD}"
        which = "all" if self.exact else "random"
        return (
            f"gamma {signed(self.gamma)} ({interval}; {counted(self.traits, 'trait')}, "
            f"{counted(self.runs, 'run')}); permutation within row seeds p = {self.p:.2g} of "
            f"{self.assignments:,} ({which}) assignments, which cannot give less than "
            f"{self.least_p:.2g}"
        )


@checked
def diagonal_excess(
    changes: np.ndarray,
    made_for: Sequence[str],
    *,
    traits: Sequence[str],
    row_seeds: Sequence[Hashable],
    seed: int = 0,
    draws: int = 10_000,
) -> DiagonalExcess:
    """The diagonal excess gamma of students of several traits and row seeds.

    Args:
        changes: `(run, trait)` changes of log-probability, mean over questions.
        made_for: of each run, the trait its data set was made for.
        traits: names of the columns; more than students were made for is fine.
        row_seeds: of each run, the seed of its rows. Runs of one trait and row seed differ by
            training seed and count as one data set.
        seed: of random assignments.
        draws: random assignments, where there are more than a million or a row seed has more than 8
            data sets; else all are compared.

    Raises:
        ValueError: other lengths, values that are not finite, a trait that is no column, or no row
            seed with students of two traits.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import diagonal_excess
        >>> found = diagonal_excess(
        ...     np.array([[0.28, -0.45], [-0.12, 0.21]]),
        ...     ["owl", "penguin"],
        ...     traits=["owl", "penguin"],
        ...     row_seeds=[0, 0],
        ... )
        >>> round(found.gamma, 2), found.p, found.least_p
        (0.53, 0.5, 0.5)

    Source: cluster-robust errors: Liang & Zeger 1986 (doi:10.1093/biomet/73.1.13), CR1 with G - 1
    degrees of freedom: Cameron & Miller 2015 (doi:10.3368/jhr.50.2.317); effects of students and of
    a row seed's traits lie within clusters and cost no degrees of freedom. Permutations within
    strata: Good 2005, chapter 3.
    """
    _check(changes, made_for, traits, row_seeds)
    squares = _squares(changes, made_for, traits, row_seeds)

    # least squares on the indicator of own traits, without its row and column means: of n data sets
    # the sum of its squares is n - 1, whatever the assignment and the number of columns
    slopes, sizes = [], []
    for left, own in squares.values():
        slopes.append(float(left[np.arange(len(own)), own].sum()))
        sizes.append(len(own) - 1)
    slope, size = sum(slopes), sum(sizes)
    if size <= 0:
        raise ValueError(
            "made_for: no row seed has students of two traits, so own traits cannot be told from "
            "what a student raises of all; add students of other traits on the same row seed."
        )
    gamma = slope / size
    alone = dict(zip(squares, _ratios(slopes, sizes), strict=True))

    error = low = high = p_t = math.nan
    useful = [i for i, part in enumerate(sizes) if part > 0]
    clusters = len(useful)
    if clusters > 1:
        scores = np.array([slopes[i] - gamma * sizes[i] for i in useful])
        error = math.sqrt(clusters / (clusters - 1) * float((scores**2).sum())) / size
        reach = quantile_of_t(0.975, clusters - 1) * error
        low, high = gamma - reach, gamma + reach
        p_t = two_sided_p(gamma / error, clusters - 1) if error > 0 else float(gamma == 0)

    p, count, exact = _permuted(list(squares.values()), slope, seed=seed, draws=draws)
    return DiagonalExcess(
        gamma=gamma,
        low=low,
        high=high,
        standard_error=error,
        p_t=p_t,
        p=p,
        least_p=1 / count if exact else 1 / (count + 1),
        assignments=count,
        exact=exact,
        by_row_seed=alone,
        traits=len(set(made_for)),
        data_sets=sum(len(own) for _, own in squares.values()),
        runs=len(changes),
    )


def _check(
    changes: Array, made_for: Sequence[str], traits: Sequence[str], row_seeds: Sequence[Hashable]
) -> None:
    if changes.ndim != 2 or changes.shape[1] != len(traits) or not len(changes):
        raise ValueError(
            f"changes has shape {changes.shape}; pass (run, trait) with "
            f"{counted(len(traits), 'column')}, as many as traits=."
        )
    for name, given in (("made_for", made_for), ("row_seeds", row_seeds)):
        if len(given) != len(changes):
            raise ValueError(
                f"{name} has {counted(len(given), 'entry', 'entries')} for "
                f"{counted(len(changes), 'run')}; give one per run."
            )
    if not np.isfinite(changes).all():
        raise ValueError("changes holds NaN or infinite numbers; leave out runs without them.")
    if len(set(traits)) < len(traits):
        raise ValueError(f"traits={list(traits)}: a name stands twice.")
    for name in made_for:
        if name not in traits:
            raise ValueError(f"made_for holds {name!r}, no column{nearest(name, traits) or '.'}")


def _squares(
    changes: Array, made_for: Sequence[str], traits: Sequence[str], row_seeds: Sequence[Hashable]
) -> dict[Hashable, tuple[Array, Array]]:
    """Of each row seed: `(data set, trait)` without row and column means, and own columns."""
    runs: dict[Hashable, dict[str, list[int]]] = {}
    for run, (label, name) in enumerate(zip(row_seeds, made_for, strict=True)):
        runs.setdefault(label, {}).setdefault(name, []).append(run)
    squares = {}
    for label, members in runs.items():
        means = np.stack([changes[chosen].mean(0) for chosen in members.values()])
        left = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
        squares[label] = left, np.array([list(traits).index(name) for name in members])
    return squares


def _ratios(slopes: Iterable[float], sizes: Iterable[float]) -> list[float]:
    return [a / b if b > 0 else math.nan for a, b in zip(slopes, sizes, strict=True)]


def _permuted(
    squares: Sequence[tuple[Array, Array]], slope: float, *, seed: int, draws: int
) -> tuple[float, int, bool]:
    """One-sided p, the number of assignments, and whether these are all."""
    total = math.prod(math.factorial(len(own)) for _, own in squares)
    largest = max(len(own) for _, own in squares)
    tie = 1e-12 * max(1.0, sum(float(np.abs(left).sum()) for left, _ in squares))
    if total <= _MOST_LISTED and largest <= _MOST_PER_SEED:
        sums = np.zeros(1)
        for left, own in squares:
            orders = own[np.array(list(permutations(range(len(own)))))]
            alone = left[np.arange(len(own)), orders].sum(1)
            sums = (sums[:, None] + alone[None]).ravel()
        return float(np.mean(sums >= slope - tie)), total, True

    rng = np.random.default_rng(seed)
    sums = np.zeros(draws)
    for left, own in squares:
        orders = rng.permuted(np.tile(own, (draws, 1)), axis=1)
        sums += left[np.arange(len(own)), orders].sum(1)
    return (1 + int((sums >= slope - tie).sum())) / (draws + 1), draws, False
