"""The verdict on students that were trained at chosen tokens only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..arguments import checked
from ..hints import signed
from .cautions import by_trait, learning_notes, missed_stop
from .control_sets import check_one_set
from .statements import MATTERS, Verdict, above_zero, conclude, nothing_measured
from .tables import (
    CONTEXTS,
    DATA_SET,
    METHOD,
    STUDENT,
    Row,
    as_rows,
    check_options,
    difference,
    finished,
    keys,
    means_by,
    number,
    of_one,
    over,
    without_number,
)

TRAINED_AT = (
    "Training at the shared tokens gives students the trait, and more of it than at other tokens"
)

WORSE = 0.1
"""Held-out KL that is higher by more than this part is worse imitation."""


@checked
def trained_at_claim(
    rows: Any,
    *,
    value: str = "specific",
    matters: float = MATTERS,
    cluster: Sequence[str] = DATA_SET,
) -> Verdict:
    """Do students that are trained at the shared prompt tokens only acquire the trait, and more of
    it than those trained at the other prompt tokens?

    A null at worse imitation is no null: where the students of the other tokens have a held-out KL
    more than 10 % above that of the shared ones, the difference supports nothing. Nor can it be
    told of students whose held-out KL is not known: the two arms are compared without them.

    Args:
        rows: with `where` (`shared`, `not shared`; other arms are told in the notes), `kl`, and
            those of `STUDENT`.
        value: the column that is compared; `everywhere specific` for the weights on everywhere at
            evaluation.
        matters: the smallest difference that matters.
        cluster: columns that make a data set.

    Raises:
        ValueError: a column is missing; rows that differ in something else, or of several
            sets of controls; a negative or unknown
            `matters`, a `cluster` that makes no data sets.

    Example:
        >>> from sublim_mech.stats import trained_at_claim
        >>> rows = [
        ...     {"where": w, "kl": 0.01, "trait": "owl", "row_seed": s, "training_seed": 0,
        ...      "specific": y * (1 + s / 10)}
        ...     for w, y in (("shared", 0.5), ("not shared", 0.1)) for s in range(3)
        ... ]
        >>> trained_at_claim(rows).label
        'supported'

    Source: arXiv 2606.00831, claim 4, as an intervention.
    """
    check_options(matters, cluster)
    every = as_rows(rows, "where", "kl", value, *STUDENT)
    check_one_set(every, value)
    records = finished(every)
    of_one(records, "labels", "c", *CONTEXTS, *METHOD)
    arms = {
        where: [row for row in records if row.get("where") == where]
        for where in dict.fromkeys(str(row.get("where")) for row in records)
    }
    shared, others = arms.get("shared", []), arms.get("not shared", [])
    has = over(means_by(shared, value, STUDENT), STUDENT, cluster)
    # how well they imitate is asked of the very students whose effects are compared
    fits = [means_by(_whole(arm, value), "kl", STUDENT) for arm in (shared, others)]
    pairs = [key for key in fits[0] if key in fits[1]]
    one, other = (
        [row for row in _whole(arm, value) if keys(row, STUDENT) in pairs]
        for arm in (shared, others)
    )
    more = difference(one, other, value, cluster)
    apart = [means_by(arm, value, STUDENT) for arm in (one, other)]
    text = "trained at shared tokens only: above 0"
    missing = nothing_measured(text, "no student was trained at shared with a number")
    statements = [
        missing if has is None else above_zero(text, has, matters=matters),
        above_zero("trained at shared - at the other prompt tokens", more, matters=matters),
    ]
    notes = by_trait("shared", means_by(shared, value, STUDENT), cluster)
    both = {key: effect - apart[1][key] for key, effect in apart[0].items() if key in apart[1]}
    notes += by_trait("shared - the other prompt tokens", both, cluster)
    notes += [*without_number(records, value), *learning_notes(records)]
    if missed := missed_stop(records):
        notes.append(f"{missed}.")
    notes += [note.replace("left out", "not compared") for note in without_number(records, "kl")]
    for where, here in arms.items():
        of_arm = over(means_by(here, value, STUDENT), STUDENT, cluster)
        fit = over(means_by(here, "kl", STUDENT), STUDENT, cluster)
        if of_arm is not None:
            at = "unknown held-out KL" if fit is None else f"a held-out KL of {fit.mean:.3g}"
            notes.append(f"Trained at {where}: {signed(of_arm.mean)} at {at}.")
    kl = [over({key: fit[key] for key in pairs}, STUDENT, cluster) for fit in fits]
    worse = kl[0] is not None and kl[1] is not None and kl[1].mean > (1 + WORSE) * kl[0].mean
    if worse and statements[1].holds:
        statements[1] = replace(statements[1], holds=False, p=math.nan)
        notes.append(
            "Students of the other tokens imitate worse, so that their having less tells nothing."
        )
    return conclude(TRAINED_AT, statements, notes=notes)


def _whole(rows: Sequence[Row], *columns: str) -> list[Row]:
    """Rows that have these numbers, and a held-out KL."""
    return [row for row in rows if all(math.isfinite(number(row, c)) for c in (*columns, "kl"))]
