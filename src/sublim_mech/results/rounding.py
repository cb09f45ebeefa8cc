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

HALF_FLOOR = 1
"""To how many of its type's roundings a metric is known in half precision, as `FLOOR` has it of
fp32. Products are added up in fp32: 0.07 nats in bfloat16 at a metric of -8.8. On
Qwen2.5-Coder-1.5B such products moved a prompt's effect by up to 0.15."""

AT_MOST = 4
"""How much larger than that an effect, of two such metrics, may come out on one prompt: on
SmolLM2-135M in bfloat16 forwards of other sizes are up to 1.9 roundings apart, and up to 2.0 from
those in fp32 (eight prompts, metrics of -8 to -15)."""

EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Of the types that the record of scores names."""


def floor_at(*values: np.ndarray) -> float:
    """Up to which size a change of a metric is rounding.

    Args:
        values: the metric, such as log-probabilities; NaN where there are none. One that is a small
            difference of large numbers is known to less than this.
    """
    return FLOOR * EPSILON["float32"] * _largest(*values)


def _largest(*values: np.ndarray) -> float:
    return max(float(np.nanmax(np.abs(one), initial=0.0)) for one in values)


def floor_of(scores: ScoreArrays) -> float:
    """Up to which size an effect is rounding in fp32."""
    return floor_at(*_ends(scores))


def _ends(scores: ScoreArrays) -> tuple[np.ndarray, np.ndarray]:
    """The metric of the base and of the models."""
    return scores.data["base"].values, scores.data["student"].values


def is_coarse(scores: ScoreArrays) -> bool:
    """Whether models were computed in a type coarser than fp32."""
    return EPSILON.get(scores.record.base.dtype, 0.0) > EPSILON["float32"]


def known_to(scores: ScoreArrays) -> float:
    """Up to which size an effect on one prompt is rounding, in the type that models were computed
    in.

    Rounding to a coarse type differs from prompt to prompt, so that several prompts show in their
    interval what it does to a mean; one prompt alone does not.
    """
    if scores.record.compute is not None:
        return max(floor_of(scores), scores.record.compute.error)
    if not is_coarse(scores):
        return floor_of(scores)
    epsilon = EPSILON[scores.record.base.dtype]
    return AT_MOST * HALF_FLOOR * epsilon * _largest(*_ends(scores))


def is_rounding(effect: np.ndarray, scores: ScoreArrays) -> bool:
    """Whether an effect `(prompt,)` of some scores is of the size of rounding on every prompt, and
    not exactly 0 on all.
    """
    floor = known_to(scores) if len(effect) == 1 else floor_of(scores)
    return bool(effect.any()) and bool((np.abs(effect) <= floor).all())


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
