"""Effects of the size of rounding: no weight that is on moves what is scored, but batches of other
shapes add up in another order. Such an effect may have one sign on all prompts, so that it stands
outside its noise; it has no shares.
"""

from __future__ import annotations

import numpy as np

from ..stats import Interval, ratio_interval
from .arrays import ScoreArrays

FLOOR = 16
"""A log-probability is known to so many roundings of fp32: on SmolLM2-135M forwards of other sizes,
which add up in another order, differ by 1.6e-5 nats at -8.8."""


def floor_at(*values: np.ndarray) -> float:
    """Up to which size a change of a metric is rounding.

    Args:
        values: the metric, such as log-probabilities; NaN where there are none. One that is a small
            difference of large numbers is known to less than this.
    """
    largest = max(float(np.nanmax(np.abs(one), initial=0.0)) for one in values)
    return float(FLOOR * np.finfo(np.float32).eps * largest)


def floor_of(scores: ScoreArrays) -> float:
    """Up to which size an effect is rounding."""
    return floor_at(scores.data["base"].values, scores.data["student"].values)


def is_rounding(effect: np.ndarray, scores: ScoreArrays) -> bool:
    """Whether an effect `(prompt,)` of some scores is of the size of rounding on every prompt, and
    not exactly 0 on all.
    """
    return bool(effect.any()) and bool((np.abs(effect) <= floor_of(scores)).all())


def shares_of(
    whole: np.ndarray, scores: ScoreArrays, values: np.ndarray, *, seed: int = 0
) -> Interval:
    """`values (prompt, ...)` over an effect `(prompt,)` of some scores, as `ratio_interval` has it;
    NaN where that effect is of the size of rounding.
    """
    if is_rounding(whole, scores):
        nothing = np.full(values.shape[1:], np.nan)
        return Interval(nothing, nothing, nothing)
    return ratio_interval(values, whole, seed=seed)


def shares_of_total(scores: ScoreArrays, values: np.ndarray, *, seed: int = 0) -> Interval:
    """The same over the total effect."""
    return shares_of(scores.total.values, scores, values, seed=seed)
