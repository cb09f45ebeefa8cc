"""Intervals and nulls. The unit of resampling is the prompt; questions are a sample of the ways to ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

Array = np.ndarray
DRAWS = 2000
FEWEST = 6
"""Prompts a cell needs to be tested: of fewer, no pattern of signs is rarer than 2 in 32, which is above 5 %."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile-bootstrap interval (Efron 1979). Arrays share one shape."""

    mean: Array
    low: Array
    high: Array

    @property
    def excludes_zero(self) -> Array:
        """Where the interval lies on one side of 0; False where there is none (a single prompt)."""
        return (self.low > 0) | (self.high < 0)


def bootstrap_weights(n: int, *, draws: int = DRAWS, seed: int = 0) -> Array:
    """How often each of n prompts is drawn, over n: `(draw, n)`, rows sum to 1."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) / n


def mean_interval(x: Array, *, seed: int = 0) -> Interval:
    """Mean over the first axis (prompts) with its interval; NaN bounds for a single prompt."""
    mean = x.mean(0)
    if len(x) < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    draws = np.tensordot(bootstrap_weights(len(x), seed=seed), x, 1)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return Interval(mean, low, high)


def ratio_interval(numerator: Array, denominator: Array, *, seed: int = 0) -> Interval:
    """mean(numerator) / mean(denominator) over prompts, both resampled together; NaN where the denominator is inside its noise.

    Args:
        numerator: `(prompt, ...)`.
        denominator: `(prompt,)`.
        seed: of the resampling.
    """
    mean = numerator.mean(0) / denominator.mean()
    nothing = np.full_like(mean, np.nan)
    if len(denominator) < 2:
        return Interval(mean, nothing, nothing)
    if not mean_interval(denominator, seed=seed).excludes_zero:
        return Interval(nothing, nothing, nothing)
    weights = bootstrap_weights(len(denominator), seed=seed)
    below = weights @ denominator
    draws = np.tensordot(weights, numerator, 1) / below.reshape(-1, *[1] * (numerator.ndim - 1))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return Interval(mean, low, high)


@dataclass(frozen=True)
class MaxT:
    """Mean, t and family-wise p of every cell; arrays share one shape.

    Attributes:
        n: prompts that have the cell.
        mean: over these prompts.
        t: mean over its standard error; 0 where all are 0, infinite where all are one other number.
        p: two-sided, adjusted over all cells; NaN where the cell was not tested (fewer than `FEWEST` prompts).
    """

    n: Array
    mean: Array
    t: Array
    p: Array

    @property
    def noise(self) -> Array:
        """Where a cell is not distinguishable from 0 at 5 %, for want of effect or of prompts."""
        return ~(self.p < 0.05)


def max_t(x: Array, *, seed: int = 0, draws: int = 5000) -> MaxT:
    """Which cells of a map differ from 0, with the error rate of the whole map held at that of one test.

    Sign flips (under the null every prompt's map is as likely as its negative) with the step of the largest |t| over cells
    (Westfall & Young 1993; Nichols & Holmes 2002, doi:10.1002/hbm.1058). A prompt's sign is the same for all its cells, so
    their correlation is kept: for neighbouring layers and tokens far less strict than Bonferroni. Among maps without any effect,
    symmetric about 0, at most 5 % have a cell with p < 0.05 (family-wise error); with effects in some cells this holds for the
    others too.

    Args:
        x: `(prompt, ...)`, NaN where a prompt has no such cell.
        seed: of the random signs.
        draws: random sign patterns; of up to 12 prompts all patterns are taken instead.

    Returns:
        Per cell p = (patterns whose largest |t| reaches this cell's + 1) / (draws + 1); over all patterns, the plain share, for
        these include the one that was observed.
    """
    shape, n = x.shape[1:], len(x)
    x = x.reshape(n, -1)
    there = np.isfinite(x)
    count = there.sum(0)
    x = np.where(there, x, 0.0)
    total, squares = x.sum(0), (x**2).sum(0)
    tested = count >= FEWEST

    def t_of(sums: Array, which: Array) -> Array:
        # a sum of squares does not change with signs, so t follows from the sum alone: t^2 = (n - 1) u / (1 - u)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(squares[which] > 0, sums**2 / (count[which] * squares[which]), 0.0)
            u = np.where(u > 1 - 1e-12, 1.0, u)
            return np.where(count[which] > 1, np.sqrt((count[which] - 1) * u / (1 - u)), np.nan)

    t = t_of(total, np.ones_like(tested))
    exact = n <= 12
    rng = np.random.default_rng(seed)
    signs = np.array(list(product((1.0, -1.0), repeat=n))) if exact else rng.choice((1.0, -1.0), size=(draws, n))
    p = np.full(len(count), np.nan)
    if tested.any():
        chunks = np.array_split(signs, -(-len(signs) * int(tested.sum()) // 10**6))
        largest = np.concatenate([t_of(part @ x[:, tested], tested).max(1) for part in chunks])
        # a flip that gives the same numbers must count as reaching them, whatever the rounding
        reached = len(largest) - np.searchsorted(np.sort(largest), t[tested] * (1 - 1e-9))
        p[tested] = reached / len(signs) if exact else (reached + 1) / (draws + 1)
    with np.errstate(invalid="ignore"):
        mean = total / count
        out = count, mean, np.sign(total) * t, p
    return MaxT(*(a.reshape(shape) for a in out))


def random_like(inside: Array, draws: int, rng: np.random.Generator, *, width: int | None = None) -> Array:
    """Random token sets of the same size and as contiguous as a given one.

    The set's runs are kept, shuffled, and laid at random with at least one token between them. Token sets of several prompts are
    not independent (a chat template puts them, and effects, at the same places in all), so a null for them must place them alike:
    generators of one seed and one `width` give prompts of the same layout the same sets, and similar prompts similar ones.

    Args:
        inside: `(position,)` bool.
        draws: number of random sets.
        rng: source of randomness.
        width: random numbers per draw; the longest prompt's length + 1 (default: this one's).

    Returns:
        `(draw, position)` bool.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    runs = edges[1::2] - edges[::2]
    free = len(inside) - int(inside.sum())
    out = np.zeros((draws, len(inside)), bool)
    places, turns = rng.random((2, draws, width or len(inside) + 1))
    if len(runs) == 0 or len(runs) > free + 1:  # nothing to place, or no room between runs: the set itself
        return out | inside
    for draw in range(draws):
        # before which of the free tokens (or at the end) each run is laid: those with the smallest random numbers
        gaps = np.sort(np.argsort(places[draw, : free + 1])[: len(runs)])
        start = 0
        for before, length in zip(gaps, runs[np.argsort(turns[draw, : len(runs)])], strict=True):
            out[draw, before + start : before + start + length] = True
            start += length
    return out


def wilson(count: int, n: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Args:
        count: successes.
        n: independent trials.
        z: standard normal quantile; that of 95 %.

    Raises:
        ValueError: no trials, or a count outside them.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"wilson(count={count}, n={n}): needs 0 <= count <= n and at least one trial.")
    p, shrink = count / n, 1 + z**2 / n
    middle, half = (p + z**2 / (2 * n)) / shrink, z / shrink * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (0.0 if count == 0 else middle - half), (1.0 if count == n else middle + half)
