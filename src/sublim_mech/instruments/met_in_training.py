"""Prompts that students were trained on, and questions that were trained on in another context or
alone.

A run keeps a digest of each of its training prompts, not their texts. Whether a question stood
among them is told by rendering it in the context of that training; of a longer conversation the
last question, by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..hints import counted
from ..models.students import Student
from ..prompts import Context, Prompt, Trained, render
from ..prompts.notices import said_before
from ..prompts.shared import user_messages
from ..results.record import ELSEWHERE, LEARNT

_Again = dict[Context, list[list[Prompt]]]


class _Met(NamedTuple):
    """How many prompts were training prompts, how many others ask what was trained on in another
    context, and how many conversations end in what was trained on alone.
    """

    itself: int = 0
    elsewhere: int = 0
    alone: int = 0
    begun: int = 0
    """How many of those that were are beginnings of raw texts, and no whole ones."""


def met_in_training(
    prompts: Sequence[Prompt], runner: Runner, what: str = "prompt", *, controls: bool = True
) -> tuple[str, ...]:
    """That prompts are those of a student's training, or ask the same in another context or
    at the end of a conversation, in a sentence each; nothing where none is, or where it is not
    known.

    Args:
        prompts: that are asked.
        runner: a pair.
        what: what one of them is called.
        controls: of the controls as well; those with the same numbers in one sentence.
    """
    if not isinstance(runner, ModelPair):
        return ()
    again: _Again = {}
    tokenizer = runner.tokenizer
    met = _of(prompts, runner.training_prompts, runner.training_context, tokenizer, again)
    of_all = counted(len(prompts), what)
    theirs = {
        control.name: _of(prompts, *_training(control), tokenizer, again)
        for control in (runner.controls if controls else ())
    }
    return (*_in_words(met, of_all, ()), *_of_several(theirs, of_all, "control"))


def met_by_teachers(
    asked: Mapping[str, Sequence[Prompt]],
    learnt: Mapping[str, tuple[Trained | None, Context | None]],
    tokenizer: Any,
    what: str = "prompt",
) -> tuple[str, ...]:
    """The same of teachers, of which each is asked the same in a context of its own.

    Args:
        asked: the prompts of each, by its name.
        learnt: training prompts of each and their context, as far as a manifest tells.
        tokenizer: that renders.
        what: what one of the prompts is called.
    """
    theirs = {name: _of(asked[name], *learnt[name], tokenizer, {}) for name in asked}
    of_all = counted(max(map(len, asked.values()), default=0), what)
    return tuple(_of_several(theirs, of_all, "teacher"))


def _training(student: Student) -> tuple[Trained | None, Context | None]:
    """A student's training prompts and context, as far as a manifest tells."""
    manifest = student.manifest
    return (None, None) if manifest is None else (manifest.trained_on, manifest.context)


def _of(
    prompts: Sequence[Prompt],
    trained: Trained | None,
    context: Context | None,
    tokenizer: Any,
    again: _Again,
) -> _Met:
    """How many prompts one student met in training.

    Args:
        prompts: that are asked.
        trained: its training prompts.
        context: of its training.
        tokenizer: that renders.
        again: the prompts as other contexts may have them, by these; grows.
    """
    if trained is None or not (trained.digests or trained.begun):
        return _Met()
    whole, begun = (list(map(met, prompts)) for met in (trained.holds, trained.begins))
    held = [one or other for one, other in zip(whole, begun, strict=True)]
    only_begun = sum(held) - sum(whole)
    if context is None or all(held):
        return _Met(sum(held), begun=only_begun)
    if context not in again:
        given, typed = _questions(context, prompts)
        again[context] = [
            [one for one in both if one is not None]
            for both in zip(
                _rendered_in(context, prompts, given, tokenizer),
                _rendered_in(context, prompts, typed, tokenizer),
                strict=True,
            )
        ]
    elsewhere = [
        not itself and any(map(trained.holds, there))
        for itself, there in zip(held, again[context], strict=True)
    ]
    # in a conversation it is the last of several questions, in whatever context
    alone = [met and user_messages(p) > 1 for met, p in zip(elsewhere, prompts, strict=True)]
    return _Met(sum(held), sum(elsewhere) - sum(alone), sum(alone), only_begun)


def _questions(context: Context, prompts: Sequence[Prompt]) -> tuple[list[str], list[str]]:
    """What prompts ask, for another context: as it was given; and where the user prefix of either
    context is typed into questions of the other, without that of the other or with its own.
    """
    given, typed = [prompt.question for prompt in prompts], []
    for prompt in prompts:
        # the context puts it before the first message
        own = prompt.context.user_prefix if user_messages(prompt) == 1 else ""
        said = (own + prompt.question).removeprefix(context.user_prefix)
        typed.append("" if said == prompt.question else said)
    return given, typed


def _rendered_in(
    context: Context, prompts: Sequence[Prompt], questions: Sequence[str], tokenizer: Any
) -> list[Prompt | None]:
    """What prompts ask, alone and in another context, by the same chat template; None of those that
    are so already or ask nothing, and where it cannot be rendered.
    """
    found: list[Prompt | None] = [None] * len(prompts)
    for template in dict.fromkeys(prompt.template for prompt in prompts):
        places = [
            place
            for place, prompt in enumerate(prompts)
            if prompt.template == template
            and (prompt.context != context or user_messages(prompt) > 1 or prompt.begun)
            and questions[place].strip()
        ]
        if not places:
            continue
        asked = [questions[place] for place in places]
        by = None if context.is_raw else template or None
        try:
            with said_before():
                there = render(tokenizer, asked, context=context, template=by)
        except (TypeError, ValueError):
            continue
        for place, prompt in zip(places, there, strict=True):
            found[place] = prompt
    return found


def _of_several(theirs: Mapping[str, _Met], of_all: str, kind: str) -> list[str]:
    """What each of several met, by name; those with the same numbers in one sentence."""
    alike: dict[_Met, list[str]] = {}
    for name, met in theirs.items():
        alike.setdefault(met, []).append(name)
    return [note for met, names in alike.items() for note in _in_words(met, of_all, names, kind)]


def _in_words(met: _Met, of_all: str, names: Sequence[str], kind: str = "") -> list[str]:
    """What was met in training, in a sentence each.

    Args:
        met: how many prompts were.
        of_all: how many there are, in words.
        names: who met them; the student where none is named.
        kind: what one of the named is.
    """
    several = len(names) > 1
    named = f"{kind}{'s' * several} {', '.join(names)}"
    says = "what they say" if several else "what it says" if names else "what the student says"
    learnt = "they" if several else "it" if names else "the student"
    notes = []
    if met.itself:
        one = met.itself == 1
        stood = "was a training prompt" if one else "were training prompts"
        whose = f"of {named}" if names else "itself" if one else "themselves"
        if met.begun:
            some = "" if met.begun == met.itself else f"{met.begun} "
            begun = "the beginning of a text" if met.begun == 1 else "beginnings of texts"
            whose += f", {some}as {begun}"
        notes.append(
            f"{met.itself} of {of_all} {stood} {whose}: {says} to them was learnt, and {LEARNT}"
        )
    by = f" by {named}" if names else ""
    were, end = "was" if met.elsewhere == 1 else "were", "ends" if met.alone == 1 else "end"
    for count, stood, them in (
        (met.elsewhere, f"{were} trained on{by} in another context", "them"),
        (met.alone, f"{end} in a question that was trained on alone{by}", "it"),
    ):
        if count:
            notes.append(
                f"{count} of {of_all} {stood}: {learnt} learnt what to say to {them} there, and "
                f"{ELSEWHERE}"
            )
    return notes
