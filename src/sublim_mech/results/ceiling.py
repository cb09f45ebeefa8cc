"""That a metric is at its bound: a log-probability at its ceiling of 0, from which it cannot rise,
an entropy at its floor of 0, a rank at 1. A KL to the base is 0 of the base itself, and so of no
student that changed; other metrics have no bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arrays import ScoreArrays

CEILING = 0.05
"""Nats below the ceiling of 0 from which on a log-probability is said to be at it (95 %)."""


NEAR_1 = 2.0
"""Mean rank below which a token is mostly the likeliest one, and its rank at its least."""


class Dose(NamedTuple):
    """What a gate other than 0 and 1 does.

    Attributes:
        name: of the scale, or of the set that is scaled.
        scale: the gate.
        effect: `(model, prompt)`.
    """

    name: str
    scale: float
    effect: np.ndarray


def doses(scores: ScoreArrays) -> list[Dose]:
    """What every scale of a dose does, and what sets of a graft do by themselves that are scaled;
    nothing of other scores.
    """
    effect, named = scores.data["effect"], "scale"
    if scores.kind == "graft":
        named, chosen = "set", "measure" not in effect.dims  # then one was selected
        measures = [scores.selected.get("measure")] if chosen else effect["measure"].values.tolist()
        if "scale" not in scores.data.coords or "sufficiency" not in measures:
            return []
        effect = effect if chosen else effect.sel(measure="sufficiency")
    elif scores.kind != "dose":
        return []
    if named not in effect.dims:  # one was selected
        effect = effect.expand_dims({named: [scores.selected[named]]})
    effect = effect.transpose("model", "prompt", named)
    scales = np.atleast_1d(effect["scale"].values)  # of one set that was selected
    told = zip(effect[named].values.tolist(), scales.tolist(), strict=True)
    found = []
    for n, (name, scale) in enumerate(told):
        if scores.kind == "dose":
            found.append(Dose(f"scale {scale:g}", scale, effect.values[..., n]))
        elif scale not in (0, 1):
            found.append(Dose(f"set {name} (scale {scale:g})", scale, effect.values[..., n]))
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
    """At which doses the student's log-probability cannot rise any more, or its entropy fall;
    nothing where it can, of metrics without a bound, or of scores that hold no doses (`doses`).
    """
    bound = _bound(scores)
    if not bound:
        return []
    student = scores.data.isel(model=0)
    base = float(student["base"].mean("prompt"))
    there = [dose for dose in doses(scores) if bound * (base + dose.effect[0].mean()) > -CEILING]
    if not there:
        return []
    where = ", ".join(dose.name for dose in there)
    more = "rise" if bound > 0 else "fall"
    why = f": it cannot {more} any more, whatever the weights do"
    if scores.kind == "dose":
        listed = ", ".join(f"{dose.scale:g}" for dose in there)
        where = f"{'scale' if len(there) == 1 else 'scales'} {listed}"
        why = f": it cannot {more} any more, so that the curve bends there whatever the weights do"
    short = f"{_at_its_bound(scores)} at {where}"
    return [Told(short, why, (str(student["model"].item()),))]


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
