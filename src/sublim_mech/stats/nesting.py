"""Intervals over students: data sets are what was sampled, then training seeds, then prompts.

Students of one data set are alike: nine runs of three data sets are three, not nine. Two intervals:

- `cluster_t`: one mean per data set, and Student's t with G - 1 degrees of freedom. It is right for
  any number of data sets whose means are about normal, however few.
- `nested_bootstrap`: data sets are drawn, of each its training seeds, of each its prompts, which
  keeps what is skewed. Of few data sets it is too narrow, for three data sets cannot be drawn in
  more than ten ways, whatever percentiles are taken.

`nested_interval` gives both and says which decides.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from ..hints import counted, signed
from .over_prompts import DRAWS, Array
from .students_t import quantile_of_t, two_sided_p

FEWEST_DATA_SETS = 15
"""Data sets from which the bootstrap decides; below it is narrower than it says."""

NO_SPREAD = "their values are identical: without any spread there is no interval to speak of"


def is_no_spread(low: float, high: float) -> bool:
    """Whether an interval has no width, for the values have none, but for rounding."""
    return high - low <= 1e-12 * max(abs(low), abs(high))


@dataclass(frozen=True)
class NestedInterval:
    """A mean over data sets with its 95 % interval.

    Attributes:
        mean: of data sets, each the mean of its training seeds, each the mean of its prompts.
        low, high: the interval that decides; NaN for a single data set.
        t_low, t_high: of Student's t over data sets.
        bootstrap_low, bootstrap_high: of the nested bootstrap.
        standard_error: of the mean, from the spread of data sets.
        p: two-sided, of Student's t against a mean of 0.
        data_sets: how many.
        runs: students of all of them.
    """

    mean: float
    low: float
    high: float
    t_low: float
    t_high: float
    bootstrap_low: float
    bootstrap_high: float
    standard_error: float
    p: float
    data_sets: int
    runs: int

    @property
    def decides(self) -> str:
        """`t` below `FEWEST_DATA_SETS` data sets, else `bootstrap`."""
        return "t" if self.data_sets < FEWEST_DATA_SETS else "bootstrap"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; False where there is none."""
        return self.low > 0 or self.high < 0

    def __repr__(self) -> str:
        of = f"{counted(self.data_sets, 'data set')}, {counted(self.runs, 'run')}"
        if self.data_sets < 2:
            return f"{signed(self.mean)} ({of}: no interval over data sets)"
        if is_no_spread(self.t_low, self.t_high):
            return f"{signed(self.mean)} over {of}; {NO_SPREAD}"
        how = {"t": "Student's t", "bootstrap": "nested bootstrap"}[self.decides]
        return (
            f"{signed(self.mean)}, 95 % {signed(self.low)} to {signed(self.high)} "
            f"({how} over {of}; p = {self.p:.2g})"
        )


@checked
def nested_interval(
    values: np.ndarray, data_set: Sequence[Hashable], *, seed: int = 0, draws: int = DRAWS
) -> NestedInterval:
    """The mean over data sets of what was measured of each run, with both intervals.

    Every data set counts alike, whatever its number of training seeds. The interval speaks of new
    data sets and new training seeds. Pairs (a student and its control, two methods) are compared by
    their differences, run by run or data set by data set.

    Args:
        values: `(run,)`, or `(run, prompt)`.
        data_set: of each run, what it was trained on (its row seed, or trait and row seed).
        seed: of the resampling.
        draws: resamples.

    Raises:
        ValueError: no runs, values that are not finite, other lengths, or no draws.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import nested_interval
        >>> nested_interval(np.array([0.30, 0.34, 0.20, 0.22, 0.41, 0.37]), [1, 1, 2, 2, 3, 3])
        +0.307, 95 % +0.081 to +0.532 (Student's t over 3 data sets, 6 runs; p = 0.028)

    Source: cluster means and t with G - 1 degrees of freedom: Donner & Klar 2000, chapter 6;
    Cameron & Miller 2015 (doi:10.3368/jhr.50.2.317). Bootstrap: `nested_bootstrap`.
    """
    groups = _grouped(values, data_set)
    mean, error, t_low, t_high = cluster_t(values, data_set)
    low, high = nested_bootstrap(values, data_set, seed=seed, draws=draws)
    few = len(groups) < FEWEST_DATA_SETS
    return NestedInterval(
        mean=mean,
        low=t_low if few else low,
        high=t_high if few else high,
        t_low=t_low,
        t_high=t_high,
        bootstrap_low=low,
        bootstrap_high=high,
        standard_error=error,
        p=_p(mean, error, len(groups)),
        data_sets=len(groups),
        runs=len(values),
    )


@checked
def cluster_t(
    values: np.ndarray, data_set: Sequence[Hashable], *, level: float = 0.05
) -> tuple[float, float, float, float]:
    """Mean over data sets, its standard error, and Student's interval.

    Args:
        values: `(run,)`, or `(run, prompt)`.
        data_set: of each run.
        level: one minus the interval's coverage.

    Returns:
        Mean, standard error, lower and upper bound; the last three NaN for a single data set.

    Raises:
        ValueError: as `nested_interval`.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import cluster_t
        >>> [round(x, 3) for x in cluster_t(np.array([1.0, 2.0, 3.0]), ["a", "b", "c"])]
        [2.0, 0.577, -0.484, 4.484]

    Source: Donner & Klar 2000, chapter 6.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a probability between 0 and 1, such as 0.05 for 5 %.")
    groups = _grouped(values, data_set)
    means = np.array([group.mean(1).mean() for group in groups])
    mean = float(means.mean())
    if len(means) < 2:
        return mean, math.nan, math.nan, math.nan
    error = float(means.std(ddof=1) / math.sqrt(len(means)))
    reach = quantile_of_t(1 - level / 2, len(means) - 1) * error
    return mean, error, mean - reach, mean + reach


@checked
def nested_bootstrap(
    values: np.ndarray,
    data_set: Sequence[Hashable],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    same_prompts: bool = False,
) -> tuple[float, float]:
    """95 % interval: data sets are drawn, of each its runs, of each its prompts.

    The means of data sets already differ by their runs, and those of runs by their prompts, so
    drawing at every level would count that twice. The deviations of each level are scaled first, to
    the spread that belongs to it alone. Percentiles are those of Student's t instead of the normal
    distribution (1.6 % on either side for 15 data sets).

    Args:
        values: `(run,)`, or `(run, prompt)`.
        data_set: of each run.
        seed: of the resampling.
        draws: resamples.
        same_prompts: whether a column is the same prompt in all runs and prompts are drawn once for
            all of them; the interval then speaks of new prompts too. Otherwise each run's are its
            own.

    Returns:
        Lower and upper bound; NaN for a single data set.

    Raises:
        ValueError: as `nested_interval`.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import nested_bootstrap
        >>> nested_bootstrap(np.array([0.25, 0.25, 0.25]), [1, 2, 3])
        (0.25, 0.25)

    Source: Carpenter, Goldstein & Rasbash 2003 (doi:10.1111/1467-9876.00415: reflated residuals of
    every level); expanded percentiles: Hesterberg 2015 (doi:10.1080/00031305.2015.1089789).
    """
    groups = _grouped(values, data_set)
    if draws < 1:
        raise ValueError(f"draws={draws}: at least one is needed; {DRAWS} is the default.")
    if len(groups) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    prompts = groups[0].shape[1]

    def weights(*shape: int) -> Array:
        return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=shape) / prompts

    common = weights(draws) if same_prompts else None
    groups = _to_scale(groups)
    chosen = rng.integers(len(groups), size=(draws, len(groups)))
    totals = np.zeros(draws)
    for slot in range(len(groups)):
        for number, group in enumerate(groups):
            here = np.flatnonzero(chosen[:, slot] == number)
            runs = rng.integers(len(group), size=(len(here), len(group)))
            if prompts == 1:
                totals[here] += group[runs, 0].mean(1)
                continue
            drawn = weights(*runs.shape) if common is None else common[here][:, None]
            totals[here] += (group[runs] * drawn).sum(2).mean(1)
    # drawn means are spread normally instead of as t
    tail = 50 * math.erfc(quantile_of_t(0.975, len(groups) - 1) / math.sqrt(2))  # per cent
    low, high = np.percentile(totals / len(groups), [tail, 100 - tail])
    return float(low), float(high)


def _to_scale(groups: Sequence[Array]) -> list[Array]:
    """The same data whose deviations at each level are as large as the spread of that level alone.

    Spreads are those of the analysis of variance: what a level's means differ by, less what the
    level inside makes them differ by; none where that is negative.
    """
    runs = sum(map(len, groups))
    prompts = groups[0].shape[1]
    of_runs = [group.mean(1) for group in groups]
    of_sets = np.array([means.mean() for means in of_runs])
    mean = of_sets.mean()

    # prompts of a run, runs of a data set, data sets
    error = 0.0  # variance of a run's mean by its prompts
    stretch = 1.0
    if prompts > 1:
        error = float(np.mean([group.var(1, ddof=1).mean() for group in groups])) / prompts
        stretch = math.sqrt(prompts / (prompts - 1))
    squares = sum(float(((means - means.mean()) ** 2).sum()) for means in of_runs)
    inside = squares / (runs - len(groups)) if runs > len(groups) else error
    of_seeds = _ratio(inside - error, squares / runs)
    errors = float(np.mean([inside / len(group) for group in groups]))
    between = float(of_sets.var(ddof=1)) - errors
    of_data = _ratio(between, float(of_sets.var()))

    scaled = []
    for group, means, own in zip(groups, of_runs, of_sets, strict=True):
        shifted = mean + of_data * (own - mean) + of_seeds * (means - own)
        scaled.append(shifted[:, None] + stretch * (group - means[:, None]))
    return scaled


def _ratio(wanted: float, there: float) -> float:
    """By what deviations are multiplied so that their variance is another one; 0 for none."""
    return math.sqrt(wanted / there) if wanted > 0 and there > 0 else 0.0


def _p(mean: float, error: float, groups: int) -> float:
    """Two-sided p of a mean over groups; 0 where all groups have the same number but 0."""
    if groups < 2:
        return math.nan
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return two_sided_p(mean / error, groups - 1)


def _grouped(values: Array, data_set: Sequence[Hashable]) -> list[Array]:
    """`(run, prompt)` of every data set, in the order in which they come."""
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"values has shape {values.shape}; pass (run,) or (run, prompt).")
    if len(values) != len(data_set):
        raise ValueError(
            f"data_set has {counted(len(data_set), 'entry', 'entries')} for "
            f"{counted(len(values), 'run')}; give one per run."
        )
    if not np.isfinite(values).all():
        raise ValueError("values holds NaN or infinite numbers; leave out runs without a value.")
    table = values.reshape(len(values), -1).astype(float)
    members: dict[Hashable, list[int]] = {}
    for run, label in enumerate(data_set):
        members.setdefault(label, []).append(run)
    return [table[runs] for runs in members.values()]
