"""What a token set would have, stood it elsewhere: cyclic shifts, the same for all prompts.

1. Prompts stand on common columns: what their layouts share (a system block, the template's tokens)
   stands in the same column in all of them; shorter prompts have gaps.
2. Set and effect are taken without their means over each prompt's tokens, and are 0 in gaps, so a
   gap counts as an average token. The statistic is what a set has beyond its share of tokens.
3. All shifts by 0 to W - 1 columns are compared, the last column followed by the first. They form a
   group, so for prompts of equal length p is exact (never below its share of shifts) whenever token
   effects are exchangeable, be they each prompt's own or common to all prompts. Placements drawn at
   random do not have this: those of a large set overlap in the middle.
4. Where prompts have gaps, fewer tokens take part in some shifts than in others. Each shift is
   measured in units of the spread it would have if effects were common to all prompts, the case
   in which gaps matter; what is each prompt's own is then judged a little too strictly.
5. The complement of a set has the negative of its statistic at every shift, so one null serves both
   directions, and a set and its complement get the same verdict, turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from .over_prompts import Array

_TIE = 1e-9  # relative: what differs by rounding only counts as equal


@dataclass(frozen=True, eq=False)
class Shifts:
    """What a set has beyond its share of tokens, at its place and at every other.

    Attributes:
        expected: what it would have, were each prompt's effect spread evenly over its tokens.
        excess: `(shift,)` what it has beyond that, shifted by 0, 1, ... columns; 0 is its own
            place. Of prompts with gaps each is scaled to the spread of its own place.
        p: share of shifts that have at least as much as its own place (one-sided).
        p_less: share of shifts that have at most as much.
    """

    expected: float
    excess: Array
    p: float
    p_less: float

    @property
    def places(self) -> int:
        """Shifts that were compared; no p is below one in so many."""
        return len(self.excess)

    @property
    def least_p(self) -> float:
        """The least p that so many shifts can give."""
        return 1 / self.places

    def __repr__(self) -> str:
        return (
            f"Shifts(the set has {self.excess[0]:+z.3g} beyond the {self.expected:+z.3g} of its "
            f"share of tokens; of {self.places} places {self.p:z.1%} have as much, "
            f"{self.p_less:z.1%} as little; p cannot be below {self.least_p:.2g})"
        )


@checked
def shifted(effect: np.ndarray, inside: np.ndarray, present: np.ndarray) -> Shifts:
    """Compare what a token set has with what it would have at every other place.

    Args:
        effect: `(prompt, column)`; what stands in gaps does not count.
        inside: `(prompt, column)` bool, the set.
        present: `(prompt, column)` bool, where a prompt has a token.

    Raises:
        ValueError: shapes that differ, a prompt without a token, a set in a gap, or an effect that
            is not finite.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import shifted
        >>> tokens = np.ones((1, 40), bool)
        >>> start = np.arange(40)[None] < 10
        >>> shifted(np.where(start, 1.0, 0.0), start, tokens).p
        0.025

    Source: permutation tests over a group of transformations (Hoeffding 1952; Lehmann & Romano
    2005, section 15.2); circular shifts as in toroidal shift tests (Lotwick & Silverman 1982).
    """
    if not effect.shape == inside.shape == present.shape or effect.ndim != 2:
        raise ValueError(
            f"effect {effect.shape}, inside {inside.shape} and present {present.shape} must all "
            "be (prompt, column)."
        )
    if (inside & ~present).any():
        raise ValueError("inside: holds columns in which a prompt has no token; pass & present.")
    if not present.any(1).all():
        raise ValueError("present: a prompt has no token at all; leave it out.")
    if not np.isfinite(effect[present]).all():
        raise ValueError("effect: NaN or infinite at a token; 0 where a token has none.")

    tokens = present.sum(1, keepdims=True)
    shares = inside.sum(1, keepdims=True) / tokens
    effect = np.where(present, effect, 0.0)
    totals = effect.sum(1, keepdims=True)
    beyond = np.where(present, effect - totals / tokens, 0.0)  # sums to 0 in every prompt
    weights = np.where(present, inside - shares, 0.0)  # as well; the complement has its negative

    excess = _correlation(weights, beyond) * _scale(weights, present)
    tie = _TIE * np.sqrt((weights**2).sum() * (effect**2).sum())
    return Shifts(
        expected=float((shares * totals).sum()),
        excess=excess,
        p=float(np.mean(excess >= excess[0] - tie)),
        p_less=float(np.mean(excess <= excess[0] + tie)),
    )


def _correlation(weights: Array, beyond: Array) -> Array:
    """`(shift,)`: sum over prompts and columns t of weights[t - shift] * beyond[t], cyclic."""
    transformed = np.conj(np.fft.rfft(weights, axis=1)) * np.fft.rfft(beyond, axis=1)
    return np.fft.irfft(transformed.sum(0), weights.shape[1])


def _scale(weights: Array, present: Array) -> Array:
    """`(shift,)`: spread at shift 0 over that at each shift, for effects common to all prompts.

    Common effects z[t] of variance 1 give the statistic sum over t of z[t] c[t], where c[t] sums
    the shifted weights over the prompts that have a token at t; its variance is sum over t of c^2.
    """
    width = weights.shape[1]
    if present.all():  # each shift sums the same numbers
        return np.ones(width)
    twice = np.concatenate([weights, weights], 1)
    variances = np.empty(width)
    for shift in range(width):
        moved = twice[:, width - shift : 2 * width - shift]
        variances[shift] = (np.einsum("pc,pc->c", moved, present) ** 2).sum()
    nothing = variances <= 1e-12 * variances[0]  # only gaps would be weighed
    return np.where(nothing, 0.0, np.sqrt(variances[0] / np.where(nothing, 1.0, variances)))


@checked
def common_columns(labels: Sequence[Sequence[str]]) -> tuple[list[list[int]], int]:
    """Which column each token of each prompt stands in, so that equal layouts meet.

    A prompt is a sequence of runs of one label. Runs that all prompts have in the same order, from
    their beginning and from their end, get as many columns as the longest of them; what differs
    in between is one run. Within a run tokens stand from its left.

    Args:
        labels: of every prompt, a label per token (its turn and role).

    Returns:
        Of every prompt, the column of each token; and the number of columns.

    Example:
        >>> from sublim_mech.stats.shifts import common_columns
        >>> common_columns([["system", "user", "end"], ["system", "user", "user", "end"]])
        ([[0, 1, 3], [0, 1, 2, 3]], 4)
    """
    runs = [_runs(prompt) for prompt in labels]
    names = [[label for label, _ in prompt] for prompt in runs]
    shortest = min(map(len, names))
    first = _agreeing(names, shortest)
    last = _agreeing([name[::-1] for name in names], shortest - first)

    lengths = []  # of every prompt, of its runs: those in the middle as one
    for prompt in runs:
        counts = [count for _, count in prompt]
        end = len(counts) - last
        lengths.append([*counts[:first], sum(counts[first:end]), *counts[end:]])
    widths = [max(column) for column in zip(*lengths, strict=True)]
    starts = [sum(widths[:run]) for run in range(len(widths))]
    places = []
    for row in lengths:
        columns: list[int] = []
        for start, count in zip(starts, row, strict=True):
            columns += range(start, start + count)
        places.append(columns)
    return places, sum(widths)


def _runs(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Labels and lengths of a prompt's runs."""
    runs: list[tuple[str, int]] = []
    for label in labels:
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1] + 1)
        else:
            runs.append((label, 1))
    return runs


def _agreeing(names: list[list[str]], most: int) -> int:
    """How many names all lists have in common from their beginning, at most so many."""
    count = 0
    while count < most and len({name[count] for name in names}) == 1:
        count += 1
    return count
