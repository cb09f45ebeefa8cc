"""What limits a result whatever its numbers are: who its students are, where they were asked and
trained, by what they are controlled, and over how many prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..stats import FEWEST
from .arrays import ScoreArrays
from .contexts import (
    NOT_GIVEN,
    OTHERWISE,
    TURNS,
    asked_and_trained,
    otherwise,
    several_in_words,
    unlike,
)
from .held import held, holds_student, notes_held
from .limit_kinds import Limit
from .record import GATED, ONE_VALUE, SUM, UNTOLD, VOID, Record

# ---------------------------------------------------------------------------------------- contexts


def where_asked(record: Record) -> str:
    """In which contexts prompts were asked, and in which the student was trained, in one line."""
    where = asked_and_trained(record.contexts, record.training_context)
    if record.donor_contexts:
        where += f"; donors asked in: {'; '.join(several_in_words(record.donor_contexts))}"
    return where


def of_contexts(scores: ScoreArrays) -> list[Limit]:
    """That nobody said in which context the student was trained, or that it was asked otherwise;
    nothing of files older than these fields.
    """
    record = scores.record
    if not record.measured:
        return []
    turns = [note for note in record.notes if TURNS in note]
    told = [Limit("context", note, note) for note in turns]
    if record.training_context is None:
        return [Limit("context", where_asked(record), NOT_GIVEN), *told]
    compared = record.contexts, record.training_context, record.notes
    names = ", ".join(unlike(*compared))
    unlike_contexts = [
        Limit("context", line, f"{OTHERWISE}: {names}") for line in otherwise(*compared)
    ]
    return [*unlike_contexts, *told]


def over_contexts(scores: ScoreArrays) -> str:
    """That means are over prompts of several contexts; empty where they are not.

    Of one prompt there is one context, whichever: files of earlier versions do not know which.
    """
    record, count = scores.record, scores.data.sizes["prompt"]
    if not record.measured or len(record.contexts) < 2 or count < 2:
        return ""
    return "prompts of several contexts: every mean is over all of them"


# ------------------------------------------------------------------------------- controls, prompts


def voided(scores: ScoreArrays) -> list[str]:
    """Of which students the difference is not what it is called, or may not be, in short: tables
    have all of it among their notes.
    """
    told = []
    for note in notes_held(scores):
        if UNTOLD in note:
            told.append(note.partition(": ")[2])
        told += [f"{note.partition(phrase)[0]}{phrase}" for phrase in VOID if phrase in note]
    return told


def uncontrolled(students: Sequence[Mapping[str, Any]], what: str = "effect") -> str:
    """What else may move answers where there are no controls.

    Args:
        students: their sources, as a record has them.
        what: part of which it may be.
    """
    of_numbers = bool(students) and all(student.get("data") == "numbers" for student in students)
    cause = "training on any numbers" if of_numbers else "fine-tuning as such"
    return f"part of any {what} may come from {cause}"


def of_a_sum(scores: ScoreArrays) -> list[Limit]:
    """That the student is none that was trained, but several added up; nothing of a hybrid, which
    says who is where.
    """
    if scores.record.hybrid is not None:
        return []
    return [Limit("sum", note, note) for note in scores.record.notes if SUM in note]


def of_gates(scores: ScoreArrays) -> list[Limit]:
    """Where alone students act that have gates of their own: elsewhere there is nothing of them to
    find. Students of one mask in one line.
    """
    told: dict[str, list[str]] = {}
    for note in notes_held(scores):
        _, gated, where = note.partition(GATED)
        if gated:
            told.setdefault(where.strip(), []).append(note)
    return [
        Limit("gated", "; ".join(notes), f"as trained, weights are on only at {where}")
        for where, notes in told.items()
    ]


def without_controls(scores: ScoreArrays) -> list[Limit]:
    """That there are no controls, and what that means; nothing where there are some, or of a
    hybrid, whose parts are what it is compared with.
    """
    if scores.has_controls or scores.record.hybrid is not None:
        return []
    students = [vars(source) for source in scores.record.students.values()]
    given = "no controls given" if len(students) == 1 else "controls left out of this selection"
    if scores.record.is_sum:
        given = "no controls beside the sum"
    if not holds_student(scores):
        given = f"{', '.join(held(scores))} by itself"
    told = f"{given}: {uncontrolled(students)}"
    return [Limit("no controls", told, told)]


def of_one_value(scores: ScoreArrays) -> list[Limit]:
    """That prompts are counted each which are one as far as the metric reads."""
    told = [note for note in scores.record.notes if ONE_VALUE in note]
    return [Limit("intervals", note, note.partition(", and intervals")[0]) for note in told]


def few_prompts(count: int, what: str = "prompt") -> list[Limit]:
    """What an interval over so few is worth, or that one has none; nothing of enough.

    It lies within the range of what was seen, which leaves the middle of all on one side with
    probability 2^(1 - n).
    """
    if count >= FEWEST:
        return []
    if count == 1:
        told = f"one {what}: no intervals"
        return [Limit("intervals", told, told)]
    text = (
        f"{count} {what}s: intervals over so few are no 95 % intervals: they miss in at least "
        f"{2 ** (1 - count):z.0%} of cases; {FEWEST} or more can hold 95 %"
    )
    return [Limit("intervals", text, f"{count} {what}s: too few for 95 % intervals")]
