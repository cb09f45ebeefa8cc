"""That a metric is at its bound: a log-probability at its ceiling of 0, from which it cannot rise,
an entropy at its floor of 0, a rank at 1. A KL to the base is 0 of the base itself, and so of no
student that changed; other metrics have no bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from .arrays import ScoreArrays

CEILING = 0.05
"""Nats below the ceiling of 0 from which on a log-probability is said to be at it (95 %)."""


NEAR_1 = 2.0
"""Mean rank below which a token is mostly the likeliest one, and its rank at its least."""


class Dose(NamedTuple):
    """What a gate other than 0 and 1 does.

    Attributes:
        name: of the scale, or of the set that is scaled.
        scale: the gate, or what the gates of the set are multiplied by.
        effect: `(model, prompt)`.
        change: of the metric from the base, `(model, prompt)`: the effect itself, but of necessity
            what is left of the total.
    """

    name: str
    scale: float
    effect: np.ndarray
    change: np.ndarray


def doses(scores: ScoreArrays) -> list[Dose]:
    """What every scale of a dose does, and what sets of a graft that are scaled do by themselves
    (sufficiency) and beside the rest of the student (necessity, gates 1 - scale); nothing of other
    scores.
    """
    effect = scores.data["effect"]
    if scores.kind == "dose":
        return _along(scores, effect, "scale")
    if scores.kind != "graft" or "scale" not in scores.data.coords:
        return []
    if "measure" not in effect.dims:  # one was selected
        return _along(scores, effect, "set", scores.selected.get("measure", ""))
    found = []
    for measure in effect["measure"].values.tolist():
        found += _along(scores, effect.sel(measure=measure), "set", measure)
    return found


def _along(
    scores: ScoreArrays, effect: xr.DataArray, named: str, measure: str = "sufficiency"
) -> list[Dose]:
    """Doses of one measure, along the axis that names them."""
    if named not in effect.dims:  # one was selected
        effect = effect.expand_dims({named: [scores.selected[named]]})
    effect = effect.transpose("model", "prompt", named)
    scales = np.atleast_1d(effect["scale"].values)  # of one set that was selected
    told = zip(effect[named].values.tolist(), scales.tolist(), strict=True)
    total = (scores.data["student"] - scores.data["base"]).transpose("model", "prompt").values
    found = []
    for n, (name, scale) in enumerate(told):
        here = effect.values[..., n]
        if scores.kind == "dose":
            found.append(Dose(f"scale {scale:g}", scale, here, here))
        elif scale not in (0, 1):
            called = f"set {name} (scale {scale:g})"
            if measure == "necessity":
                found.append(Dose(f"{called}, necessity", scale, here, total - here))
            else:
                found.append(Dose(called, scale, here, here))
    return found


class Told(NamedTuple):
    """That some models are at their ceiling.

    Attributes:
        short: where the metric is there.
        why: what follows from it.
        models: which models.
    """

    short: str
    why: str
    models: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return f"{', '.join(self.models)}: {self.short}{self.why}"


def at_the_ceiling(scores: ScoreArrays) -> list[Told]:
    """At which doses the log-probability of which models cannot rise any more, or their entropy
    fall; nothing where it can, of metrics without a bound, or of scores that hold no doses
    (`doses`). Models that are there at the same doses are told in one line.
    """
    bound = _bound(scores)
    if not bound:
        return []
    base = scores.data["base"].transpose("model", "prompt").values
    models_at: dict[tuple[int, ...], list[str]] = {}
    given = doses(scores)
    levels = [bound * (base + dose.change).mean(1) > -CEILING for dose in given]
    for m, model in enumerate(map(str, scores.data["model"].values)):
        there = tuple(n for n, level in enumerate(levels) if level[m])
        if there:
            models_at.setdefault(there, []).append(model)
    return [
        _told_of_doses(scores, [given[n] for n in there], tuple(models), bound)
        for there, models in models_at.items()
    ]


def _told_of_doses(
    scores: ScoreArrays, there: list[Dose], models: tuple[str, ...], bound: int
) -> Told:
    """That some models are at their bound at some doses."""
    where = ", ".join(dose.name for dose in there)
    more = "rise" if bound > 0 else "fall"
    why = f": it cannot {more} any more, whatever the weights do"
    if scores.kind == "dose":
        listed = ", ".join(f"{dose.scale:g}" for dose in there)
        where = f"{'scale' if len(there) == 1 else 'scales'} {listed}"
        why = f": it cannot {more} any more, so that the curve bends there whatever the weights do"
    short = f"{_at_its_bound(scores)} at {where}"
    return Told(short, why, models)


def saturated(scores: ScoreArrays) -> list[Told]:
    """Of which whole models the log-probability is at its ceiling or the entropy at its floor, and
    what that does to shares, or the rank at its least; nothing where it is of none, where the
    base's is there too, or of metrics without a bound.
    """
    means = scores.data[["base", "student"]].mean("prompt")
    if scores.record.metric.startswith("rank(") and not scores.record.minus:
        there = (means["base"].values >= NEAR_1) & (means["student"].values < NEAR_1)
        names = tuple(means["model"].values[there].tolist())
        why = ": the least there is, whatever more was learned, and no fall of the trait; a log "
        why += "probability, or metrics.own_minus_others, tells more"
        return [Told(f"{scores.record.metric} is near 1", why, names)] if names else []
    bound = _bound(scores)
    if not bound:
        return []
    there = reached(bound * means["base"].values, bound * means["student"].values)
    names = tuple(means["model"].values[there].tolist())
    if not names:
        return []
    so = (
        "many sets may seem sufficient and few necessary"
        if scores.has_sets
        else "what one part brings depends on the others"
    )
    why = f": a part of the change is enough to reach it, so that {so}; "
    why += "metrics.own_minus_others has no ceiling" if bound > 0 else "it cannot fall any more"
    return [Told(_at_its_bound(scores), why, names)]


def without_room(scores: ScoreArrays) -> str:
    """That the interaction of a hybrid is the ceiling's doing, in words: its whole is there, or its
    parts alone add up to more than a log-probability can be; empty where it is not.
    """
    why = "the interaction holds what had no room"
    if saturated(scores):
        return f"the whole is at its {'ceiling' if _is_log_prob(scores) else 'least'}: {why}"
    if not _is_log_prob(scores):
        return ""
    parts = scores.data["effect"].isel(model=0).sel(measure="sufficiency")
    base = scores.data["base"].isel(model=0).mean("prompt")
    if float(base + parts.mean("prompt").sum("set")) <= -CEILING:
        return ""
    return f"the parts alone add up to more than the ceiling of 0: {why}"


def reached(base: np.ndarray | float, level: np.ndarray | float) -> np.ndarray:
    """Whether mean log-probabilities are at their ceiling, and the base's are not."""
    return (base <= -CEILING) & (np.abs(level) < CEILING)


def ceiling_of(metric: str) -> str:
    """That a metric is at its ceiling."""
    return f"{metric} is at its ceiling of 0"


def _at_its_bound(scores: ScoreArrays) -> str:
    """That the metric of these scores is at its ceiling, or its floor."""
    metric = scores.record.metric
    return ceiling_of(metric) if _is_log_prob(scores) else f"{metric} is at its floor of 0"


def _bound(scores: ScoreArrays) -> int:
    """Where a metric ends at 0: 1 above, -1 below, 0 of one that does not."""
    if _is_log_prob(scores):
        return 1
    record = scores.record
    return -1 if record.metric.startswith("entropy of ") and not record.minus else 0


def _is_log_prob(scores: ScoreArrays) -> bool:
    record = scores.record
    # a difference of several has no ceiling, whatever the metric of each is called
    one = not record.minus and ") - " not in record.metric
    return one and record.metric.startswith("log P(")
