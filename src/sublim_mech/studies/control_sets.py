"""Whose students are a row's controls: `student - control` is comparable between rows of one set.

Controls of a student are those of the other traits of its part's focus, so that student and
controls together are one and the same set of traits for all students of a part. Parts of another
focus take off another mean.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..hints import counted

FOCUS = "focus"
"""The column that says it; empty where all rows have the same set."""


def in_order(controls: pd.Series) -> pd.Series:
    """Addresses of controls, the same text for the same ones; empty for none."""
    return controls.fillna("").map(lambda text: " ".join(sorted(str(text).split())))


def focus_of(rows: pd.DataFrame) -> list[str]:
    """Per row the traits whose students are compared with each other, in words.

    A control of an unfinished study may have no row of its own, so that its trait is not known: the
    row is then of the set of its size that has all it has, or is called by its number of controls
    where there are several such sets, or none.

    Args:
        rows: with `trait`; `student` and `controls` (`in_order`) as studies write them, without
            which nothing is known.
    """
    if not {"trait", "student", "controls"} <= set(rows):
        return [""] * len(rows)
    trait_of = dict(zip(rows["student"], rows["trait"], strict=True))
    found = [_set_of(row, trait_of) for row in rows[["trait", "controls"]].to_dict("records")]
    whole = {traits for traits, size in found if len(traits) == size}
    told = []
    for traits, size in found:
        fitting = [one for one in whole if len(one) == size and traits <= one]
        number = counted(size - 1, "control")
        told.append(" + ".join(sorted(fitting[0])) if len(fitting) == 1 else number)
    return told if len(set(told)) > 1 else [""] * len(rows)


def _set_of(row: dict[Any, Any], trait_of: dict[str, str]) -> tuple[frozenset[str], int]:
    """The traits that are known of a row's student and controls, and how many there are."""
    controls = row["controls"].split()
    known = {trait_of[one] for one in controls if one in trait_of}
    return frozenset({row["trait"], *known}), len(controls) + 1
