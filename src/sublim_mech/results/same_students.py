"""Students that all ranks of a figure have: a line over ranks compares like with like.

A rank with more row seeds, training seeds or traits than the others would stand out by who its
students are. So a line is drawn over students (trait, row seed, training seed) that all ranks have;
all students of a rank that has more are a mark beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import NamedTuple

import pandas as pd

from ..hints import counted
from ..stats.tables import STUDENT

ALL = "all its students"
"""What a legend calls the mark beside the line."""

Key = tuple[Hashable, ...]


class OfRanks(NamedTuple):
    """What a figure of ranks draws.

    Attributes:
        line: LoRAs that the line is over.
        full: full fine-tunes of the same students.
        more: all LoRAs of each rank that has more than the line.
        more_full: all full fine-tunes, where there are more; else empty.
        told: which students these are, for the caption; empty where all have the same.
    """

    line: pd.DataFrame
    full: pd.DataFrame
    more: Mapping[int, pd.DataFrame]
    more_full: pd.DataFrame
    told: str


def of_the_same(rows: pd.DataFrame, full: pd.DataFrame) -> OfRanks:
    """The students that all ranks have; all of them where none is common.

    Args:
        rows: LoRAs, one training of each rank.
        full: full fine-tunes of one training; may be empty.
    """
    none = full.iloc[:0]
    of_rank = {int(rank): rows[rows["rank"] == rank] for rank in sorted(rows["rank"].unique())}
    keys = {rank: set(_keys(here)) for rank, here in of_rank.items()}
    common = set.intersection(*keys.values()) if keys else set()
    if not common:
        told = (
            "Ranks have no students (trait, row seed, training seed) in common: each point is of "
            "other ones, and a difference between ranks may be theirs."
        )
        return OfRanks(rows, full, {}, none, told)
    more = {rank: here for rank, here in of_rank.items() if keys[rank] > common}
    told = f"Line: {_who(common, rows)} of each rank), which all ranks have." if more else ""
    counts = {f"rank {rank}": len(keys[rank]) for rank in more}
    of_full = set(_keys(full))
    shared = of_full & common
    kept, more_full = full, none
    if shared < of_full and shared:
        kept, more_full = full[[key in shared for key in _keys(full)]], full
        counts["full"] = len(of_full)
    if of_full and not shared:
        told += f" Full fine-tuning: other students than the line's ({_who(of_full, full)}))."
    elif of_full and shared < common:
        of = counted(len(common), "student")
        told += f" Full fine-tuning: {len(shared)} of the line's {of}."
    if counts:
        said = ", ".join(f"{name}: {count}" for name, count in counts.items())
        told += f" Hollow: {ALL}, where there are more ({said})."
    line = rows[[key in common for key in _keys(rows)]]
    return OfRanks(line, kept, more, more_full, told.strip())


def _keys(rows: pd.DataFrame) -> list[Key]:
    """Which student each row is of."""
    if rows.empty:
        return []
    return list(rows[list(STUDENT)].itertuples(index=False, name=None))


def _who(keys: Set[Key], rows: pd.DataFrame) -> str:
    """Students by their seeds, and by their traits where others are left out; how many, in an open
    bracket.
    """
    traits, seeds, trainings = (sorted(set(one)) for one in zip(*keys, strict=True))
    parts = []
    if set(traits) < set(rows["trait"]):
        parts.append(", ".join(map(str, traits)))
    for name, values in (("row seed", seeds), ("training seed", trainings)):
        parts.append(f"{name}{'s' * (len(values) > 1)} {', '.join(map(str, values))}")
    return f"{', '.join(parts)} ({counted(len(keys), 'student')}"
