"""Whose students are a row's controls: `student - control` is comparable between rows of one set.

Controls of a student are students of other traits trained alike; student and controls together are
one set of traits. Where a study has several such sets, their rows differ in what is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..hints import counted

FOCUS = "focus"
"""The column that says it; empty where all rows have the same set."""

_NEEDED = ("trait", "student", "controls")
_SPECIFIC = "specific"
"""How columns are called that have the controls taken off."""


def addresses(controls: Any) -> str:
    """Addresses of controls in one order, the same text for the same ones; empty for none."""
    missing = controls is None or (isinstance(controls, float) and math.isnan(controls))
    return "" if missing else " ".join(sorted(str(controls).split()))


def sets_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Per row the traits whose students are compared with each other, in words; empty where all
    rows have the same.

    A control of an unfinished study may have no row of its own, so that its trait is not known: the
    row is then of the set of its size that has all it has, or is called by its number of controls
    where there are several such sets, or none.

    Args:
        rows: with `trait`; `student` and `controls` as studies write them, without which nothing is
            known.
    """
    if not all(name in row for row in rows for name in _NEEDED):
        return [""] * len(rows)
    trait_of = {str(row["student"]): str(row["trait"]) for row in rows}
    found = [_set_of(row, trait_of) for row in rows]
    whole = {traits for traits, size in found if len(traits) == size}
    told = []
    for traits, size in found:
        fitting = [one for one in whole if len(one) == size and traits <= one]
        number = counted(size - 1, "control")
        told.append(" + ".join(sorted(fitting[0])) if len(fitting) == 1 else number)
    return told if len(set(told)) > 1 else [""] * len(rows)


def check_one_set(rows: Sequence[Mapping[str, Any]], value: str = _SPECIFIC) -> None:
    """Refuse rows of several sets of controls where what is compared has the controls taken off.

    Raises:
        ValueError: says which sets, and how one is chosen.
    """
    if not value.endswith(_SPECIFIC):
        return
    known = all(FOCUS in row for row in rows)
    sets = [str(row[FOCUS]) for row in rows] if known else sets_of(rows)
    if len(set(sets)) < 2:
        return
    raise ValueError(
        f"rows: students of several sets of controls ({'; '.join(dict.fromkeys(sets))}), whose "
        "'student - control' differ by what is taken off; choose rows of one, such as those of one "
        "part: [row for row in rows if row['part'] == ...]."
    )


def _set_of(row: Mapping[str, Any], trait_of: Mapping[str, str]) -> tuple[frozenset[str], int]:
    """The traits that are known of a row's student and controls, and how many there are."""
    controls = addresses(row["controls"]).split()
    known = {trait_of[one] for one in controls if one in trait_of}
    return frozenset({str(row["trait"]), *known}), len(controls) + 1
