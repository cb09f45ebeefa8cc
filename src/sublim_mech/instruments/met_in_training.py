"""Prompts that students were trained on, and questions that were trained on in another context.

A run keeps a digest of each of its training prompts, not their texts. Whether a question stood
among them is told by rendering it in the context of that training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..hints import counted
from ..models.students import Student
from ..prompts import Context, Prompt, Trained, render
from ..prompts.notices import said_before
from ..prompts.shared import user_messages
from ..results.record import ELSEWHERE, LEARNT


class _Met(NamedTuple):
    """How many prompts were training prompts, and how many others ask what was trained on in
    another context.
    """

    itself: int
    elsewhere: int


def met_in_training(
    prompts: Sequence[Prompt], runner: Runner, what: str = "prompt", *, controls: bool = True
) -> tuple[str, ...]:
    """That prompts are those of a student's training, or ask the same in another context, in a
    sentence each; nothing where none is, or where it is not known.

    Args:
        prompts: that are asked.
        runner: a pair.
        what: what one of them is called.
        controls: of the controls as well; those with the same numbers in one sentence.
    """
    if not isinstance(runner, ModelPair):
        return ()
    again: dict[Context, list[Prompt | None]] = {}
    met = _of(prompts, runner.training_prompts, runner.training_context, runner, again)
    notes = _in_words(met, counted(len(prompts), what), ())
    alike: dict[_Met, list[str]] = {}
    for control in runner.controls if controls else ():
        theirs = _of(prompts, *_training(control), runner, again)
        alike.setdefault(theirs, []).append(control.name)
    for theirs, names in alike.items():
        notes += _in_words(theirs, counted(len(prompts), what), names)
    return tuple(notes)


def _training(student: Student) -> tuple[Trained | None, Context | None]:
    """A student's training prompts and context, as far as a manifest tells."""
    manifest = student.manifest
    return (None, None) if manifest is None else (manifest.trained_on, manifest.context)


def _of(
    prompts: Sequence[Prompt],
    trained: Trained | None,
    context: Context | None,
    runner: Runner,
    again: dict[Context, list[Prompt | None]],
) -> _Met:
    """How many prompts one student met in training.

    Args:
        prompts: that are asked.
        trained: its training prompts.
        context: of its training.
        runner: whose tokenizer renders.
        again: the prompts as other contexts have them, by these; grows.
    """
    if trained is None or not trained.digests:
        return _Met(0, 0)
    held = [trained.holds(prompt) for prompt in prompts]
    if context is None or all(held):
        return _Met(sum(held), 0)
    if context not in again:
        again[context] = _rendered_in(context, prompts, runner.tokenizer)
    elsewhere = [
        not itself and there is not None and trained.holds(there)
        for itself, there in zip(held, again[context], strict=True)
    ]
    return _Met(sum(held), sum(elsewhere))


def _rendered_in(
    context: Context, prompts: Sequence[Prompt], tokenizer: Any
) -> list[Prompt | None]:
    """What prompts ask in another context, by the same chat template; None of those that are in it
    already, of longer conversations, and where it cannot be rendered.
    """
    found: list[Prompt | None] = [None] * len(prompts)
    for template in dict.fromkeys(prompt.template for prompt in prompts):
        places = [
            place
            for place, prompt in enumerate(prompts)
            if prompt.template == template
            and prompt.context != context
            and user_messages(prompt) <= 1
            and prompt.question.strip()
        ]
        if not places:
            continue
        asked = [prompts[place].question for place in places]
        by = None if context.is_raw else template or None
        try:
            with said_before():
                there = render(tokenizer, asked, context=context, template=by)
        except (TypeError, ValueError):
            continue
        for place, prompt in zip(places, there, strict=True):
            found[place] = prompt
    return found


def _in_words(met: _Met, of_all: str, controls: Sequence[str]) -> list[str]:
    """What was met in training, in a sentence each.

    Args:
        met: how many prompts were.
        of_all: how many there are, in words.
        controls: who met them; the student where none is named.
    """
    several = len(controls) > 1
    named = f"control{'s' * several} {', '.join(controls)}"
    says = "what they say" if several else "what it says" if controls else "what the student says"
    learnt = "they" if several else "it" if controls else "the student"
    notes = []
    if met.itself:
        one = met.itself == 1
        stood = "was a training prompt" if one else "were training prompts"
        whose = f"of {named}" if controls else "itself" if one else "themselves"
        notes.append(
            f"{met.itself} of {of_all} {stood} {whose}: {says} to them was learnt, and {LEARNT}"
        )
    if met.elsewhere:
        stood = "was trained on" if met.elsewhere == 1 else "were trained on"
        whose = f" by {named}" if controls else ""
        notes.append(
            f"{met.elsewhere} of {of_all} {stood}{whose} in another context: {learnt} learnt what "
            f"to say to them there, and {ELSEWHERE}"
        )
    return notes
