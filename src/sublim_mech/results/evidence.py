"""Whether a share is more or less than even: its interval over prompts, its null of random sets,
and how both would move if the completeness gap belonged to the set or elsewhere.

`shares` says what is shared out, and tells what is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..stats import bootstrap_weights, random_like


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
        draws: resamples and random sets.
        seed: of both.
    """

    inside: np.ndarray
    real: np.ndarray
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

    @property
    def direction(self) -> str:
        """What they say together."""
        return verdict(self.excess_low, self.excess_high, self.p, self.p_less)


def with_gap(shared: Shared, missing: np.ndarray, asked: Asked, *, selected: bool) -> list[Shared]:
    """The effect with what all cells miss of the total added to it: evenly on the set, evenly on
    the other tokens of the prompt, and, of a selection, in cells that are not here.

    Args:
        shared: the effect of these cells.
        missing: `(prompt,)`, what all cells miss.
        asked: the set.
        selected: whether these are some of the cells.
    """
    effect, whole = shared
    if not np.abs(missing.sum()) > 1e-9 * np.abs(whole.sum()):  # rounding turns nothing
        return []
    variants = [Shared(effect, whole + missing)] if selected else []
    for tokens in (asked.inside, asked.real & ~asked.inside):
        counts = tokens.sum(1, keepdims=True)
        added = np.where(tokens, missing[:, None] / np.maximum(counts, 1), 0.0)
        variants.append(Shared(effect + added, whole + missing * (counts[:, 0] > 0)))
    return variants


def find(variants: Sequence[Shared], asked: Asked) -> list[Found]:
    """Shares with their interval and null; all prompts together: sums over prompts, not a mean of
    ratios.
    """
    draws, seed = asked.draws, asked.seed
    nulls = _nulls([variant.effect for variant in variants], asked)
    found = []
    for (effect, whole), null in zip(variants, nulls, strict=True):
        on_set, on_all = (effect * asked.inside).sum(1), effect.sum(1)  # (prompt,)
        with np.errstate(divide="ignore", invalid="ignore"):  # an effect of 0 has no shares
            share, part = on_set.sum() / whole.sum(), on_all.sum() / whole.sum()
            # what other prompts would have given
            low, high, excess_low, excess_high = (np.nan,) * 4
            if len(on_set) > 1:
                weights = bootstrap_weights(len(on_set), draws=draws, seed=seed)
                shares = (weights @ on_set) / (weights @ whole)
                low, high = np.percentile(shares, [2.5, 97.5])
                excess = shares - asked.even * (weights @ on_all) / (weights @ whole)
                excess_low, excess_high = np.percentile(excess, [2.5, 97.5])
            # what other sets of tokens would have given
            null = null / whole.sum()
        null_low, null_high = np.percentile(null, [2.5, 97.5])
        at_least = (1 + (null >= share - 1e-12).sum()) / (1 + draws)
        at_most = (1 + (null <= share + 1e-12).sum()) / (1 + draws)
        intervals = (low, high, excess_low, excess_high, null_low, null_high)
        found.append(Found(share, part, *intervals, at_least, at_most))
    return found


def _nulls(effects: Sequence[np.ndarray], asked: Asked) -> list[np.ndarray]:
    """Per effect `(prompt, position)`, what it is on random token sets, summed over prompts:
    `(draw,)`.
    """
    lengths = asked.real.sum(1)
    on_random_sets = [np.zeros(asked.draws) for _ in effects]
    for prompt, length in enumerate(lengths):
        # one placement per draw for all prompts: they share their layout, so each starts anew
        generator = np.random.default_rng(asked.seed)
        tokens = asked.inside[prompt, :length]
        sets = random_like(tokens, asked.draws, generator, width=lengths.max() + 1)
        for summed, effect in zip(on_random_sets, effects, strict=True):
            summed += sets @ effect[prompt, :length]
    return on_random_sets
