"""What limits the questions that teachers are asked: what they name, who was trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from ...instruments.met_in_training import met_by_teachers
from ...instruments.named_in_questions import named_in_questions
from ...prompts import Prompt, Trait, render
from ...prompts.notices import said_before
from ..teachers.teacher import Teacher
from ..teachers.tuning import asked_otherwise
from .comparing import Compared


def notes_of(
    compared: Compared, traits: Sequence[Trait], questions: Sequence[str]
) -> tuple[str, ...]:
    """That questions name a trait, were a teacher's training prompts, or are asked in another
    context than that of its training, in a sentence each, as `evaluate` says it of students.

    Args:
        compared: the base and the teachers.
        traits: that are scored.
        questions: that are asked.
    """
    tokenizer = compared.base.runner.tokenizer
    learnt = {
        teacher.name: (teacher.trained_on, teacher.trained_in) for teacher in compared.teachers
    }
    asked = {teacher.name: _rendered(teacher, questions) for teacher in compared.teachers}
    return (
        *named_in_questions(_rendered(compared.base, questions), traits, "question"),
        *met_by_teachers(asked, learnt, tokenizer, "question"),
        *_in_other_contexts(compared),
    )


def _rendered(teacher: Teacher, questions: Sequence[str]) -> list[Prompt]:
    """Questions as a teacher is asked them, which has told already what there is to tell of it."""
    with said_before():
        return render(
            teacher.runner.tokenizer,
            questions,
            context=teacher.context,
            template=teacher.template,
        )


def _in_other_contexts(compared: Compared) -> list[str]:
    """Which teachers are asked otherwise than they were trained, a line for those of one kind."""
    alike: dict[str, list[str]] = {}
    for teacher in compared.teachers:
        told = asked_otherwise(teacher.context, teacher.trained_in, teacher.runner.tokenizer)
        if told:
            alike.setdefault(told, []).append(teacher.name)
    return [f"{', '.join(names)}: {told}" for told, names in alike.items()]
