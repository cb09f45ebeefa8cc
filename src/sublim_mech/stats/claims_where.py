"""Verdicts on where and when a student's trait shows: in which context, on which tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..arguments import checked
from ..hints import counted, signed
from .cautions import by_trait, is_graft_noise, learning_notes
from .control_sets import check_one_set
from .statements import (
    MATTERS,
    Statement,
    Verdict,
    above_zero,
    below_what_matters,
    conclude,
    nothing_measured,
    only_where,
)
from .tables import (
    CONTEXTS,
    DATA_SET,
    METHOD,
    SETTING,
    STUDENT,
    as_rows,
    check_fractions,
    check_options,
    difference,
    finished,
    means_by,
    number,
    of_one,
    over,
    without_number,
)


@checked
def context_claim(
    rows: Any,
    *,
    value: str = "specific",
    matters: float = MATTERS,
    cluster: Sequence[str] = DATA_SET,
) -> Verdict:
    """Does the trait need the context of training at evaluation?

    For every training context and every other context of evaluation two statements: the trait is
    lower there, and what is left is below what matters. Where more than that is left for certain
    the claim is not supported, however much is lost; where the trait is not above 0 in the context
    of training there is nothing to lose, and nothing can be told.

    Args:
        rows: with `trained_in`, `evaluated_in`, and those of `STUDENT`; `value` has each context's
            own base level and controls taken off.
        value: the column that is compared.
        matters: the smallest effect that matters.
        cluster: columns that make a data set.

    Raises:
        ValueError: a column is missing; students of several sets of controls (`student` and
            `controls` say which); a negative or unknown `matters`, a `cluster` that makes no data
            sets.

    Example:
        >>> from sublim_mech.stats import context_claim
        >>> rows = [
        ...     {"trained_in": "default", "evaluated_in": c, "trait": "owl", "row_seed": s,
        ...      "training_seed": 0, "specific": y + s / 10}
        ...     for c, y in (("default", 0.5), ("empty", 0.0)) for s in range(3)
        ... ]
        >>> context_claim(rows).label
        'cannot tell'

    Source: arXiv 2606.00831, claim 3; equivalence: Schuirmann 1987.
    """
    check_options(matters, cluster)
    every = as_rows(rows, "trained_in", "evaluated_in", value, *STUDENT)
    check_one_set(every, value)
    records = finished(every)
    of_one(records, *SETTING, *METHOD)
    statements, traits = [], list[str]()
    for trained in dict.fromkeys(str(row["trained_in"]) for row in records):
        there = [row for row in records if str(row["trained_in"]) == trained]
        same = [row for row in there if str(row["evaluated_in"]) == trained]
        of_trained: list[Statement] = []
        for other in dict.fromkeys(str(row["evaluated_in"]) for row in there):
            if other == trained:
                continue
            asked = [row for row in there if str(row["evaluated_in"]) == other]
            where = f"trained in {trained}, asked in {other}"
            lost = difference(same, asked, value, cluster)
            left = over(means_by(asked, value, STUDENT), STUDENT, cluster)
            of_trained.append(above_zero(f"{where}: less than in {trained}", lost, matters=matters))
            text = f"{where}: what is left is below {matters:g}"
            of_trained.append(below_what_matters(text, left, matters=matters))
        if of_trained:
            here = means_by(same, value, STUDENT)
            home = over(here, STUDENT, cluster)
            traits += by_trait(f"trained and asked in {trained}", here, cluster)
            text = f"trained in {trained}, asked in {trained}: above 0"
            statements += only_where(above_zero(text, home, matters=matters), *of_trained)
    claim = "The trait needs the context of training at evaluation"
    if not statements:
        missing = nothing_measured("less in another context", "no student was asked in another one")
        return conclude(claim, [missing])
    notes = [*traits, *without_number(records, value), *learning_notes(records)]
    return conclude(claim, statements, notes=notes)


@checked
def localisation_claim(
    rows: Any,
    *,
    on: str = "shared",
    by: str = "",
    matters: float = MATTERS,
    cluster: Sequence[str] = DATA_SET,
) -> Verdict:
    """Does the effect sit on shared tokens, beyond their share of tokens?

    Two statements: by graft IG the share of the effect is above the share of tokens; and, exactly,
    the student's weights on these tokens alone give more than that part of the whole effect. A
    share that merely follows the token share is no localisation: with `by` both must hold at each
    of its values.

    Args:
        rows: with `ig <on> share` and `ig <on> token share`, `graft <on> sufficiency`, `graft <on>
            token share` and `graft total`, and those of `STUDENT`. Runs without a share (their
            effect was inside its noise) are left out of the first statement, and told. Where the
            total is negative, parts are parts of the fall, and that is told.
        on: the token set.
        by: a column, such as how much of the prompt is shared.
        matters: the smallest excess that matters, as a share and in nats.
        cluster: columns that make a data set.

    Raises:
        TypeError: a text where a number belongs.
        ValueError: a column is missing, that of `by` too; `by` is empty in some rows; a token share
            that is no part of 1; students of several sets of controls; a negative or unknown
            `matters`, a `cluster` that makes no data sets.

    Example:
        >>> from sublim_mech.stats import localisation_claim
        >>> rows = [
        ...     {"trait": "owl", "row_seed": s, "training_seed": 0, "graft total": 0.5,
        ...      "ig shared share": 0.9 + s / 100, "ig shared token share": 0.6,
        ...      "graft shared sufficiency": 0.45, "graft shared token share": 0.6 + s / 100}
        ...     for s in range(3)
        ... ]
        >>> localisation_claim(rows).label
        'supported'

    Source: arXiv 2606.00831, claim 4.
    """
    check_options(matters, cluster)
    share, tokens = f"ig {on} share", f"ig {on} token share"
    enough, part, total = f"graft {on} sufficiency", f"graft {on} token share", "graft total"
    grouped = (by,) if by else ()
    every = as_rows(rows, share, tokens, enough, part, total, *STUDENT, *grouped)
    check_one_set(every)
    records = finished(every)
    without = sum(_empty(row.get(by)) for row in records) if by else 0
    if without:
        raise ValueError(
            f"rows: {by!r} is empty in {without} of {counted(len(records), 'row')}; give it to "
            "all, or leave these rows out."
        )
    about = (*SETTING, *CONTEXTS, *METHOD)
    of_one(records, *(name for name in about if name != by))
    check_fractions(records, tokens, part)
    extended = []
    for row in records:
        excess = number(row, share) - number(row, tokens)
        whole = number(row, total)
        # a share is of the effect, whichever way it goes; so is what stands beside it. Inside its
        # noise an effect has no direction
        told = whole < 0 and math.isfinite(excess) and not is_graft_noise(row)
        along = -1.0 if told else 1.0
        added = {
            "excess share": excess,
            "excess effect": along * (number(row, enough) - number(row, part) * whole),
            "falls": along < 0,
            "room": along * (1 - number(row, part)) * whole,
        }
        extended.append({**row, **added})
    groups = dict.fromkeys(row.get(by) for row in extended) if by else {None: None}
    statements, notes = list[Statement](), list[str]()
    for group in groups:
        here = [row for row in extended if not by or row.get(by) == group]
        at = f" ({by} {group})" if by else ""
        room = over(means_by(here, "room", STUDENT), STUDENT, cluster)
        for column, text, unit in (
            ("excess share", f"share of the effect on {on} tokens - token share{at}", ""),
            ("excess effect", f"sufficiency of {on} tokens - their part of the effect{at}", "nats"),
        ):
            values = means_by(here, column, STUDENT)
            found = over(values, STUDENT, cluster)
            one = above_zero(f"{text} is above 0", found, matters=matters, unit=unit)
            notes += by_trait(text, values, cluster)
            # sufficiency of all of the effect is more than its part by no more than the rest of it,
            # and the rests of effects that go both ways cancel
            if unit and room is not None and room.mean < matters and not one.holds:
                one = replace(one, fails=False)
                notes.append(
                    f"Were all of the effect on {on} tokens{at}, sufficiency minus their part "
                    f"would be {signed(room.mean)} nats in the mean, less than the {matters:g} "
                    "that matter: that it is not cannot be told of so small a mean effect."
                )
            statements.append(one)
    noisy = sum(not math.isfinite(row["excess share"]) for row in extended)
    if noisy:
        has, verb = ("has", "is") if noisy == 1 else ("have", "are")
        of_rows = f"{noisy} of {counted(len(extended), 'row')}"
        notes.append(
            f"{of_rows} {has} no share (the total effect is inside its own noise) and {verb} left "
            "out of the shares; sufficiency is that of all rows."
        )
    notes += [*without_number(extended, enough, part, total), *learning_notes(extended)]
    falling = sum(row["falls"] for row in extended)
    if falling:
        notes.append(
            f"{falling} of {counted(len(extended), 'row')} "
            f"{'has' if falling == 1 else 'have'} shares of a negative total effect (the trait "
            "fell, or rose less than in the controls): theirs are parts of that, in nats with the "
            "sign turned."
        )
    return conclude(f"The effect sits on {on} tokens", statements, notes=notes)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
