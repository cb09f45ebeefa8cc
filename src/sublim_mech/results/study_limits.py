"""What limits the figures of a study, in the words of scores (`limits`).

A study's rows are students; a figure shows means over data sets (row seeds) of groups of them: a
rank, a pair of contexts, a trait. What limits some of its groups is said in one line, which names
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..hints import counted, signed
from ..stats import FEWEST
from ..stats.cautions import (
    ALIKE,
    WORSE_THAN_BASE,
    answer_alike,
    are_uneven,
    is_graft_noise,
    missed_stop,
    worse_than_base,
)
from ..stats.nesting import is_no_spread
from ..stats.tables import DATA_SET, STUDENT, means_by, over
from .ceiling import ceiling_of, reached
from .limit_kinds import Limit
from .limits_of_effects import NO_SHARES, Moved
from .limits_of_students import few_prompts, uncontrolled
from .same_students import ALL, of_the_same

HEADLINE = "student - control"
"""What figures of studies call it."""

GATED = "as trained"
"""What rows say of students that act at chosen tokens only."""

_NAMED = 3  # groups of a figure that a line names

Groups = Mapping[str, pd.DataFrame]
"""Rows by the name that a figure gives them."""


class Point(NamedTuple):
    """A mean with its 95 % interval over data sets; NaN where there is none."""

    mean: float
    low: float
    high: float
    data_sets: int

    @property
    def is_noise(self) -> bool:
        """Whether its interval holds 0."""
        return self.low <= 0 <= self.high and not self.is_one_number

    @property
    def is_one_number(self) -> bool:
        """Whether all data sets have it: an interval without width is none."""
        return is_no_spread(self.low, self.high)

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        if math.isnan(self.low):
            return f"{signed(self.mean)} (no interval: {self.data_sets} data set)"
        if self.is_one_number:
            return f"{signed(self.mean)} (no interval: {counted(self.data_sets, 'data set')} alike)"
        return f"{signed(self.mean)} [{signed(self.low)}, {signed(self.high)}]"


def point(rows: pd.DataFrame, column: str) -> Point:
    """The mean of a column over data sets."""
    found = None
    if column in rows:
        values = means_by(rows.to_dict("records"), column, STUDENT)
        found = over(values, STUDENT, DATA_SET)
    if found is None:
        return Point(math.nan, math.nan, math.nan, 0)
    return Point(found.mean, found.t_low, found.t_high, found.data_sets)


# -------------------------------------------------------------------------------------- per figure


def of_effects(groups: Groups, means: Groups | None = None) -> list[Limit]:
    """Of groups whose `student - control` a figure shows.

    Args:
        groups: of students, each in one of them.
        means: what means are over, where students stand in several; `groups` when not given.
    """
    means = groups if means is None else means
    return [
        *without_controls(groups),
        *_unmoved(groups),
        *of_learning(groups),
        *_of_noise({name: point(rows, "specific") for name, rows in means.items()}),
        *_of_the_controls(means),
        *_of_data_sets(means, "specific"),
        *_of_the_ceiling(groups),
    ]


def of_ranks(rows: pd.DataFrame, full: pd.DataFrame) -> list[Limit]:
    """Of the figure of ranks, beside which full fine-tunes stand; means are over students that all
    ranks have, and over all of a rank that has more.
    """

    def groups(loras: pd.DataFrame, full: pd.DataFrame, more: str = "") -> Groups:
        of_rank = _by(loras, "rank", lambda rank: f"rank {rank:g}{more}")
        return {**of_rank, **_if_any(f"full{more}", full)}

    same = of_the_same(rows, full)
    every = pd.concat([rows.iloc[:0], *same.more.values()])
    means = {**groups(same.line, same.full), **groups(every, same.more_full, f", {ALL}")}
    return of_effects(groups(rows, full), means)


def of_contexts(rows: pd.DataFrame) -> list[Limit]:
    """Of training context x evaluation context."""
    return of_effects(
        _by(rows, ["trained_in", "evaluated_in"], lambda one, other: f"{one} → {other}")
    )


def of_places(rows: pd.DataFrame) -> list[Limit]:
    """Of students that were trained at chosen tokens, whose arms are read at equal held-out KL."""
    groups = _by(rows, "where", str)
    return [*_as_trained(groups), *of_stops(rows), *of_effects(groups)]


def of_capacities(rows: pd.DataFrame) -> list[Limit]:
    """Of curves over held-out KL, a point per method, learning rate or snapshot."""
    return [*of_stops(rows), *of_effects(stages(rows))]


def stages(rows: pd.DataFrame) -> Groups:
    """Students of one training each: of a capacity, learning rate and step; and of one method,
    which is named where several have the same of these, such as one that stops earlier.
    """
    same = ["capacity", "lr", "step"]
    methods = rows.groupby(same, sort=False, dropna=False)["method"].transform("nunique")

    def name(capacity: str, lr: float, step: float, method: str) -> str:
        after = f", step {step:g}" if step > 0 else ""
        return f"{capacity}, lr {lr:g}{after}{method}"

    shown = rows["method"].map(" ({})".format).where(methods > 1, "")
    of_each = _by(rows.assign(_method=shown), [*same, "_method"], name)
    return {told: group.drop(columns="_method") for told, group in of_each.items()}


def of_traits(rows: pd.DataFrame) -> list[Limit]:
    """Of students x traits, where controls stand beside each other: of the diagonal alone."""
    groups = _by(rows, "trait", str)
    own = {name: point(here, "change") for name, here in groups.items()}
    return [
        *_unmoved(groups),
        *of_learning(groups, alike=answer_alike(_whole(groups).to_dict("records"))),
        *_of_noise(own, "the change of the own trait"),
        *_of_data_sets(groups, "change"),
        *_of_the_ceiling(groups),
    ]


def of_concentrations(rows: pd.DataFrame, by: str, on: str = "shared") -> list[Limit]:
    """Of shares of the effect on a token set; of these students one by one, for a share is formed
    of each.
    """
    groups = _by(rows, by, str)
    share, total = rows[f"ig {on} share"], rows["graft total"]
    what = "student" if len(groups) == 1 else "row"
    told = [*without_controls(groups), *_unmoved(groups), *of_learning(groups)]
    graft_alone = share.notna() & graft_noise(rows)
    for noisy, why in (
        (share.isna() & total.notna(), NO_SHARES),
        (graft_alone, "the graft's effect is inside its own noise and has no parts"),
    ):
        if noisy.any():
            names = _first_of(_students(rows[noisy], by if len(groups) > 1 else ""))
            text = f"{noisy.sum()} of {counted(len(rows), what)} ({names}): {why}"
            told.append(Limit("noise", text, text))
    divided = _by(rows[share.notna()], by, str)  # what is noise has no shares that hold anything
    told += [*_of_the_controls(divided, shares=True), *_of_data_sets(groups, f"ig {on} share")]
    told += _of_the_ceiling(groups)
    falling = int(((total < 0) & share.notna()).sum())
    if falling:
        short = f"{falling} of {counted(len(rows), what)}: the total effect is negative"
        why = "shares are parts of a fall or of what the controls rose further"
        told.append(Limit("sign", f"{short}; {why}", short))
    gap = f"ig {on} gap"
    missed = np.abs(rows.loc[share.notna(), gap].dropna()) if gap in rows else pd.Series()
    if len(missed):
        text = f"completeness gap at most {missed.max():z.2%}, of any student"
        told.append(Limit("gap", text, text))
    return told


def _students(rows: pd.DataFrame, by: str = "") -> list[str]:
    """Which students these are, with the column that they are told apart by besides."""
    columns = ["trait", "row_seed", *([by] if by else [])]
    names = (
        f"{trait}, row seed {seed}" + "".join(f", {group}" for group in of)
        for trait, seed, *of in rows[columns].itertuples(index=False)
    )
    return list(dict.fromkeys(names))


def graft_noise(rows: pd.DataFrame) -> pd.Series:
    """Of which students the graft's total effect is inside its own noise over questions."""
    told = [is_graft_noise(row) for row in rows.to_dict("records")]
    return pd.Series(told, rows.index, dtype=bool)


def of_learning(groups: Groups, *, alike: bool | None = None) -> list[Limit]:
    """Students that imitate worse than their base does, and methods whose students answer alike.

    Args:
        groups: of students.
        alike: of all groups together, where each is of one trait; asked of each when not given.
    """
    limits = []
    worse = {name: len(worse_than_base(here.to_dict("records"))) for name, here in groups.items()}
    if any(worse.values()):
        told = f"{_how_many(worse, groups)}: {WORSE_THAN_BASE}"
        limits.append(Limit("unlearnt", told, told))
    if alike is None:
        same = [name for name, here in groups.items() if answer_alike(here.to_dict("records"))]
        told = f"{ALIKE}{_whose(same, groups)}"
    else:
        same, told = ["all"] * alike, ALIKE
    if same:
        limits.append(Limit("alike", told, told))
    return limits


def of_stops(rows: pd.DataFrame) -> list[Limit]:
    """Students that ended above the held-out loss that they were to stop at, as well as others."""
    told = missed_stop(rows.to_dict("records"))
    return [Limit("unlearnt", told, told)] if told else []


def in_a_line(limits: Sequence[Limit]) -> str:
    """What captions say, as a sentence; empty where nothing limits a figure."""
    text = "; ".join(limit.text for limit in limits)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


# ------------------------------------------------------------------------------------- one by one


def everywhere(rows: pd.DataFrame) -> str:
    """What `student - control` is with weights on everywhere, of students that are asked as they
    were trained, arm by arm; empty where there are none.
    """
    if "gates" not in rows or "everywhere specific" not in rows:
        return ""
    asked = rows[rows["gates"] == GATED]
    found = [
        f"{arm} {point(here, 'everywhere specific')}"
        for arm, here in _by(asked, "where", str).items()
    ]
    return f"with weights on everywhere {HEADLINE} is: {'; '.join(found)}" if found else ""


def _as_trained(groups: Groups) -> list[Limit]:
    """That students of some arms act only where they were trained, which may be at nothing that
    is read.
    """
    arms = [
        name for name, rows in groups.items() if "gates" in rows and (rows["gates"] == GATED).any()
    ]
    if not arms:
        return []
    short = f"{_first_of(arms)}: asked as trained, weights on at these tokens alone"
    why = "what is read before them cannot change"
    return [Limit("gated", f"{short} ({why}); {everywhere(_whole(groups))}", short)]


def without_controls(groups: Groups) -> list[Limit]:
    """Students without controls, which no study of two traits has."""
    without = [name for name, rows in groups.items() if rows["specific"].isna().all()]
    if not without:
        return []
    given = f"no controls given{_whose(without, groups)}"
    told = f"{given}: {uncontrolled([{'data': 'numbers'}], 'change')}"
    return [Limit("no controls", told, told)]


def _unmoved(groups: Groups) -> list[Limit]:
    """Students that are their base."""
    rows = _whole(groups)
    if "moved" not in rows:
        return []
    if "student" in rows:  # asked in several contexts
        rows = rows.drop_duplicates("student")
    still = int((rows["moved"].astype(object) == False).sum())  # noqa: E712 (NaN: not known)
    if not still:
        return []
    who = "equals its base" if still == 1 else "equal their base"
    told = f"{still} of {counted(len(rows), 'student')} {who}: no weight differs"
    return [Limit("unmoved", told, told)]


def _of_noise(points: Mapping[str, Point], what: str = HEADLINE) -> list[Limit]:
    """Effects that are not told from 0."""
    noisy = [name for name, one in points.items() if one.is_noise]
    if not noisy:
        return []
    told = f"{what} is inside its own noise{_whose(noisy, points)}"
    return [Limit("noise", told, told)]


def _of_the_controls(groups: Groups, *, shares: bool = False) -> list[Limit]:
    """That a large part of an effect is the controls', as of scores; and where shares of it are
    shown what these are of.
    """
    found: dict[str, dict[str, str]] = {}
    for name, rows in groups.items():
        whole = point(rows, "specific")
        if whole.is_noise or math.isnan(whole.mean):
            continue
        moved = Moved(point(rows, "change").mean, point(rows, "control").mean)
        told = moved.told("nats")
        if told:
            found.setdefault(moved.alike, {})[name] = told
    limits = []
    for alike, who in found.items():
        first = next(iter(who.values()))
        short = (first if len(who) == 1 else alike) + _whose(list(who), groups)
        why = ": shares hold that too" if shares else ""
        limits.append(Limit("controls", short + why, short))
    return limits


def _of_data_sets(groups: Groups, column: str) -> list[Limit]:
    """How few data sets intervals are over, or that there are none."""
    counts = {name: point(rows, column).data_sets for name, rows in groups.items()}
    counts = {name: count for name, count in counts.items() if count}
    limits = of_traits_by_set(groups, column)
    alone = [name for name, count in counts.items() if count == 1]
    for limit in few_prompts(1, "row seed") if alone else []:
        told = limit.text.replace(":", f"{_whose(alone, counts)}:", 1)
        limits.append(limit._replace(text=told, short=told))
    few = sorted({count for count in counts.values() if 1 < count < FEWEST})
    if few:
        seeds = f"{' or '.join(map(str, few))} row seeds"
        told = f"{seeds}: 95 % by Student's t, which takes their means as normal"
        limits.append(Limit("intervals", told, told))
    return limits


def of_traits_by_set(groups: Groups, column: str) -> list[Limit]:
    """Groups whose row seeds have students of other traits, as those of an unfinished study."""
    uneven = []
    for name, rows in groups.items():
        known = rows[rows[column].notna()] if column in rows else rows.iloc[:0]
        by_seed = known.groupby("row_seed")["trait"].agg(set).to_dict()
        if are_uneven(by_seed):
            uneven.append(name)
    if not uneven:
        return []
    told = f"row seeds have other traits, and differ by these too{_whose(uneven, groups)}"
    return [Limit("intervals", told, told)]


def _of_the_ceiling(groups: Groups) -> list[Limit]:
    """Students whose log-probability cannot rise any more."""
    there = {}
    for name, rows in groups.items():
        base = rows["base level"].to_numpy(float)
        there[name] = int(reached(base, base + rows["change"].to_numpy(float)).sum())
    if not any(there.values()):
        return []
    told = ceiling_of("log P(the trait is named)")
    if sum(there.values()) < len(_whole(groups)):
        told += f" in {_how_many(there, groups)}"
    return [Limit("ceiling", f"{told}: it cannot rise any more", told)]


# ------------------------------------------------------------------------------------ small things


def _by(rows: pd.DataFrame, by: str | list[str], name: Callable[..., str]) -> Groups:
    """Rows by what they are of, in the order in which they come."""
    keys = [by] if isinstance(by, str) else by
    grouped = rows.groupby(keys, sort=False, dropna=False)
    return {name(*_tuple(key)): group for key, group in grouped}


def _whole(groups: Groups) -> pd.DataFrame:
    """All of them together."""
    return pd.concat(list(groups.values())) if groups else pd.DataFrame()


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _if_any(name: str, rows: pd.DataFrame) -> Groups:
    return {name: rows} if len(rows) else {}


def _how_many(counts: Mapping[str, int], groups: Groups) -> str:
    """How many rows of all, and of which groups; where all groups have some, how many of each."""
    whose = _whose(some := [name for name, count in counts.items() if count], groups)
    if len(some) == len(groups) > 1:
        each = (f"{name} {counts[name]} of {len(rows)}" for name, rows in groups.items())
        whose = f" ({_first_of(list(each))})"
    return f"{sum(counts.values())} of {counted(len(_whole(groups)), 'row')}{whose}"


def _whose(some: Sequence[str], groups: Mapping[str, Any]) -> str:
    """Which groups, where there are others."""
    if len(some) == len(groups):
        return "" if len(groups) == 1 else " (all of them)"
    return f" ({_first_of(some)})"


def _first_of(names: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    apart = "; " if any(", " in name for name in names) else ", "
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{apart.join(names[:_NAMED])}{more}"
