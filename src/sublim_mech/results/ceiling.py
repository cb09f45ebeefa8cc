"""That a log-probability is at its ceiling of 0, from which it cannot rise."""

from __future__ import annotations

import numpy as np

from .arrays import ScoreArrays

CEILING = 0.05
"""Nats below the ceiling of 0 from which on a log-probability is said to be at it (95 %)."""


def at_the_ceiling(scores: ScoreArrays) -> list[str]:
    """At which doses the student's log-probability cannot rise any more; nothing where it can, or
    of metrics without a ceiling.
    """
    if not _is_log_prob(scores):
        return []
    student = scores.data.isel(model=0)
    levels = np.atleast_1d((student["effect"] + student["base"]).mean("prompt").values)
    scales = np.atleast_1d(scores.data["scale"].values)
    there = scales[levels > -CEILING]
    if not len(there):
        return []
    listed = ", ".join(f"{scale:g}" for scale in there)
    return [
        f"{student['model'].item()}: {scores.record.metric} is at its ceiling of 0 at "
        f"{'scale' if len(there) == 1 else 'scales'} {listed}: it cannot rise any more, so that "
        "the curve bends there whatever the weights do"
    ]


def saturated(scores: ScoreArrays) -> list[str]:
    """Of which whole models the log-probability is at its ceiling, and what that does to shares;
    nothing where it is of none, where the base's is there too, or of metrics without a ceiling.
    """
    if not _is_log_prob(scores) or scores.has_steps:
        return []
    means = scores.data[["base", "student"]].mean("prompt")
    there = (means["base"] <= -CEILING) & (abs(means["student"]) < CEILING)
    names = means["model"].values[there.values].tolist()
    if not names:
        return []
    return [
        f"{', '.join(names)}: {scores.record.metric} is at its ceiling of 0: a part of the change "
        "is enough to reach it, so that many sets may seem sufficient and few necessary; "
        "metrics.own_minus_others has no ceiling"
    ]


def _is_log_prob(scores: ScoreArrays) -> bool:
    return scores.record.metric.startswith("log P(") and ") - " not in scores.record.metric
