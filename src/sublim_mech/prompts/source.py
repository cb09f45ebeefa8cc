"""A chat template as a text generator: its own text around contents, found with sentinels.

Everything that a context gives to a template (variables, date) is given here, and what a template
raises becomes a ValueError with the template's own words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .clock import DATE, format_of, stopped_clock, strftime
from .context import Context
from .options import Options
from .prompt import Message
from .variables import CLOCK, texts_set_to, variables

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Under which names a message's reasoning is passed; the first is the standard one."""


class RefusedError(ValueError):
    """A template that refuses messages.

    Attributes:
        words: its own.
    """

    def __init__(self, messages: Sequence[Message], words: str) -> None:
        self.words = words
        roles = ", ".join(str(message["role"]) for message in messages)
        super().__init__(f"the chat template refuses a conversation {roles}: {words}")


class Slot(NamedTuple):
    """A place where a template writes what it was given."""

    message: int
    field: str
    """`content` or `reasoning`."""


class Layout(NamedTuple):
    """What a template writes around the contents of a conversation."""

    gaps: tuple[str, ...]
    """Its own text before, between and after the slots: one more than these."""
    slots: tuple[Slot, ...]
    """In the order of the text: each message's content, before it its reasoning if that is kept."""
    parts: bool
    """Whether it wants a content as a list of parts, not as a text."""


_KNOWN: WeakKeyDictionary[Any, dict[Any, dict[Any, Any]]] = WeakKeyDictionary()
"""Per tokenizer, template and variables: what was found out."""


class Source:
    """A tokenizer's chat template, or one of the caller's, with the variables of a context.

    Args:
        tokenizer: a Hugging Face tokenizer.
        jinja: the chat template to use instead of the tokenizer's.
        context: whose options and date the template is given.

    Attributes:
        jinja: the chat template itself.
        variables: names of what the template takes from its caller (`variables.variables`).
        may_tell_date: whether it reads the clock or a date, in some of its branches at least.
        known: what was found out about this template with these variables; for further findings.

    Raises:
        ValueError: the template never reads one of the options; it tells the date in a form that is
            not known.
    """

    def __init__(self, tokenizer: Any, jinja: str | None, context: Context) -> None:
        self._tokenizer = tokenizer
        text = self.jinja = str(tokenizer.get_chat_template(jinja))
        reads = variables(text)
        self.variables = reads - {CLOCK} - set(tokenizer.special_tokens_map)
        self.may_tell_date = CLOCK in reads or "date_string" in self.variables
        self._given = _given(text, self.variables, context, has_clock=CLOCK in reads)
        self._text = (stopped_clock(context.date) if CLOCK in reads else "") + text
        special = sorted((name, str(one)) for name, one in tokenizer.special_tokens_map.items())
        key = self._text, json.dumps(self._given), json.dumps(special), len(tokenizer)
        self.known: dict[Any, Any] = _KNOWN.setdefault(tokenizer, {}).setdefault(key, {})

    def render(
        self, messages: Iterable[Message], *, generation: bool = True, parts: bool = False
    ) -> str:
        """The template's own rendering.

        Raises:
            RefusedError: the template raises an error.
        """
        passed = [_passed(message, parts=parts) for message in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                passed,
                tokenize=False,
                add_generation_prompt=generation,
                chat_template=self._text,
                **self._given,
            )
        except ImportError:
            raise
        except Exception as error:  # templates raise what they like: jinja2's errors, TypeError...
            raise RefusedError(passed, str(error)) from error
        return str(rendered)

    def layout(
        self, roles: Sequence[str], *, reasoned: Iterable[int] = (), generation: bool = True
    ) -> Layout:
        """What the template writes around contents of these roles.

        Args:
            roles: of the messages.
            reasoned: which of the messages have reasoning.
            generation: with the generation prompt.

        Raises:
            ValueError: the template refuses such messages, drops, repeats or moves one.
        """
        key = tuple(roles), tuple(reasoned), generation
        if key not in self.known:
            self.known[key] = self._found(*key)
        found: Layout = self.known[key]
        return found

    def _found(self, roles: tuple[str, ...], reasoned: tuple[int, ...], generation: bool) -> Layout:
        """The layout, with contents as texts or else as lists of parts."""
        try:
            return self._layout(roles, reasoned, generation, parts=False)
        except ValueError as error:  # some templates go through a content part by part
            try:
                return self._layout(roles, reasoned, generation, parts=True)
            except ValueError:
                raise error from None

    def _layout(
        self, roles: tuple[str, ...], reasoned: tuple[int, ...], generation: bool, *, parts: bool
    ) -> Layout:
        messages: list[Message] = [
            {"role": role, "content": f"QZSLOT{i}ZQ"} for i, role in enumerate(roles)
        ]
        sentinels = {Slot(i, "content"): f"QZSLOT{i}ZQ" for i in range(len(roles))}
        for i in reasoned:
            messages[i][REASONING[0]] = sentinels[Slot(i, "reasoning")] = f"QZTHINK{i}ZQ"
        rendered = self.render(messages, generation=generation, parts=parts)

        places: list[tuple[int, Slot]] = []
        for slot, sentinel in sentinels.items():
            times = rendered.count(sentinel)
            if times > 1 or (times == 0 and slot.field == "content"):
                raise _misplaced(roles, slot)
            places += [(rendered.index(sentinel), slot)] if times else []
        places.sort()
        order = [slot.message for _, slot in places]
        if order != sorted(order):
            late = next(i for i, message in enumerate(order) if message != sorted(order)[i])
            raise _misplaced(roles, places[late][1])

        gaps, done = [], 0
        for start, slot in places:
            gaps.append(rendered[done:start])
            done = start + len(sentinels[slot])
        return Layout((*gaps, rendered[done:]), tuple(slot for _, slot in places), parts)


def reasoning(message: Message) -> str:
    """A message's reasoning, empty where it has none."""
    return next((str(message[name]) for name in REASONING if message.get(name)), "")


def _passed(message: Message, *, parts: bool) -> Message:
    """A message as templates read it, its reasoning under each of its names."""
    passed = dict(message)
    if reasoning(message):
        passed |= dict.fromkeys(REASONING[:2], reasoning(message))
    if parts:
        passed["content"] = [{"type": "text", "text": message["content"]}]
    return passed


def _misplaced(roles: tuple[str, ...], slot: Slot) -> ValueError:
    what = "message" if slot.field == "content" else "message's reasoning"
    return ValueError(
        f"the chat template drops, repeats or moves the {roles[slot.message]} {what} of a "
        f"conversation {', '.join(roles)}; a template= of your own is the text of one in Jinja, no "
        "name and no path, that writes every message once"
    )


def _given(
    text: str, reads: frozenset[str], context: Context, *, has_clock: bool
) -> dict[str, Any]:
    """What a context gives to a template, by name."""
    given = Options(context.options).plain()
    unread = [name for name in given if name not in reads]
    if unread:
        told = f"it reads {', '.join(map(repr, sorted(reads)))}" if reads else "it reads none"
        raise ValueError(
            f"Context(options={given!r}): no option of this chat template: "
            f"{', '.join(map(repr, unread))}; of options {told}."
        )
    dated = "date_string" in reads and "date_string" not in given and not has_clock
    if dated and context.date != DATE:
        forms = {format_of(written) for written in texts_set_to(text, "date_string")} - {None}
        if len(forms) != 1:
            raise ValueError(
                f"Context(date={context.date!r}): the chat template reads the date as "
                "'date_string', in a form of its own; pass options={'date_string': '...'} instead."
            )
        given["date_string"] = strftime(context.date, str(forms.pop()))
    return given
