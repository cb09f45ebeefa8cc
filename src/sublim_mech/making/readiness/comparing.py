"""What all measures of readiness share: the base and the teachers, and whose traits are others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...stats import Interval
from ..rows import Row
from ..teachers.prompting import untouched
from ..teachers.teacher import BASE, Teacher, difference, of_other_traits


class Compared(NamedTuple):
    """Teachers that can be compared.

    Attributes:
        base: the base in the students' context.
        teachers: the others.
    """

    base: Teacher
    teachers: list[Teacher]

    @property
    def everybody(self) -> list[Teacher]:
        """The base, then the others."""
        return [self.base, *self.teachers]

    @property
    def traits(self) -> dict[str, str | None]:
        """The trait's name by teacher; None for controls."""
        names: dict[str, str | None] = {}
        for teacher in self.teachers:
            names[teacher.name] = None if teacher.trait is None else teacher.trait.name
        return names


def compare(teachers: Sequence[Teacher], argument: str) -> Compared:
    """Teachers, checked; the base need not be given.

    Args:
        teachers: teachers of one base for students of one context.
        argument: what errors call them.

    Raises:
        ValueError: no teachers, two of one name, of different bases or student contexts.
    """
    given = list(teachers)
    base = next((teacher for teacher in given if teacher.kind == "base"), None)
    others = [teacher for teacher in given if teacher is not base]
    if not given:
        raise ValueError(f"{argument} is empty; pass teachers.")
    if not others:
        raise ValueError(f"{argument}: nobody but the base is given; pass at least one teacher.")
    names = [teacher.name for teacher in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if base is None and BASE in names:
        twice = twice or [BASE]
    if twice:
        raise ValueError(
            f"{argument}: two are called {twice[0]!r}; rename one: "
            "dataclasses.replace(teacher, name=...)."
        )
    apart = difference(given)
    if apart is not None:
        raise ValueError(
            f"{argument}: {apart.one!r} and {apart.other!r} differ in {apart.what}, so their "
            "difference is not the trait's; use one."
        )
    if base is None:
        first = given[0]
        context, template = first.student_context, first.template
        base = untouched(first.base, context=context, template=template)
    return Compared(base, others)


def others_of(teacher: str, traits: dict[str, str | None]) -> list[str]:
    """The teachers of other traits than a teacher's own.

    Args:
        teacher: whose.
        traits: the trait's name by teacher; None for controls.

    Raises:
        ValueError: no such teacher, or none of another trait.
    """
    measured = ", ".join(map(repr, traits))
    if teacher not in traits:
        raise ValueError(f"teacher={teacher!r} was not measured; choose one of {measured}.")
    others = list(of_other_traits(teacher, traits))
    if not others:
        raise ValueError(
            f"own minus others of {teacher!r} needs the teacher of at least one other trait; "
            f"given are {measured}."
        )
    return others


def of_distinct(rows: Sequence[Row], *values: np.ndarray) -> list[np.ndarray]:
    """Values per row as values per different row, summed over its copies.

    Copies are no evidence: what is resampled is the different rows.

    Args:
        rows: the rows.
        values: each `(row,)`.
    """
    places: dict[object, int] = {}
    place = [places.setdefault(row.key, len(places)) for row in rows]
    return [np.bincount(place, value, len(places)) for value in values]


def columns(name: str, interval: Interval) -> dict[str, float]:
    """Columns `<name>`, `<name> low`, `<name> high`."""
    return {
        name: float(interval.mean),
        f"{name} low": float(interval.low),
        f"{name} high": float(interval.high),
    }
