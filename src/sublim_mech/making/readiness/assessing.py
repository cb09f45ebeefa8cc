"""Readiness: what must be there before a student is trained, with a verdict for every teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from ...arguments import checked
from ...prompts import Trait
from ..labelling.about import Labeller
from ..labelling.coverage import Coverage
from ..rows import Row, Rows, as_rows
from ..teachers.reading import tokenise
from ..teachers.teacher import Teacher
from .comparing import Compared, compare
from .report import Readiness
from .shifts import row_shift
from .signal import label_signal, shift_of_traits

if TYPE_CHECKING:
    from ..labelling.store import Labels


@checked
def assess(
    teachers: Sequence[Teacher],
    *,
    rows: Mapping[str, Rows] | None = None,
    labels: Labels | None = None,
    traits: Sequence[Trait] | None = None,
    questions: Sequence[str] | None = None,
    progress: bool = True,
) -> Readiness:
    """Look at teachers, and at what they wrote or labelled, before any student is trained.

    Args:
        teachers: teachers of one base for students of one context, of at least two traits; controls
            (without trait) beside.
        rows: what each teacher wrote, by its name. Rows of other traits' teachers or of a control
            are what a teacher's rows are held against. Rows that no teacher wrote have no gate;
            `row_shift` measures them.
        labels: soft labels of these teachers.
        traits: the traits asked for; the teachers' own when not given.
        questions: what is asked; the traits' own questions when not given.
        progress: show progress bars.

    Returns:
        A `Readiness`: print it; `table()`, `passed`, `to_json()`.

    Raises:
        TypeError: rows that are not said to be anybody's.
        ValueError: rows of an unknown teacher; the very same rows for teachers of different traits;
            labels of another base or student context; see `trait_shift`, `row_shift`,
            `label_signal`.

    Example:
        >>> from sublim_mech.making import readiness, teachers
        >>> both = [teachers.prompted(pair, sm.animal(name)) for name in ("owl", "cat")]
        >>> asked = ["Which animal?", "Your animal?"]
        >>> found = readiness.assess(both, questions=asked, progress=False)
        >>> found.table()["rows carry signal"].tolist()
        ['not measured', 'not measured']
    """
    compared = compare(teachers, "assess: teachers")
    own = compared.traits
    if not any(own.values()):
        raise ValueError(
            f"assess: none of {', '.join(own)} has a trait; pass the teachers, controls beside "
            "them."
        )
    if labels is not None:
        _check_labels(labels, compared)
    signal = None if labels is None else label_signal(labels)  # refuses some, before any forward
    written = {} if rows is None else rows
    unknown = [name for name in written if name not in own]
    if unknown:
        raise ValueError(
            f"assess: rows of {', '.join(map(repr, unknown))}, which are no teachers; there are "
            f"{', '.join(own)}."
        )

    listed = {
        name: as_rows(by_teacher, name=f"assess: rows[{name!r}]")
        for name, by_teacher in written.items()
    }
    _check_own_rows(listed, own)

    everybody = compared.everybody
    shifts = {}
    for name, by_teacher in listed.items():
        shifts[name] = row_shift(everybody, by_teacher, progress=progress)
    coverage = None if labels is None else _coverage(labels, compared.base)
    moved = shift_of_traits(everybody, traits, questions, progress=progress)
    labelled = 0 if labels is None else len({row.key for row in as_rows(labels.rows)})
    return Readiness(
        own, moved.table, shifts, signal, coverage, moved.questions, labelled, moved.notes
    )


def _check_own_rows(written: Mapping[str, Sequence[Row]], own: Mapping[str, str | None]) -> None:
    """Raise ValueError where teachers that are held against each other have the same rows: between
    these there is no difference by construction.
    """
    distinct = {name: {row.key for row in rows} for name, rows in written.items()}
    for one, other in combinations(distinct, 2):
        if distinct[one] and distinct[one] == distinct[other] and own[one] != own[other]:
            raise ValueError(
                f"assess: rows[{one!r}] and rows[{other!r}] are the very same rows, so that those "
                "of one are as likely as those of the other by construction; pass under each name "
                "what that teacher wrote. Rows that no teacher wrote have no gate: "
                "row_shift(teachers, rows) measures them."
            )


def _coverage(labels: Labels, base: Teacher) -> Coverage | None:
    """How much of the answers the labels are over; counted where their folder does not say it."""
    if labels.coverage is not None or labels.support is None:
        return labels.coverage
    return Coverage.of(tokenise(base, labels.rows, close=False).answers, labels.support)


def _check_labels(labels: Labels, compared: Compared) -> None:
    """Raise ValueError where labels are not those of the teachers."""
    about, base = labels.about, compared.base
    wrong = []
    if about.base != base.base.hash:
        wrong.append("base")
    if about.context != base.student_context:
        wrong.append("context")
    for teacher in compared.teachers:
        labelled = teacher.name in labels.teachers
        if labelled and labels.labeller(teacher.name) != Labeller.of(teacher):
            wrong.append(f"teacher {teacher.name!r}")
    if wrong:
        raise ValueError(
            f"assess: the labels are of another {wrong[0]}; pass the labels of these teachers."
        )
