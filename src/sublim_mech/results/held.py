"""What scores hold: the models in their numbers, which of a selection are some of the record's.

The record says who was scored together, so that a selection can still be traced. What is said of
numbers goes by the models in them: scores of a student alone hold no control, and scores of a
control alone no student.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from .arrays import ScoreArrays
from .record import (
    CHOSEN,
    ELSEWHERE,
    FOR_LITTLE,
    HAS_ASKED,
    LEARNT,
    NOT_ALIKE,
    OTHER_PIECES,
    OWN_CHANGE,
    OWN_DATA,
    OWN_TRAIT,
    PART_DATA,
    STORED,
    TWICE,
    UNKNOWN_CONTROLS,
    UNNAMED,
    UNTOLD,
    UNTRAINED_TEMPLATE,
    StudentSource,
)

_OF_BOTH = (
    *(CHOSEN, FOR_LITTLE, HAS_ASKED, NOT_ALIKE, OWN_CHANGE),
    *(OWN_DATA, OWN_TRAIT, PART_DATA, STORED),
)
"""What notes say of a control beside the student: nothing of either by itself."""


def held(scores: ScoreArrays) -> Mapping[str, StudentSource]:
    """The models of some scores, by name, the one that the headline is of first."""
    students = scores.record.students
    names = map(str, scores.data["model"].values.tolist())
    return {name: students[name] for name in names if name in students}


def holds_student(scores: ScoreArrays) -> bool:
    """Whether the student is among the models, not controls alone."""
    return next(iter(scores.record.students)) in scores.data["model"].values.tolist()


def notes_held(scores: ScoreArrays) -> list[str]:
    """The notes of the record, without those of models that these scores do not hold, and of how
    student and controls differ where these are not both there.
    """
    models = scores.data["model"].values.tolist()
    return notes_among(scores.record.notes, list(scores.record.students), models)


def notes_among(
    notes: Sequence[str], students: Sequence[str], models: Collection[str]
) -> list[str]:
    """Notes without those of students that are not there, and of how student and controls differ
    where these are not both there.

    Args:
        notes: of all students.
        students: their names, the student's first.
        models: names of those that are there.

    Example:
        >>> from sublim_mech.results.held import notes_among
        >>> notes = ["control cat was not trained alike: lr", "2 prompts differ from others"]
        >>> notes_among(notes, ["student", "control: cat"], ["student"])
        ['2 prompts differ from others']
    """
    models = set(models)
    student, *controls = students
    if models >= {student, *controls}:
        return list(notes)
    called = {name.removeprefix("control: "): name for name in controls}
    return [note for note in notes if _is_of(note, models, student, called)]


def notes_of_some(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of some of the prompts that they were written of: which of these they count is not
    kept, so they say of how many they do.

    Args:
        notes: of a record.

    Example:
        >>> from sublim_mech.results.held import notes_of_some
        >>> notes_of_some(["1 of 8 prompts was a training prompt itself"])
        ('1 of the 8 prompts these are chosen from was a training prompt itself',)
    """
    return tuple(
        _COUNTED.sub(r"\1 of the \2 these are chosen from", note, count=1) for note in notes
    )


_COUNTED = re.compile(r"\b([\d,]+) of ([\d,]+ (?:prompts|donors))\b")
"""How notes count prompts, and those that others take from."""


def _is_of(note: str, models: set[str], student: str, called: Mapping[str, str]) -> bool:
    """Whether a note is of some models.

    Args:
        note: of the record.
        models: names of those that are there.
        student: that of the student.
        called: controls as notes call them -> their names.
    """
    both = student in models and not models.isdisjoint(called.values())
    if f" {TWICE}, " in note:
        return all(called[own] in models for own in called if _names(note, own))
    if UNTOLD in note or note.startswith(UNNAMED):
        return both and _names_any(note, models, called)
    if note.startswith(UNKNOWN_CONTROLS):
        return _names_any(note, models, called)
    if re.match(r"the student \(", note) or UNTRAINED_TEMPLATE in note or OTHER_PIECES in note:
        return student in models
    if LEARNT in note or ELSEWHERE in note:
        of_controls = re.match(r"[\d,]+ of [^:]* (of|by) controls? ", note)
        return _names_any(note, models, called) if of_controls else student in models
    about = [own for own in called if re.match(rf"control {re.escape(own)}[: ]", note)]
    if not about:
        return True
    there = called[max(about, key=len)] in models  # a name may begin as another
    return there and (both or not any(phrase in note for phrase in _OF_BOTH))


def _names_any(note: str, models: set[str], called: Mapping[str, str]) -> bool:
    """Whether a note that lists controls names one that is there; where it names none, it is of
    all.
    """
    named = [name for own, name in called.items() if _names(note, own)]
    return not named or not models.isdisjoint(named)


def _names(note: str, control: str) -> bool:
    """Whether a note names a control."""
    return bool(re.search(rf"\b{re.escape(control)}\b", note))
