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
