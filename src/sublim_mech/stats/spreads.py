"""How much differs between data sets, between training seeds and between prompts.

From a balanced study: the analysis of variance of nested random effects (Searle, Casella &
McCulloch 1992, chapter 4). A level whose mean square is below that of the level inside has a spread
of 0. Correlation of students of one data set, and what it costs: the design effect.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from ..hints import counted
from .nesting import _grouped
from .students_t import quantile_of_f


@checked
@dataclass(frozen=True)
class Spread:
    """Standard deviations of a nested design, in the unit of what was measured.

    Attributes:
        data_set: between data sets.
        training_seed: between training seeds of one data set.
        prompt: between prompts of one student.
    """

    data_set: float
    training_seed: float
    prompt: float = 0.0

    def __post_init__(self) -> None:
        for name in ("data_set", "training_seed", "prompt"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: a standard deviation is 0 or more.")

    def standard_error(self, data_sets: int, training_seeds: int, prompts: int = 1) -> float:
        """Of the mean of a study of so many data sets, seeds of each, and prompts of each."""
        variance = self.data_set**2
        variance += self.training_seed**2 / training_seeds
        variance += self.prompt**2 / (training_seeds * prompts)
        return math.sqrt(variance / data_sets)

    def __repr__(self) -> str:
        return (
            f"Spread(data sets {self.data_set:.3g}, training seeds {self.training_seed:.3g}, "
            f"prompts {self.prompt:.3g})"
        )


@checked
def spread(
    values: np.ndarray,
    data_set: Sequence[Hashable],
    *,
    trait: Sequence[Hashable] | None = None,
) -> Spread:
    """The spread of each level, from what was measured of each run.

    Args:
        values: `(run,)`, or `(run, prompt)`.
        data_set: of each run.
        trait: of each run, where every data set has runs of several traits: what traits differ by
            in all data sets alike does not move the mean over data sets, and is taken out of the
            spread between runs of one data set. For one run per trait in each of S data sets, the
            variance of the runs of a data set around their traits' means is S / (S - 1) as large as
            it looks, because those means were made of the same runs.

    Returns:
        NaN never; a level that cannot be told apart from the one inside has 0.

    Raises:
        ValueError: a single data set, or no data set with two runs; with `trait`, runs that leave
            nothing to tell traits, data sets and runs apart; else as `nested_interval`.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import spread
        >>> spread(np.array([1.0, 3.0, 5.0, 7.0]), ["a", "a", "b", "b"])
        Spread(data sets 2.65, training seeds 1.41, prompts 0)

    Source: Searle, Casella & McCulloch 1992, chapter 4 (analysis of variance; unequal numbers of
    runs by their n0); with `trait` chapter 5.5 (Henderson's method III: traits fixed, data sets
    random).
    """
    groups = _grouped(values, data_set)
    prompts = groups[0].shape[1]
    within = 0.0  # variance of prompts of one run
    if prompts > 1:
        within = float(np.mean([run.var(ddof=1) for group in groups for run in group]))
    if trait is None:
        between, inside, average = _mean_squares([group.mean(1) for group in groups])
    else:
        runs = values.reshape(len(values), -1).astype(float).mean(1)
        between, inside, average = _beside_traits(runs, data_set, trait)
    return Spread(
        data_set=math.sqrt(max(0.0, (between - inside) / average)),
        training_seed=math.sqrt(max(0.0, inside - within / prompts)),
        prompt=math.sqrt(within),
    )


def _mean_squares(groups: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean squares between and within groups, and the size n0 of an average group."""
    sizes = np.array([len(group) for group in groups])
    runs = int(sizes.sum())
    if len(groups) < 2 or runs == len(groups):
        raise ValueError(
            f"{counted(len(groups), 'data set')} with {counted(runs, 'run')}: needs two data sets, "
            "and two training seeds of one of them."
        )
    mean = np.concatenate(groups).mean()
    between = sum(len(g) * (g.mean() - mean) ** 2 for g in groups) / (len(groups) - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (runs - len(groups))
    average = (runs - (sizes**2).sum() / runs) / (len(groups) - 1)
    return float(between), float(within), float(average)


def degrees(data_set: Sequence[Hashable], trait: Sequence[Hashable]) -> tuple[int, int]:
    """Degrees of freedom between data sets and between runs, beside what traits differ by."""
    traits, both = _indicators(trait), _indicators(trait, data_set)
    rank = int(np.linalg.matrix_rank(both))
    return rank - traits.shape[1], len(both) - rank


def _beside_traits(
    runs: np.ndarray, data_set: Sequence[Hashable], trait: Sequence[Hashable]
) -> tuple[float, float, float]:
    """As `_mean_squares`, of what is left of runs where traits differ by design."""
    if len(trait) != len(runs):
        raise ValueError(
            f"trait has {counted(len(trait), 'entry', 'entries')} for {counted(len(runs), 'run')}; "
            "give one per run."
        )
    df, df_below = degrees(data_set, trait)
    if df < 1 or df_below < 1:
        raise ValueError(
            f"{counted(len(runs), 'run')} of {counted(len(set(data_set)), 'data set')} and "
            f"{counted(len(set(trait)), 'trait')}: needs two data sets, each with two traits that "
            "the other has, too, or with two training seeds of one trait."
        )
    traits, both, sets = _indicators(trait), _indicators(trait, data_set), _indicators(data_set)
    left, within = _unexplained(traits, runs), _unexplained(both, runs)
    average = float((_residual(traits, sets) ** 2).sum()) / df
    return (left - within) / df, within / df_below, average


def _indicators(*labels: Sequence[Hashable]) -> np.ndarray:
    """`(run, label)`: 1 where a run has a label; side by side of each kind of labels."""
    blocks = []
    for of_runs in labels:
        known = list(dict.fromkeys(of_runs))
        blocks.append([[float(label == one) for one in known] for label in of_runs])
    return np.concatenate([np.array(block) for block in blocks], axis=1)


def _residual(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What least squares on some columns leave of values."""
    return values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]


def _unexplained(columns: np.ndarray, values: np.ndarray) -> float:
    return float((_residual(columns, values) ** 2).sum())


@dataclass(frozen=True)
class Correlation:
    """How alike students of one data set are, and what that costs.

    Attributes:
        icc: intra-class correlation: the share of the variance between runs that lies between data
            sets; negative where runs of one data set differ more than those of others.
        low, high: its 95 % interval; exact for equal numbers of runs and normal spreads.
        design_effect: variance of the mean over that of as many independent runs.
        data_sets, runs: how many.
    """

    icc: float
    low: float
    high: float
    design_effect: float
    data_sets: int
    runs: int

    @property
    def independent_runs(self) -> float:
        """As many independent runs would tell as much."""
        return self.runs / self.design_effect

    def __repr__(self) -> str:
        return (
            f"runs of one data set correlate {self.icc:z.2f} (95 % {self.low:z.2f} to "
            f"{self.high:z.2f}), design effect {self.design_effect:z.2f}: "
            f"{counted(self.runs, 'run')} of {counted(self.data_sets, 'data set')} tell as much "
            f"as {self.independent_runs:z.1f} independent ones"
        )


@checked
def intraclass_correlation(values: np.ndarray, data_set: Sequence[Hashable]) -> Correlation:
    """The correlation of runs of one data set, with the design effect 1 + (n - 1) icc.

    n is the mean number of runs weighted by itself, so that unequal data sets cost what they cost.
    A negative correlation counts as none in the design effect.

    Args:
        values: `(run,)`, or `(run, prompt)`, of which the mean is taken.
        data_set: of each run.

    Raises:
        ValueError: a single data set, no data set with two runs, or runs that are all the same;
            else as `nested_interval`.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import intraclass_correlation
        >>> found = intraclass_correlation(np.array([1.0, 3.0, 5.0, 7.0]), ["a", "a", "b", "b"])
        >>> round(found.icc, 3), round(found.design_effect, 3)
        (0.778, 1.778)

    Source: ICC(1) of Shrout & Fleiss 1979 with its F interval; design effect: Kish 1965, section
    5.4.
    """
    groups = [group.mean(1) for group in _grouped(values, data_set)]
    between, within, average = _mean_squares(groups)
    if between == 0 and within == 0:
        raise ValueError("values: all runs have the same number, so nothing correlates.")
    sizes = np.array([len(group) for group in groups])
    df, df_below = len(groups) - 1, int(sizes.sum()) - len(groups)
    icc = (between - within) / (between + (average - 1) * within)

    def bound(ratio: float) -> float:
        return (ratio - 1) / (ratio + average - 1)

    low = high = 1.0
    if within > 0:
        ratio = between / within
        low = bound(ratio / quantile_of_f(0.975, df, df_below))
        high = bound(ratio * quantile_of_f(0.975, df_below, df))
    size = float((sizes**2).sum() / sizes.sum())
    return Correlation(
        icc=float(icc),
        low=low,
        high=high,
        design_effect=float(1 + (size - 1) * max(0.0, icc)),
        data_sets=len(groups),
        runs=int(sizes.sum()),
    )
