"""Contexts on a template: the messages that it is given, and what is cut or named afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .blank import is_blank
from .clock import DATE
from .context import Context, System
from .prompt import Message, Segment
from .template import Template

_OTHER_DATE = "2001-02-03"

Finish = Callable[[list[Segment]], list[Segment]]
"""What is done to the segments of a dressed conversation."""


def dress(
    template: Template, messages: list[Message], context: Context
) -> tuple[list[Message], Finish]:
    """A conversation as the template is given it in a context, and what is done to its segments.

    Raises:
        ValueError: the template cannot express the context.
    """
    first = {**messages[0], "content": context.user_prefix + messages[0]["content"]}
    messages = [first, *messages[1:]]
    if context.system is System.DEFAULT:
        return messages, list
    if context.system is System.NONE:
        return messages, template.without_system

    empty = context.system is System.EMPTY
    system = "" if empty else str(context.system)
    if not empty and is_blank(system):
        raise ValueError(
            f"Context(system={system!r}) is blank; say EMPTY (an empty system turn) or NONE (no "
            "system block)."
        )
    roles = tuple(message["role"] for message in messages)
    reason = template.why_no_system_turn(roles, empty=empty)
    skipped = template.why_no_empty_system(roles) if empty and reason is None else None
    if reason is None and skipped is None:
        return [{"role": "system", "content": system}, *messages], list

    # the template has no such system turn: the caller says what to do instead
    fallbacks = ["none"] if skipped else ["user", "none"]
    if not empty:
        fallbacks = ["user"]
    if context.fallback not in fallbacks:
        names = " or ".join(map(repr, fallbacks))
        raise ValueError(
            f"Context(system={context.system!r}): the chat template {reason or skipped}; use "
            f"DEFAULT or NONE, or name the fallback: Context(..., fallback={names})."
        )
    if empty:
        return (
            messages,
            template.without_system,
        )  # nothing at the head of the user turn, and no block
    moved = {**first, "content": f"{system}\n\n{first['content']}"}
    return [moved, *messages[1:]], lambda segments: _split_head(segments, system)


def same_as(template: Template, context: Context, roles: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the other system prompts (`DEFAULT`, `EMPTY`, `NONE`) give the same prompt."""
    key = "same", context.system, context.fallback, roles
    known = template.source.known
    if key not in known:
        own = _dressed_text(template, context, roles)
        others = {System.DEFAULT, System.EMPTY, System.NONE} - {context.system}
        known[key] = tuple(
            kind.name
            for kind in System  # in this order
            if kind in others
            and _dressed_text(template, replace(context, system=kind, fallback=None), roles) == own
        )
    same: tuple[str, ...] = known[key]
    return same


def tells_date(template: Template, context: Context, roles: tuple[str, ...]) -> bool:
    """Whether the prompt would be another one on another day."""
    if not template.source.may_tell_date:
        return False
    key = "dated", context.system, context.fallback, roles
    known = template.source.known
    if key not in known:
        later = replace(context, date=_OTHER_DATE if context.date == DATE else DATE)
        try:
            other = Template(template.tokenizer, template.jinja, later)
        except ValueError:  # it reads a date in a form of its own, which no context can give
            known[key] = False
        else:
            own = _dressed_text(template, context, roles)
            known[key] = own != _dressed_text(other, later, roles)
    return bool(known[key])


def _dressed_text(template: Template, context: Context, roles: tuple[str, ...]) -> str | None:
    """What messages of these roles become in a context; None where the template cannot say it."""
    key = "dressed", context.system, context.fallback, roles
    known = template.source.known
    if key not in known:
        messages = [{"role": role, "content": f"Message {i}."} for i, role in enumerate(roles)]
        try:
            dressed, finish = dress(template, messages, replace(context, user_prefix=""))
            segments = finish(template.segments(dressed))
        except ValueError:
            known[key] = None
        else:
            known[key] = "".join(segment.text for segment in segments)
    text = known[key]
    return text if text is None else str(text)


def _split_head(segments: list[Segment], system: str) -> list[Segment]:
    """Give the system text that was moved into the first user turn its role back."""
    place = next(i for i, segment in enumerate(segments) if segment.role == "user")
    whole = segments[place]
    # some templates trim
    end = len(system if whole.text.startswith(system) else system.lstrip())
    parts = [
        (whole.text[:end], "system"),
        (whole.text[end : end + 2], "template"),
        (whole.text[end + 2 :], "user"),
    ]
    split = [Segment(text, role, whole.turn, whole.turn_role) for text, role in parts if text]
    return [*segments[:place], *split, *segments[place + 1 :]]
