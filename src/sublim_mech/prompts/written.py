"""Answers as the chat template writes them: whether it would write a prompt with just this answer.

A template may trim an answer, or take a thought out of it and put it elsewhere. Prompt and answer
are then no conversation that it writes.

1. It renders each conversation with its answer.
2. That ends as it should: with the prompt's text behind the last question, the answer, and what
   the template writes after one. If so, they are alike.
3. Else it renders the conversation with a word in the answer's place. Where only the answer's text
   is another, the template trims or shortens it, which is told. Where what stands before the answer
   is another, the prompt is none that this answer follows, which is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..hints import counted, outside
from .dressing import dress
from .prompt import Message, Prompt
from .rendering import conversation
from .source import RefusedError
from .template import Template, reasoned

_WORD = "QZANSWERZQ"
_SHOWN = 60  # letters of the end of a conversation


class _Otherwise(NamedTuple):
    """An answer that the template writes otherwise.

    Attributes:
        row: its number.
        answer: its text.
        given: the conversation's end with the answer as it is.
        written: the conversation's end as the template writes it, or that it refuses.
        is_refused: whether the prompt is none that this answer follows.
        is_trimmed: whether no more than white space around the answer is left out.
    """

    row: int
    answer: str
    given: str
    written: str
    is_refused: bool
    is_trimmed: bool


def check_answers(
    tokenizer: Any,
    questions: Sequence[str | Sequence[Message]],
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    template: str | None,
    name: str,
) -> None:
    """Compare prompts and given answers with the template's own rendering of both.

    Raw text has no template, and is not looked at.

    Args:
        tokenizer: what rendered the prompts.
        questions: what they are prompts of, as `render` took them.
        prompts: of one context.
        answers: the texts that follow.
        template: chat template, where not the tokenizer's own.
        name: what is checked, as messages say it.

    Raises:
        ValueError: the template writes another prompt before such an answer (it writes an empty
            thought where there is none, and the answer has one), or refuses it.

    Warns:
        UserWarning: the template trims or shortens answers: how many, the first, and what to do.
    """
    context = prompts[0].context
    if context.is_raw:
        return
    writer = _Writer(Template(tokenizer, template, context))
    rows = enumerate(zip(questions, prompts, answers, strict=True))
    found = [
        other
        for row, (question, prompt, answer) in rows
        if (other := writer.otherwise(row, question, prompt, answer)) is not None
    ]
    if not found:
        return
    refused = [other for other in found if other.is_refused]
    if refused:
        raise ValueError(_refusal(refused, len(answers), name))
    warnings.warn(_telling(found, len(answers), name), stacklevel=outside())


class _Writer:
    """A template that is given answers."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._behind: dict[Any, str] = {}  # by roles and thoughts: what it writes after an answer

    def otherwise(
        self, row: int, question: str | Sequence[Message], prompt: Prompt, answer: str
    ) -> _Otherwise | None:
        """How the template writes an answer; None where it writes it as it is."""
        messages, begun = conversation(question, prompt.context)
        dressed, _ = dress(self._template, messages, prompt.context)
        key = tuple(message["role"] for message in dressed), reasoned(dressed)
        parts = self._template.source.layout(key[0], reasoned=key[1]).parts

        def write(text: str) -> str:
            said: Message = {"role": "assistant", "content": text}
            if begun is not None:
                said = {**begun, "content": f"{begun['content']}{prompt.lead}{text}"}
            return self._template.source.render([*dressed, said], generation=False, parts=parts)

        given = prompt.lead + answer + prompt.close
        end = (prompt.text + given)[-_SHOWN:]
        try:
            whole = write(answer)
        except RefusedError as error:
            try:
                write(_WORD)
            except RefusedError:  # it renders no answer behind these messages, whatever it says
                return None
            return _Otherwise(row, answer, end, f"no such answer: {error.words}", True, False)
        if key not in self._behind:
            self._behind[key] = write(_WORD).rpartition(_WORD)[2]
        if whole.endswith(_tail(prompt) + prompt.lead + answer + self._behind[key]):
            return None

        before, _, behind = write(_WORD).rpartition(_WORD)
        if whole == before + answer + behind:
            return None
        written, trimmed = repr(whole[-_SHOWN:]), before + answer.strip() + behind
        return _Otherwise(row, answer, end, written, not whole.startswith(before), whole == trimmed)


def _tail(prompt: Prompt) -> str:
    """A prompt's text behind the last question's."""
    ends = (
        end for (_, end), role in zip(prompt.offsets[::-1], prompt.roles[::-1], strict=True)
        if role == "user"
    )  # fmt: skip
    return prompt.text[next(ends, 0) :]


def _refusal(found: Sequence[_Otherwise], count: int, name: str) -> str:
    """That prompts are none that their answers follow."""
    first = found[0]
    return (
        f"{name}[{first.row}]: before the answer {first.answer!r:.60} the chat template does not "
        f"write this prompt: prompt and answer end in {first.given!r}, and it would write "
        f"{first.written} ({len(found)} of {counted(count, 'answer')}). Leave the thought out of "
        "the answer; or, where all have the same, begin them with it, Context(prefill=...), and "
        "let answers go on behind it; or pass a template= that writes answers as they are."
    )


def _telling(found: Sequence[_Otherwise], count: int, name: str) -> str:
    """That answers are not as the template writes them."""
    first = found[0]
    is_trimmed = all(other.is_trimmed for other in found)
    fix = "leave out of the answers what it leaves out"
    if is_trimmed:
        fix = "strip the answers (answer.strip())"
    return (
        f"{name}: of {counted(count, 'answer')} {len(found)} would be written otherwise by the "
        f"chat template: [{first.row}], {first.answer!r:.60}, ends in {first.given!r} here, "
        f"and there in {first.written}. They are taken as they are; to have them as the template "
        f"writes them, {fix}; to keep them, pass template= that writes them so."
    )
