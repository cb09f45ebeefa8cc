"""Intervals and nulls. The unit of resampling is the prompt; questions are a sample of ways to ask.

- `mean_interval`, `ratio_interval`: percentile bootstrap over prompts.
- `max_t`: which cells of a map differ from 0, with the error rate of the whole map.
- `wilson`: the interval of a proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..arguments import checked

Array = np.ndarray
"""Numbers with any number of axes."""

DRAWS = 2000
"""Resamples of a bootstrap, and random permutations of a test."""

FEWEST = 6
"""Prompts a cell needs to be tested.

Of fewer, no pattern of signs is rarer than 2 in 32, which is above 5 %.
"""

_MOST_LISTED = 12  # prompts up to which all patterns of signs are taken: 2^12 = 4096
_CHUNK = 10**6  # numbers held at once while patterns of signs are tried


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile-bootstrap interval (Efron 1979).

    Attributes:
        mean, low, high: arrays of one shape; NaN where there is no interval.
    """

    mean: Array
    low: Array
    high: Array

    @property
    def excludes_zero(self) -> Array:
        """Where the interval lies on one side of 0; False where there is none (a single prompt)."""
        return (self.low > 0) | (self.high < 0)


@checked
def bootstrap_weights(n: int, *, draws: int = DRAWS, seed: int = 0) -> Array:
    """How often each of n prompts is drawn, over n: `(draw, n)`, rows sum to 1.

    Example:
        >>> from sublim_mech.stats import bootstrap_weights
        >>> bootstrap_weights(4, draws=10).shape
        (10, 4)
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) / n


@checked
def mean_interval(values: Array, *, seed: int = 0) -> Interval:
    """Mean over prompts with its interval; NaN bounds for a single prompt.

    Args:
        values: `(prompt, ...)`; where one is NaN, so are mean and bounds.
        seed: of the resampling.

    Raises:
        ValueError: no prompts.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import mean_interval
        >>> found = mean_interval(np.array([0.1, 0.2, 0.3]))
        >>> round(float(found.mean), 3), bool(found.excludes_zero)
        (0.2, True)
    """
    _check_prompts("values", values)
    mean = values.mean(0)
    if len(values) < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    draws = np.tensordot(bootstrap_weights(len(values), seed=seed), values, 1)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return Interval(mean, low, high)


@checked
def ratio_interval(
    numerator: Array, denominator: Array, *, seed: int = 0, counts: bool = False
) -> Interval:
    """mean(numerator) / mean(denominator) over prompts, both resampled together.

    NaN where the denominator is inside its noise; a count has none. No bounds where a resample's
    denominator is 0.

    Args:
        numerator: `(prompt, ...)`.
        denominator: `(prompt,)`, of the same prompts.
        seed: of the resampling.
        counts: the denominator counts things (tokens), of which numerators are sums: the ratio is
            NaN where there are none at all.

    Raises:
        ValueError: no prompts, or another number of them in each.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import ratio_interval
        >>> float(ratio_interval(np.array([1.0, 2.0]), np.array([2.0, 4.0])).mean)
        0.5
    """
    _check_prompts("numerator", numerator)
    if denominator.shape != numerator.shape[:1]:
        raise ValueError(
            f"denominator has shape {denominator.shape}, numerator {numerator.shape}: both begin "
            f"with the same prompts; pass a denominator of shape {numerator.shape[:1]}."
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # over nothing there is no ratio
        ratio = numerator.mean(0) / denominator.mean()
    nothing = np.full_like(ratio, np.nan)
    if len(denominator) < 2:
        return Interval(ratio, nothing, nothing)
    weights = bootstrap_weights(len(denominator), seed=seed)
    resampled = weights @ denominator
    if not counts and not mean_interval(denominator, seed=seed).excludes_zero:
        return Interval(nothing, nothing, nothing)
    if not resampled.all():
        return Interval(ratio, nothing, nothing)
    numerators = np.tensordot(weights, numerator, 1)
    denominators = resampled.reshape(-1, *[1] * (numerator.ndim - 1))
    low, high = np.percentile(numerators / denominators, [2.5, 97.5], axis=0)
    return Interval(ratio, low, high)


def _check_prompts(argument: str, values: Array) -> None:
    """Refuse numbers of no prompt."""
    if not values.ndim or not len(values):
        raise ValueError(
            f"{argument} has shape {values.shape}: pass (prompt, ...), one number of each prompt."
        )


# ------------------------------------------------------------------------------------ maps of cells


@dataclass(frozen=True)
class MaxT:
    """Mean, t and family-wise p of every cell; arrays share one shape.

    Attributes:
        n: prompts that have the cell.
        mean: over these prompts.
        t: mean over its standard error; 0 where all are 0, infinite where all are one other number.
        p: two-sided, adjusted over all cells; NaN where the cell was not tested (fewer than
            `FEWEST` prompts).
    """

    n: Array
    mean: Array
    t: Array
    p: Array

    @property
    def noise(self) -> Array:
        """Where a cell is not distinguishable from 0 at 5 %, for want of effect or of prompts."""
        return ~(self.p < 0.05)


@checked
def max_t(maps: Array, *, seed: int = 0, draws: int = 5000) -> MaxT:
    """Which cells of a map differ from 0, at the error rate of one test for the whole map.

    Sign flips (under the null every prompt's map is as likely as its negative) with the step of the
    largest |t| over cells (Westfall & Young 1993; Nichols & Holmes 2002, doi:10.1002/hbm.1058). A
    prompt's sign is the same for all its cells, so their correlation is kept: for neighbouring
    layers and tokens far less strict than Bonferroni. Among maps without any effect, symmetric
    about 0, at most 5 % have a cell with p < 0.05 (family-wise error); with effects in some cells
    this holds for the others too.

    Args:
        maps: `(prompt, ...)`, NaN where a prompt has no such cell.
        seed: of the random signs.
        draws: random sign patterns; of up to 12 prompts all patterns are taken instead.

    Returns:
        Per cell p = (patterns whose largest |t| reaches this cell's + 1) / (draws + 1); over all
        patterns, the plain share, for these include the one that was observed.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import max_t
        >>> maps = np.array([[1.0, 0.1], [1.1, -0.1], [0.9, 0.1], [1.0, 0.0], [1.2, 0], [1, -0.2]])
        >>> max_t(maps).noise
        array([False,  True])
    """
    shape = maps.shape[1:]
    prompts = len(maps)
    cells = maps.reshape(prompts, -1)
    present = np.isfinite(cells)
    counts = present.sum(0)
    cells = np.where(present, cells, 0.0)
    totals = cells.sum(0)
    squares = (cells**2).sum(0)
    tested = counts >= FEWEST

    observed = _t(totals, squares, counts)
    signs, listed_all = _signs(prompts, draws, seed)
    p = np.full(len(counts), np.nan)
    if tested.any():
        # the largest |t| of each pattern, a part of the patterns at a time
        parts = np.array_split(signs, -(-len(signs) * int(tested.sum()) // _CHUNK))
        largest = np.concatenate(
            [_t(part @ cells[:, tested], squares[tested], counts[tested]).max(1) for part in parts]
        )
        # a flip that gives the same numbers must count as reaching them, whatever the rounding
        thresholds = observed[tested] * (1 - 1e-9)
        reached = len(largest) - np.searchsorted(np.sort(largest), thresholds)
        if listed_all:
            p[tested] = reached / len(signs)
        else:
            p[tested] = (reached + 1) / (draws + 1)

    with np.errstate(invalid="ignore"):
        means = totals / counts
        signed = np.sign(totals) * observed
    return MaxT(
        n=counts.reshape(shape),
        mean=means.reshape(shape),
        t=signed.reshape(shape),
        p=p.reshape(shape),
    )


def _signs(prompts: int, draws: int, seed: int) -> tuple[Array, bool]:
    """Patterns of signs `(pattern, prompt)`, and whether they are all there are."""
    if prompts <= _MOST_LISTED:
        return np.array(list(product((1.0, -1.0), repeat=prompts))), True
    rng = np.random.default_rng(seed)
    return rng.choice((1.0, -1.0), size=(draws, prompts)), False


def _t(totals: Array, squares: Array, counts: Array) -> Array:
    """|t| of cells `(..., cell)` from their sums, sums of squares and numbers of prompts.

    A sum of squares does not change with signs, so t follows from the sum alone: with
    u = sum^2 / (n * squares), t^2 = (n - 1) u / (1 - u).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(squares > 0, totals**2 / (counts * squares), 0.0)
        u = np.where(u > 1 - 1e-12, 1.0, u)
        return np.where(counts > 1, np.sqrt((counts - 1) * u / (1 - u)), np.nan)


# -------------------------------------------------------------------------------------- proportions


@checked
def wilson(count: int, n: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Args:
        count: successes.
        n: independent trials.
        z: standard normal quantile; that of 95 %.

    Raises:
        ValueError: no trials, or a count outside them.

    Example:
        >>> from sublim_mech.stats import wilson
        >>> low, high = wilson(1, 100)
        >>> round(low, 4), round(high, 4)
        (0.0018, 0.0545)
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(
            f"wilson(count={count}, n={n}): needs 0 <= count <= n and at least one trial."
        )
    p = count / n
    shrink = 1 + z**2 / n
    middle = (p + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = 0.0 if count == 0 else middle - half
    high = 1.0 if count == n else middle + half
    return low, high
