"""What the user says of a student's training, where no manifest does: checked, and summed up.

What cannot be a training prompt is refused: a row with its answer, text that is rendered already.
What may be one and makes sharing say little is told: one prompt alone, prompts that are all the
same, prompts that hold the system prompt's text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..arguments import is_file, read_from
from ..hints import counted, rename
from ..models.students import Student
from ..prompts import Context, Message, Prompt, Trained, render
from ..prompts.blank import is_blank
from ..prompts.rendering import has_prefix_twice
from ..prompts.same import is_one_context

Rows = Sequence[str | Sequence[Message]]
"""Training prompts as the user gives them."""

_OWN_TEXT = 12
"""Letters from which on a system prompt's text is recognised in a training prompt."""


class Training(NamedTuple):
    """What is known of a student's training from its user.

    Attributes:
        met: what sharing is told from; None where no prompts were given.
        prompts: the prompts, rendered; none where none were given.
        told: what to know of them, in sentences without a stop.
        noticed: the same, of which rendering them has told already.
    """

    met: Trained | None = None
    prompts: tuple[Prompt, ...] = ()
    told: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()


def check_training(trained_in: Context | None, trained_on: Rows | None) -> None:
    """Refuse, before anything is read, what can be no training prompts, or prompts whose context
    nobody said.

    Raises:
        ValueError: a blank system prompt; no prompts, or prompts without their context; a row that
            ends with its answer, holds a system message, or names a file.
    """
    system = None if trained_in is None else trained_in.system
    if isinstance(system, str) and is_blank(system):
        raise ValueError(
            f"trained_in=Context(system={system!r}) is blank; say Context.EMPTY (an empty system "
            "turn) or Context.NONE (no system block)."
        )
    if trained_on is None:
        return
    if len(trained_on) == 0:
        raise ValueError(
            "trained_on=[]: pass a list of training prompts, texts or conversations, or leave it "
            "out."
        )
    if trained_in is None:
        raise ValueError(
            "trained_on without trained_in: say which context these prompts were trained in, "
            "trained_in=Context(system='...'), RAW for raw text, or Context() if it was the "
            "template's own default. A student with a manifest keeps both: leave them out."
        )
    for number, row in enumerate(trained_on):
        if isinstance(row, str) and is_file(row):
            raise ValueError(
                f"trained_on[{number}]={row!r} is a file, no training prompt; pass what it holds, "
                f"trained_on={read_from(row)}."
            )
        roles = [] if isinstance(row, str) else [message.get("role") for message in row]
        if "system" in roles:
            raise ValueError(
                f"trained_on[{number}] holds a system message; say it once, "
                "trained_in=Context(system='...'), and leave it out of the prompts."
            )
        if roles and roles[-1] == "assistant":
            raise ValueError(
                f"trained_on[{number}] ends with the assistant's answer, which is what was learnt "
                "and no part of the prompt; leave the last message off: trained_on=[row[:-1] for "
                "row in rows]. (Where every answer began with the same words, say them as "
                "trained_in=Context(prefill='...').)"
            )


def training(
    student: Student, tokenizer: Any, trained_in: Context | None, trained_on: Rows | None
) -> Training:
    """What the user's training prompts say; they must not say it against the manifest.

    Raises:
        ValueError: the manifest says otherwise, or says it already; prompts that cannot be
            rendered, or are rendered already.
    """
    if student.manifest is not None:
        known = student.manifest.context
        if trained_in is not None and not is_one_context(tokenizer, trained_in, known):
            raise ValueError(
                f"trained_in={trained_in!r}, but student={student.name!r} has a manifest that says "
                f"it was trained in {known!r}; leave trained_in out. To ask in another context, "
                "name it there: render(pair, questions, context=...)."
            )
        if trained_on is not None:
            raise ValueError(
                f"trained_on: student={student.name!r} has a manifest that keeps what it was "
                "trained on; leave trained_on out."
            )
        note = _one_prompt(student.manifest.trained_on)
        return Training(told=(note,) if note else ())
    if trained_on is None or trained_in is None:
        return Training()
    try:
        prompts = render(tokenizer, trained_on, context=trained_in)
    except (TypeError, ValueError) as error:
        text = rename(str(error), {"questions": "trained_on"})
        named = text.startswith(("trained_on:", "trained_on["))
        raise ValueError(text if named else f"trained_on: {text}") from error
    for number, prompt in enumerate(prompts):
        _refuse_rendered(number, prompt)
    told = _alike(prompts), _with_system(prompts, trained_in), _answered(prompts)
    noticed = _with_prefix(prompts)
    return Training(
        Trained.of(prompts),
        tuple(prompts),
        tuple(note for note in told if note),
        (noticed,) if noticed else (),
    )


def _refuse_rendered(number: int, prompt: Prompt) -> None:
    """Refuse a user message in which stands what the template writes before user messages."""
    if prompt.context.is_raw:
        return
    last = max(prompt.turns[i] for i, role in enumerate(prompt.roles) if role == "user")
    places = [i for i, turn in enumerate(prompt.turns) if turn == last]
    said = next(i for i in places if prompt.roles[i] == "user")
    opening = prompt.text[prompt.offsets[places[0]][0] : prompt.offsets[said][0]].strip()
    # an opening that is a mere word may stand in any text
    if len(opening) > 1 and not opening.isalnum() and opening in prompt.question:
        raise ValueError(
            f"trained_on[{number}] is rendered already: {opening!r}, with which the chat template "
            "opens a user message, stands in it. Give what the user says alone (the template and "
            "the system prompt are put around it here), or messages."
        )


def _alike(prompts: Sequence[Prompt]) -> str:
    """That all prompts are one, from which sharing tells nothing."""
    if len({prompt.ids for prompt in prompts}) > 1:
        return ""
    what = "one training prompt was given (trained_on)"
    if len(prompts) > 1:
        what = f"the {len(prompts)} training prompts that were given (trained_on) are all the same"
    return (
        f"{what}, so that all of it counts as shared with training: give at least two that differ "
        "where the data differ"
    )


def _one_prompt(met: Trained) -> str:
    """That all rows of a run have one prompt, as far as its manifest knows prompts again; none
    where that has no words, such as raw text that is all answer.
    """
    words = any(token.role in ("user", "text") for frame in met.heads.values() for token in frame)
    if len(met.digests) != 1 or not words:
        return ""
    return (
        "the student's training rows all have one prompt (its manifest), so that all of it counts "
        "as shared with training: what rows of several prompts share cannot be told from it"
    )


_ANSWERED = re.compile(r"\?\s+\w+[.!]?\s*\Z")
"""A question and one word behind it."""


def _answered(prompts: Sequence[Prompt]) -> str:
    """That the prompts hold their answers, where that is sure: a word behind every question."""
    several = len(prompts) > 1 and not prompts[0].context.is_raw
    if not several or not all(_ANSWERED.search(prompt.question) for prompt in prompts):
        return ""
    return (
        "every training prompt that was given (trained_on) ends in a word behind its question "
        f"({prompts[0].question[-40:]!r}): answers are what was learnt and no part of the prompt; "
        "give what the user says alone"
    )


def _with_prefix(prompts: Sequence[Prompt]) -> str:
    """That the prompts hold the user prefix, which is put before them anyway."""
    twice = sum(map(has_prefix_twice, prompts))
    if not twice:
        return ""
    return (
        f"{twice} of {counted(len(prompts), 'training prompt')} that were given (trained_on) begin "
        "with the user_prefix that trained_in puts before them: it is taken to have stood twice in "
        "training"
    )


def _with_system(prompts: Sequence[Prompt], trained_in: Context) -> str:
    """That the prompts hold the text of their system prompt, which is put before them anyway."""
    system = trained_in.system
    if not isinstance(system, str) or len(system.strip()) < _OWN_TEXT:
        return ""
    words = " ".join(system.split())
    if not all(words in " ".join(prompt.question.split()) for prompt in prompts):
        return ""
    return (
        "every training prompt that was given (trained_on) holds the text of the system prompt, "
        "which trained_in says and is put before them already: leave it out of them, unless it "
        "stood twice in training"
    )
