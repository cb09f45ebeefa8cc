"""The trait of two kinds of students at equal held-out KL.

A student that imitates its teacher better has more of its trait, so ranks, or LoRA and full
fine-tuning, are compared where they imitate alike: at equal KL(teacher || student) on held-out
prompts. A curve has one point per learning rate (or snapshot). Between points the trait is taken
linearly in log KL; beyond its ends a curve says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import checked
from ..hints import counted
from .nesting import NestedInterval, nested_interval
from .over_prompts import Array


@checked
@dataclass(frozen=True, eq=False)
class Curve:
    """Students of one kind on one data set, from the least to the most imitation.

    Attributes:
        kl: `(point,)` held-out KL, above 0.
        trait: `(point,)` what is compared, at these.
    """

    kl: Array
    trait: Array

    def __post_init__(self) -> None:
        kl, trait = np.asarray(self.kl, float), np.asarray(self.trait, float)
        if kl.ndim != 1 or kl.shape != trait.shape or not len(kl):
            raise ValueError(
                f"kl {kl.shape} and trait {trait.shape}: one number each per point, at least one."
            )
        if not (kl > 0).all() or not np.isfinite(kl).all() or not np.isfinite(trait).all():
            raise ValueError("kl must be above 0, and neither kl nor trait NaN or infinite.")
        # students of one KL are one point: their mean
        levels, place = np.unique(kl, return_inverse=True)
        means = np.bincount(place, trait) / np.bincount(place)
        object.__setattr__(self, "kl", levels)
        object.__setattr__(self, "trait", means)

    def at(self, kl: Array) -> Array:
        """The trait at these KLs, linear in log KL; NaN beyond the ends."""
        return np.interp(np.log(kl), np.log(self.kl), self.trait, left=np.nan, right=np.nan)

    def mean_over(self, low: float, high: float) -> float:
        """The mean of the trait from one KL to another, every step of log KL alike.

        NaN where the curve does not reach over all of it.
        """
        if low == high:
            return float(self.at(np.array([low]))[0])
        inside = self.kl[(self.kl > low) & (self.kl < high)]
        knots = np.concatenate([[low], inside, [high]])
        return float(np.trapezoid(self.at(knots), np.log(knots)) / math.log(high / low))


@dataclass(frozen=True)
class EqualKL:
    """How much more trait one kind of student has than another at equal held-out KL.

    Attributes:
        low_kl, high_kl: the least and the greatest KL of those that pairs are compared over; both
            are one number where that was asked for; NaN where there is none.
        difference: first minus second, over data sets; None where no pair has a common KL.
        by_pair: the difference of each pair of curves, in order, the mean over the KLs that both
            reach (`within`); NaN where they reach none.
        within: the KLs that both curves of each pair reach; crossed where they reach none.
        over: those that each pair is compared over: `within`, or twice the one that was asked for.
        at: the KL that was asked for; None where it was none.
    """

    low_kl: float
    high_kl: float
    difference: NestedInterval | None
    by_pair: tuple[float, ...]
    within: tuple[tuple[float, float], ...]
    over: tuple[tuple[float, float], ...]
    at: float | None = None

    @property
    def unreached(self) -> str:
        """Which KL is not reached; empty where there is a difference."""
        if self.difference is not None:
            return ""
        low, high = max(pair[0] for pair in self.within), min(pair[1] for pair in self.within)
        if self.at is None:
            return "no held-out KL is reached by both kinds"
        if low > high:
            return "no held-out KL is reached by all"
        reached = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        return f"held-out KL {self.at:.3g} is not reached by all, {reached} is"

    @property
    def left_out(self) -> int:
        """How many pairs have no KL that both curves reach."""
        return 0 if self.difference is None else sum(map(math.isnan, self.by_pair))

    def __repr__(self) -> str:
        if self.difference is None:
            reach = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in self.within)
            unreached = self.unreached.replace("by all", "by all curves")
            return f"{unreached} (per pair, both from ... to: {reach})"
        where = f"{self.low_kl:.3g} to {self.high_kl:.3g}"
        if self.low_kl == self.high_kl:
            where = f"{self.low_kl:.3g}"
        if self.left_out:
            where += f" ({self.left_out} of {len(self.by_pair)} pairs reach none and are left out)"
        return f"first - second at held-out KL {where}: {self.difference!r}"


@checked
def equal_kl(
    first: Sequence[Curve],
    second: Sequence[Curve],
    *,
    data_set: Sequence[Hashable] | None = None,
    at: float | None = None,
    seed: int = 0,
) -> EqualKL:
    """The difference of two kinds of students at equal held-out KL, over data sets.

    Args:
        first: one curve per data set (or per training seed of it).
        second: of the same, in the same order.
        data_set: of each pair of curves; each is its own when not given.
        at: the KL to compare at, which all curves must reach; each pair over the KLs that both of
            its curves reach when not given. (Traits and data sets differ in how near their teacher
            the base is, and so in the KLs of all their students.)
        seed: of the bootstrap.

    Returns:
        Without a difference, and saying so, where no pair has a KL that both of its curves reach;
        nothing is continued beyond the points of a curve, and pairs without such a KL are left out.

    Raises:
        ValueError: other numbers of curves, or a KL that is not above 0.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import Curve, equal_kl
        >>> lora = [Curve(np.array([1e-3, 4e-3]), np.array([0.5, 0.1 + x])) for x in (0, 0.1)]
        >>> full = [Curve(np.array([2e-3, 8e-3]), np.array([0.3, 0.1])) for _ in range(2)]
        >>> found = equal_kl(lora, full)
        >>> found.low_kl, found.high_kl, round(found.difference.mean, 3)
        (0.002, 0.004, -0.012)

    Source: piecewise linear interpolation and the trapezoid rule; the interval is
    `nested_interval`'s over data sets.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"first has {counted(len(first), 'curve')}, second {len(second)}: give both kinds for "
            "every data set, in the same order."
        )
    if data_set is not None and len(data_set) != len(first):
        raise ValueError(
            f"data_set has {counted(len(data_set), 'entry', 'entries')} for "
            f"{counted(len(first), 'pair')} of curves; give one per pair."
        )
    if at is not None and not 0 < at < math.inf:
        raise ValueError(f"at={at}: a KL above 0 is needed.")
    pairs = list(zip(first, second, strict=True))
    within = tuple((float(max(a.kl[0], b.kl[0])), float(min(a.kl[-1], b.kl[-1]))) for a, b in pairs)
    labels = list(range(len(pairs))) if data_set is None else list(data_set)
    if at is not None:
        over = tuple((at, at) for _ in pairs)
        compared = [all(low <= at <= high for low, high in within)] * len(pairs)
    else:
        over, compared = within, [low <= high for low, high in within]
    if not any(compared):
        nothing = (math.nan,) * len(pairs)
        return EqualKL(math.nan, math.nan, None, nothing, within, over, at)
    differences = tuple(
        a.mean_over(*ends) - b.mean_over(*ends) if reached else math.nan
        for (a, b), ends, reached in zip(pairs, over, compared, strict=True)
    )
    kept = [i for i, reached in enumerate(compared) if reached]
    interval = nested_interval(
        np.array([differences[i] for i in kept]), [labels[i] for i in kept], seed=seed
    )
    low, high = min(over[i][0] for i in kept), max(over[i][1] for i in kept)
    return EqualKL(low, high, interval, differences, within, over, at)
