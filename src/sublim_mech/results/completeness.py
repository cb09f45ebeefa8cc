"""How complete integrals are, in words: what their cells miss of the effect they should add up to,
how many points it took, and where it stopped short.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..hints import at_most, counted
from ..stats import mean_interval
from .arrays import ScoreArrays
from .rounding import is_rounding
from .select import of_each_step


def gap_in_words(scores: ScoreArrays) -> str:
    """The completeness gap of the headline, and the largest of a single model where it is another.

    It is told as a part of an effect only where that is outside its own noise. Empty where it is
    not known, or relative to nothing at all: a total of exactly 0.
    """
    if "row" in scores.data:
        return _gap_of_rows(scores)
    if not scores.knows_whole:
        return ""
    missing, total = float(scores.missing.mean()), scores.total.values
    if total.mean() == 0:
        return ""
    if not stands_out(total, scores):
        return f"completeness gap {abs(missing):.2g} {scores.unit} (all cells)"
    line = f"completeness gap {abs(missing / total.mean()):z.2%} of the total effect (all cells)"
    if not scores.has_controls:
        return line
    single, quiet = single_gaps(scores)
    if single is None and quiet is None:
        return line
    told = []
    if single is not None:
        told.append(f"of single models and their own effects at most {single:z.2%}")
    if quiet is not None:
        others = "those" if told else "single models"
        told.append(f"of {others} inside their own noise at most {at_most(quiet, 2)} {scores.unit}")
    return f"{line}; {', '.join(told)}"


def gap_in_short(scores: ScoreArrays, words: str) -> str:
    """The gap as pictures tell it: that of single models too where the headline's hides it, because
    gaps of student and controls cancel.

    Args:
        scores: the result.
        words: what `gap_in_words` says of it.
    """
    short = words.partition(" of ")[0]
    if "%" not in short or not scores.has_controls:
        return short
    single = single_gaps(scores).largest
    if single is None:
        return short
    net = abs(float(scores.missing.mean()) / float(scores.total.mean()))
    if single <= max(LARGE, 2 * net):
        return short
    return f"{short}, of single models up to {single:z.2%}"


LARGE = 0.1
"""Gap of a single model, over its own effect, from which on its cells are not what it did."""


class SingleGaps(NamedTuple):
    """What the cells of single models miss at most; None where there is no such model, or it is not
    known.

    Attributes:
        largest: of models whose effect is outside its own noise, as a part of it.
        quiet: of the others, whose effect has no parts, in the unit of the scores.
    """

    largest: float | None = None
    quiet: float | None = None


def single_gaps(scores: ScoreArrays) -> SingleGaps:
    """The largest completeness gaps of single models."""
    if "row" in scores.data or not scores.additive or not scores.knows_whole:
        return SingleGaps()
    whole = (scores.data["student"] - scores.data["base"]).transpose("model", "prompt").values
    loud = np.array([stands_out(effect, scores) for effect in whole])
    parts, missed = scores.gaps.values[loud], np.abs(_missed(scores).mean(1))[~loud]
    return SingleGaps(*(float(some.max()) if len(some) else None for some in (parts, missed)))


def missing_by_sign(scores: ScoreArrays) -> np.ndarray:
    """`(2, prompt)`: what all cells of the headline miss, of the models that add to it and of those
    that take from it; the two cancel in `ScoreArrays.missing`, which is their sum.
    """
    of_headline = _missed(scores).copy()
    if scores.has_controls:
        of_headline[1:] /= -(len(of_headline) - 1)
    adds = of_headline.sum(1) > 0
    return np.stack([of_headline[adds].sum(0), of_headline[~adds].sum(0)])


def _missed(scores: ScoreArrays) -> np.ndarray:
    """`(model, prompt)`: what all cells of each model miss of its effect."""
    missed = scores.data["student"] - scores.data["base"]
    missed = missed - scores.whole["prompt_effect"] - scores.whole["answer_effect"]
    return missed.transpose("model", "prompt").values


def stands_out(effect: np.ndarray, scores: ScoreArrays) -> bool:
    """Whether an effect `(prompt,)` of some scores can be divided by: larger than rounding, and
    outside its noise or that of a single prompt.
    """
    if not effect.any() or is_rounding(effect, scores):
        return False
    return len(effect) == 1 or bool(mean_interval(effect).excludes_zero)


def gap_of_steps(scores: ScoreArrays) -> str:
    """The largest completeness gap of several steps; empty where it is not known."""
    gaps = [view.gap for view in of_each_step(scores).values() if view.knows_whole]
    if not np.isfinite(gaps).any():
        return ""
    return f"completeness gap at most {np.nanmax(gaps):z.2%}, of any model and step"


def _gap_of_rows(scores: ScoreArrays) -> str:
    """Of activation IG: each layer's cells against patching its whole row."""
    missing, row = (np.abs(scores.data[name].mean("prompt")) for name in ("missing_of_row", "row"))
    if not float(row.sum()):
        return ""
    gap = float(missing.sum() / row.sum())
    return (
        f"completeness gap {gap:z.2%} of the effects of patching whole "
        "rows, layer by layer (all cells)"
    )


def points_in_words(scores: ScoreArrays) -> list[str]:
    """How many points were taken where each integral had as many as it needed; nothing of other
    scores.
    """
    if "points" not in scores.data:
        return []
    points = scores.data["points"].values
    of = ["student", "prompt", *map(str, scores.data["points"].dims[2:])]
    per = f"{', '.join(of[:-1])} and {of[-1]}"
    low, high = int(points.min()), int(points.max())
    count = f"{low}" if low == high else f"{low} to {high}, mean {points.mean():z.1f}"
    return [f"points: {count} for each {per}"]


def stopped(scores: ScoreArrays) -> list[tuple[str, str]]:
    """Which integrals stopped short of the points they needed, in full and in short; nothing where
    none did.
    """
    if "capped" not in scores.data:
        return []
    capped = scores.data["capped"].values > 0
    if not capped.any():
        return []
    gap = _gaps(scores)[capped]
    upto = f"{np.nanmax(gap):.2g}" if np.isfinite(gap).any() else "unknown"
    whole = counted(capped.size, "integral")
    how = "stopped at the cap of points"
    text = f"{capped.sum()} of {whole} {how}: their cells miss up to {upto} {scores.unit}"
    return [(text, f"{counted(int(capped.sum()), 'integral')} {how}")]


def _gaps(scores: ScoreArrays) -> np.ndarray:
    """What each integral misses, `(model, prompt[, layer])`; NaN where that is not known."""
    data = scores.data
    if "missing_of_row" in data:
        return np.abs(data["missing_of_row"].values)
    if not scores.knows_whole:
        return np.full(data["points"].shape, np.nan)
    whole = scores.whole
    found = whole["prompt_effect"] + whole["answer_effect"]
    gap = data["student"] - data["base"] - found
    return np.abs(gap.transpose(*data["points"].dims, ...).values)
