"""What rows of students show beside the number that is compared: that they learnt nothing of their
labels, that they did not reach the loss that they were to stop at, that they all answer alike, that
an effect is inside its own noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..hints import counted, signed
from .over_prompts import mean_interval
from .tables import CONTEXTS, METHOD, SETTING, STUDENT, Row, finished, keys, number, over

WORSE_THAN_BASE = "held-out KL is above the base's: the base imitates their teacher better"
ALIKE = "all students of this method answer alike"

_SAME = 1e-6
"""Nats within which students that compute the same answer; what differs in them differs by more."""


def worse_than_base(rows: Sequence[Row]) -> list[Row]:
    """Those whose held-out KL (`kl`) is above what it was before training (`kl_before`)."""
    return [row for row in rows if number(row, "kl") > number(row, "kl_before")]


def missed_stop(rows: Sequence[Row]) -> str:
    """How many of the students that were to stop at a held-out loss (`stop_at`) ended above it
    (`kl`), in words; empty where all reached it. Each student counts once, at its end.
    """
    ended: dict[Hashable, Row] = {}
    for row in finished(rows):
        if not math.isnan(number(row, "stop_at")) and not math.isnan(number(row, "kl")):
            same = row.get("student") or _known(row, (*STUDENT, *SETTING, *METHOD, CONTEXTS[0]))
            ended.setdefault(same, row)
    both = [(number(row, "kl"), number(row, "stop_at")) for row in ended.values()]
    # as the training compares them; readers of CSV may be off in the last digit
    missed = [kl > stop and not math.isclose(kl, stop, rel_tol=_READ) for kl, stop in both]
    if not any(missed):
        return ""
    kinds = {row.get("kind") for row in ended.values()}
    which = _KINDS.get(str(*kinds), "") if len(kinds) == 1 else ""
    whose = f"{sum(missed)} of {counted(len(ended), f'{which}student')}"
    return f"{whose} did not reach the held-out loss that they were to stop at"


_READ = 1e-14
"""Of a number, what reading it from a text may change."""

_KINDS = {"full": "full ", "lora": "LoRA "}
"""How students of a kind are called."""


def answer_alike(rows: Sequence[Row]) -> bool:
    """Whether students of several traits raise every trait by the same number, in each row seed.

    Students that changed nothing at all are alike, too, which is no news of them: False.
    """
    names = [name for name in (rows[0] if rows else {}) if _is_of_trait(name)]
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        same = _known(row, ("row_seed", "training_seed", "step", *CONTEXTS))
        groups.setdefault(same, []).append(row)
    several = [group for group in groups.values() if len({row["trait"] for row in group}) > 1]
    if not names or not several:
        return False
    moved = False
    for group in several:
        changes = np.array([[number(row, name) for name in names] for row in group])
        changes = changes[:, np.isfinite(changes).all(0)]
        if not changes.size or (np.ptp(changes, 0) > _SAME).any():
            return False
        moved = moved or bool((np.abs(changes) > _SAME).any())
    return moved


def learning_notes(rows: Sequence[Row]) -> list[str]:
    """Both of them as notes of a verdict, told of rows."""
    notes = []
    worse = len(worse_than_base(rows))
    if worse:
        notes.append(f"Of {worse} of {counted(len(rows), 'row')} the {WORSE_THAN_BASE}.")
    methods: dict[Hashable, list[Row]] = {}
    for row in rows:
        methods.setdefault(_known(row, (*SETTING, *METHOD)), []).append(row)
    alike = sum(len(group) for group in methods.values() if answer_alike(group))
    if alike:
        notes.append(f"Of {alike} of {counted(len(rows), 'row')}: {ALIKE}.")
    return notes


def _known(row: Row, columns: Sequence[str]) -> tuple[Hashable, ...]:
    """What a row is of, by these columns; nothing and NaN, which is no other NaN, are one."""
    return tuple(None if value != value else value for value in keys(row, columns))


def by_trait(
    what: str,
    values: Mapping[tuple[Hashable, ...], float],
    cluster: Sequence[str],
    by: Sequence[str] = STUDENT,
) -> list[str]:
    """What a mean over traits is made of: one that others carry stays unseen in it; and which data
    sets lack some of them, as those of an unfinished study do.

    Args:
        what: is compared.
        values: by the columns `by`, whose first is the trait.
        cluster: columns that make a data set.
        by: the columns of the keys.
    """
    traits = list(dict.fromkeys(key[0] for key in values))
    if len(traits) < 2:
        return []
    told = []
    for trait in traits:
        found = over({key: one for key, one in values.items() if key[0] == trait}, by, cluster)
        if found is not None:
            ends = f" [{signed(found.t_low)}, {signed(found.t_high)}]"
            told.append(f"{trait} {signed(found.mean)}{'' if math.isnan(found.t_low) else ends}")
    notes = [f"By trait, {what}: {', '.join(told)}."]
    places = [list(by).index(name) for name in cluster]
    sets: dict[str, set[str]] = {}
    for key in values:
        name = " ".join(str(key[place]) for place in places)
        sets.setdefault(name, set()).add(str(key[0]))
    if are_uneven(sets):
        each = "; ".join(f"{name}: {', '.join(sorted(has))}" for name, has in sets.items())
        notes.append(f"Traits that {', '.join(cluster)} {UNEVEN} {each}.")
    return notes


UNEVEN = "have, which are not the same, so that their means differ by these too:"


def are_uneven(sets: Mapping[Any, set[str]]) -> bool:
    """Whether some data set lacks a trait that another one has."""
    return len({frozenset(has) for has in sets.values()}) > 1


def is_graft_noise(row: Row) -> bool:
    """Whether the total effect of a row's graft is inside its own noise over questions.

    The graft scored the first of the row's questions, of which the row has the changes; where it
    has not, or other ones (weights that act at chosen tokens), nothing is known: False.
    """
    lists = [_listed(row.get(name)) for name in ("change by question", "control by question")]
    count, total = number(row, "graft questions"), number(row, "graft total")
    if not count > 1 or min(map(len, lists)) < count or math.isnan(total):
        return False
    values = np.subtract(*(np.array(one[: int(count)], float) for one in lists))
    if not np.isfinite(values).all():
        return False
    if not math.isclose(values.mean(), total, rel_tol=0.01, abs_tol=1e-3):
        return False
    return not mean_interval(values).excludes_zero


def _listed(value: Any) -> Sequence[float]:
    """A list of a row, which CSV has as JSON."""
    if isinstance(value, str):
        value = json.loads(value)
    return [] if value is None or isinstance(value, float) else list(value)


def _is_of_trait(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("change ") and name != "change by question"
