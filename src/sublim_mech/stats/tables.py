"""Rows of a study, one flat dict per student: chosen, averaged and compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments import shown
from ..hints import counted, nearest
from .curves import Curve
from .nesting import NestedInterval, nested_interval

Row = Mapping[str, Any]

SETTING = ("labels", "c", "where")
CONTEXTS = ("trained_in", "evaluated_in")
METHOD = ("kind", "rank", "rule", "lr")
"""Columns in which rows of one comparison must agree, unless it is about them."""

DATA_SET = ("row_seed",)
"""What makes a data set."""

KINDS = ("lora", "full")
"""How students are trained."""

STUDENT = ("trait", "row_seed", "training_seed")
"""What two students that are compared have in common."""


def as_rows(rows: Any, *needed: str) -> list[Row]:
    """Rows of a list of dicts or a DataFrame, which have these columns.

    Raises:
        TypeError: neither of the two.
        ValueError: there are none, or a column is missing in all of them.
    """
    if hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(
            f"rows={shown(rows)}: pass a list of dicts, one per student, or a DataFrame of them."
        )
    records: list[Row] = list(rows)
    if not records:
        raise ValueError("rows: there are none.")
    known = {name for row in records for name in row}
    for name in needed:
        if name not in known:
            raise ValueError(
                f"rows have no column {name!r}{nearest(name, known) or '.'} Rows of studies.run "
                "have all columns; which ones a claim needs of rows of your own is listed in "
                "docs/statistics.md (and in the function's docstring)."
            )
    return records


def number(row: Row, column: str) -> float:
    """A number of a row; NaN where it has none.

    Raises:
        TypeError: it is a text, as rows of `csv` are.
    """
    value = row.get(column)
    if isinstance(value, str):
        raise TypeError(
            f"rows: {column!r} is the text {shown(value)}; pass numbers (pandas.read_csv reads "
            "them as such)."
        )
    return math.nan if value is None else float(value)


def rank_of(row: Row) -> int:
    """The rank of a LoRA.

    Raises:
        TypeError: it is a text.
        ValueError: it is no whole number above 0.
    """
    rank = number(row, "rank")
    if not (rank >= 1 and rank.is_integer()):
        raise ValueError(f"rows: rank={shown(row.get('rank'))} of a LoRA; ranks are 1, 2, ...")
    return int(rank)


def check_kinds(rows: Sequence[Row]) -> None:
    """Refuse rows of a kind that claims do not know, which would be left out unseen.

    Raises:
        ValueError: names it.
    """
    for kind in dict.fromkeys(str(row.get("kind")) for row in rows):
        if kind not in KINDS:
            raise ValueError(
                f"rows: kind={kind!r} is none of {', '.join(KINDS)}"
                f"{nearest(kind.lower(), KINDS) or '.'}"
            )


def check_fractions(rows: Sequence[Row], *columns: str) -> None:
    """Refuse shares of tokens that are none, such as percent.

    Raises:
        ValueError: names the first.
    """
    for name in columns:
        for row in rows:
            share = number(row, name)
            if math.isfinite(share) and not 0 <= share <= 1:
                raise ValueError(
                    f"rows: {name!r} is {share:g}; it is a part of 1, such as 0.7 for 70 %."
                )


def keys(row: Row, columns: Sequence[str]) -> tuple[Hashable, ...]:
    """What a row is of, by these columns."""
    return tuple(row.get(column) for column in columns)


def means_by(
    rows: Sequence[Row], column: str, by: Sequence[str]
) -> dict[tuple[Hashable, ...], float]:
    """The mean of a column over rows that agree in others; rows without a number are left out."""
    found: dict[tuple[Hashable, ...], list[float]] = {}
    for row in rows:
        value = number(row, column)
        if math.isfinite(value):
            found.setdefault(keys(row, by), []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def check_options(matters: float, cluster: Sequence[str]) -> None:
    """Refuse a smallest difference that none can be, and columns that make no data sets.

    Raises:
        ValueError: says which.
    """
    if not 0 <= matters < math.inf:
        raise ValueError(
            f"matters={matters}: the smallest difference that matters is a number from 0 on, such "
            "as 0.1."
        )
    if not cluster:
        raise ValueError(f"cluster=(): name the columns that make a data set, {DATA_SET}.")
    for name in cluster:
        if name not in STUDENT:
            raise ValueError(
                f"cluster={tuple(cluster)}: {name!r} is none of {', '.join(STUDENT)}, by which "
                f"students are told apart{nearest(name, STUDENT) or '.'}"
            )


def without_number(rows: Sequence[Row], *columns: str) -> list[str]:
    """How many rows have no number where one is needed, column by column."""
    notes = []
    for name in columns:
        missing = sum(not math.isfinite(number(row, name)) for row in rows)
        if missing:
            has, verb = ("has", "is") if missing == 1 else ("have", "are")
            left_out = "" if missing == len(rows) else f", and {verb} left out"
            notes.append(
                f"{missing} of {counted(len(rows), 'row')} {has} no number (NaN) in "
                f"{name!r}{left_out}."
            )
    return notes


def over(
    values: Mapping[tuple[Hashable, ...], float], by: Sequence[str], cluster: Sequence[str]
) -> NestedInterval | None:
    """The mean over data sets of numbers by key; None where there are none."""
    if not values:
        return None
    places = [list(by).index(name) for name in cluster]
    labels = [tuple(key[place] for place in places) for key in values]
    return nested_interval(np.array(list(values.values())), labels, draws=200)


def of_one(rows: Sequence[Row], *columns: str) -> None:
    """Refuse rows that differ in what is not asked about: their mean would be of no student.

    Raises:
        ValueError: a column has several values; says which.
    """
    for name in columns:
        several = sorted({str(row[name]) for row in rows if name in row})
        if len(several) > 1:
            raise ValueError(
                f"rows: several {name!r} ({', '.join(several)}), whose mean is of no student; "
                f"choose one: [row for row in rows if row[{name!r}] == ...]."
            )


def is_kind(row: Row, kind: str) -> bool:
    """Whether a row is of a LoRA (`lora`) or of full fine-tuning (`full`)."""
    return row.get("kind") == kind


def finished(rows: Sequence[Row]) -> list[Row]:
    """Rows of students at the end of their training (step 0), not of snapshots."""
    return [row for row in rows if row.get("step") in (None, 0)]


class Rates(NamedTuple):
    """Of each rank the rows of one learning rate.

    Attributes:
        rows: these rows.
        notes: which rate was taken, and of what.
        unknown: why no rate can be taken at some rank; empty where one can at all.
    """

    rows: list[Row]
    notes: list[str]
    unknown: str


def best_rates(rows: Sequence[Row]) -> Rates:
    """Of each rank the rows of the learning rate with the lowest mean held-out KL; and which.

    The means are over students that all rates of a rank have in common.

    Raises:
        ValueError: several learning rates of a rank, and no column `kl`.
    """
    kept: list[Row] = []
    notes: list[str] = []
    for rank in dict.fromkeys(row["rank"] for row in rows):
        here = [row for row in rows if row["rank"] == rank]
        rates = list(dict.fromkeys(row.get("lr") for row in here))
        if len(rates) > 1:
            as_rows(rows, "kl")
            told = ", ".join(map(_said, rates))
            kl = {rate: _kl_of(here, rate) for rate in rates}
            known = {rate: of_students for rate, of_students in kl.items() if of_students}
            common = set.intersection(*map(set, known.values())) if known else set()
            if not common:
                why = "have no students with a held-out KL in common"
                return Rates([], notes, f"rank {rank}: learning rates {told} {why}")
            means = {rate: np.mean([of[key] for key in common]) for rate, of in known.items()}
            chosen = min(means, key=lambda rate: means[rate])
            note = f"Rank {rank}: learning rate {_said(chosen)}, of the lowest held-out KL"
            if len(common) < max(map(len, known.values())):
                note += f" over {counted(len(common), 'student')} that {told} have in common"
            without = [_said(rate) for rate in rates if rate not in known]
            if without:
                note += f"; of {', '.join(without)} there is none"
            notes.append(f"{note}.")
            here = [row for row in here if row.get("lr") == chosen]
        kept += here
    return Rates(kept, notes, "")


def _kl_of(rows: Sequence[Row], rate: Any) -> dict[tuple[Hashable, ...], float]:
    """The held-out KL of each student of a learning rate."""
    return means_by([row for row in rows if row.get("lr") == rate], "kl", STUDENT)


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def difference(
    first: Sequence[Row], second: Sequence[Row], value: str, cluster: Sequence[str]
) -> NestedInterval | None:
    """First minus second, of students of the same trait and seeds; None without pairs."""
    one, other = means_by(first, value, STUDENT), means_by(second, value, STUDENT)
    both = {key: one[key] - other[key] for key in one if key in other}
    return over(both, STUDENT, cluster)


def curves_of(rows: Sequence[Row], value: str) -> dict[tuple[Hashable, ...], Curve]:
    """Of each trait and seeds: the trait over held-out KL.

    Raises:
        ValueError: a KL that is not above 0.
    """
    found: dict[tuple[Hashable, ...], list[tuple[float, float]]] = {}
    for row in rows:
        point = number(row, "kl"), number(row, value)
        if point[0] <= 0:
            raise ValueError(
                f"rows: kl={point[0]:g}; a held-out KL is above 0. Students are compared on its "
                "logarithm; leave such rows out, or give None where it was not measured."
            )
        if all(map(math.isfinite, point)):
            found.setdefault(keys(row, STUDENT), []).append(point)
    return {key: Curve(*map(np.array, zip(*points, strict=True))) for key, points in found.items()}
