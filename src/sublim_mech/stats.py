"""Intervals and nulls. The unit of resampling is the prompt; questions are a sample of the ways to ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
DRAWS = 2000


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


def random_like(inside: Array, draws: int, rng: np.random.Generator) -> Array:
    """Random token sets of the same size and as contiguous as a given one.

    The set's runs are kept, shuffled, and laid at random with at least one token between them.

    Args:
        inside: `(position,)` bool.
        draws: number of random sets.
        rng: source of randomness.

    Returns:
        `(draw, position)` bool.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    runs = edges[1::2] - edges[::2]
    free = len(inside) - int(inside.sum())
    out = np.zeros((draws, len(inside)), bool)
    if len(runs) == 0 or len(runs) > free + 1:  # nothing to place, or no room between runs: the set itself
        return out | inside
    for draw in range(draws):
        # before which of the free tokens (or at the end) each run is laid
        gaps = np.sort(rng.choice(free + 1, size=len(runs), replace=False))
        start = 0
        for before, length in zip(gaps, rng.permutation(runs), strict=True):
            out[draw, before + start : before + start + length] = True
            start += length
    return out
