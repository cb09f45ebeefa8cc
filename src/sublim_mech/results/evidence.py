"""Whether a share is more or less than even: its interval over prompts, its null of shifted sets,
and how both would move if the completeness gap belonged to the set or elsewhere.

`shares` says what is shared out, and tells what is found here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..stats import bootstrap_weights
from .null import Layout, elsewhere


def verdict(excess_low: float, excess_high: float, p: float, p_less: float) -> str:
    """`more`, `less`, or empty: what interval and null say together."""
    if excess_low > 0 and p < 0.05:
        return "more"
    if excess_high < 0 and p_less < 0.05:
        return "less"
    return ""


class Asked(NamedTuple):
    """What is asked.

    Attributes:
        inside: `(prompt, position)` the set.
        real: `(prompt, position)` the prompts' tokens; they stand first.
        laid: where these tokens stand, for the null.
        draws: resamples of prompts.
        seed: of them.
    """

    inside: np.ndarray
    real: np.ndarray
    laid: Layout
    draws: int
    seed: int

    @property
    def even(self) -> float:
        """Share of the tokens."""
        return self.inside.sum() / self.real.sum()


class Shared(NamedTuple):
    """An effect that is shared out.

    Attributes:
        effect: `(prompt, position)` of these cells, 0 past a shorter prompt.
        whole: `(prompt,)`, the prompt's effect, all cells.
    """

    effect: np.ndarray
    whole: np.ndarray


class Found(NamedTuple):
    """What is found of it; the fields of `Concentration` of these names."""

    share: float
    part: float
    low: float
    high: float
    excess_low: float
    excess_high: float
    null_low: float
    null_high: float
    p: float
    p_less: float
    places: int

    @property
    def direction(self) -> str:
        """What they say together."""
        return verdict(self.excess_low, self.excess_high, self.p, self.p_less)


def with_gap(shared: Shared, missing: np.ndarray, asked: Asked, *, selected: bool) -> list[Shared]:
    """The effect with what all cells miss of the total added to it: evenly on the set, evenly on
    the other tokens of the prompt, and, of a selection, in cells that are not here. What some
    models add and others take cancels in one place only, so each may also be in another.

    Args:
        shared: the effect of these cells.
        missing: `(2, prompt)`, what all cells miss (`completeness.missing_by_sign`).
        asked: the set.
        selected: whether these are some of the cells.
    """
    effect, whole = shared
    bound = np.abs(missing.sum(1))
    if not bound.sum() > 1e-9 * np.abs(whole.sum()):  # rounding turns nothing
        return []
    places: list[np.ndarray | None] = [asked.inside, asked.real & ~asked.inside]
    if selected:
        places.append(None)
    apart = bound.min() > 1e-9 * np.abs(whole.sum())
    variants = []
    for pair in itertools.product(places, repeat=2):
        if pair[0] is not pair[1] and not apart:
            continue
        added, all_added = effect, whole
        for tokens, some in zip(pair, missing, strict=True):
            there = np.ones(len(some), bool)
            if tokens is not None:
                counts = tokens.sum(1, keepdims=True)
                added = added + np.where(tokens, some[:, None] / np.maximum(counts, 1), 0.0)
                there = counts[:, 0] > 0
            all_added = all_added + some * there
        variants.append(Shared(added, all_added))
    return variants


def find(variants: Sequence[Shared], asked: Asked) -> list[Found]:
    """Shares with their interval and null; all prompts together: sums over prompts, not a mean of
    ratios.
    """
    return [_find(variant, asked) for variant in variants]


def _find(shared: Shared, asked: Asked) -> Found:
    effect, whole = shared
    on_set, on_all = (effect * asked.inside).sum(1), effect.sum(1)  # (prompt,)
    with np.errstate(divide="ignore", invalid="ignore"):  # an effect of 0 has no shares
        share, part = on_set.sum() / whole.sum(), on_all.sum() / whole.sum()
        # what other prompts would have given
        low, high, excess_low, excess_high = (np.nan,) * 4
        if len(on_set) > 1:
            weights = bootstrap_weights(len(on_set), draws=asked.draws, seed=asked.seed)
            shares = (weights @ on_set) / (weights @ whole)
            low, high = np.percentile(shares, [2.5, 97.5])
            excess = shares - asked.even * (weights @ on_all) / (weights @ whole)
            excess_low, excess_high = np.percentile(excess, [2.5, 97.5])
        # what the set would have given elsewhere
        shifts = elsewhere(asked.laid, effect, asked.inside)
        null = (shifts.expected + shifts.excess) / whole.sum()
    null_low, null_high = np.percentile(null, [2.5, 97.5])
    # over a negative effect the most of it is the largest share
    p, p_less = (shifts.p, shifts.p_less) if whole.sum() > 0 else (shifts.p_less, shifts.p)
    intervals = (low, high, excess_low, excess_high, null_low, null_high)
    return Found(share, part, *intervals, p, p_less, shifts.places)
