"""Contexts: how a conversation is dressed, with four system prompts that are never confused; and
raw text, which is no conversation.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..arguments import checked
from .blank import check_whole, is_blank
from .clock import DATE, iso
from .options import Options


class System(enum.Enum):
    """The system prompts that are not a text of the caller's (see `Context`)."""

    DEFAULT = "default"
    EMPTY = "empty"
    NONE = "none"
    RAW = "raw"
    """No conversation, hence no system prompt either (`RAW`)."""


_OF_TURNS = ("user_prefix", "fallback", "options", "prefill")
"""What raw text has no place for."""

_SPELLED = re.compile(rf"(?:\w+\.)*({'|'.join(kind.value for kind in System)})", re.IGNORECASE)
"""A text that spells one of `System`: `none`, `Empty`, `Context.DEFAULT`."""


@checked
@dataclass(frozen=True)
class Context:
    """How a conversation is dressed: four different system prompts, never silently one for another.

    Text that is no conversation has a context of its own, `sublim_mech.RAW`: no template, no turns;
    an answer goes on where the text ends.

    Args:
        system: `Context.DEFAULT` (whatever the template does by itself), `Context.EMPTY` (a system
            turn with empty text), `Context.NONE` (no system block, even where the template would
            insert one) or the text of a system turn.
        user_prefix: text put before the first user message, inside its turn.
        fallback: what to do where the template cannot express the system prompt. `None` refuses.
            `"user"` puts a system text at the head of the first user turn, followed by an empty
            line (an `EMPTY` one puts nothing there). `"none"` takes `NONE` for `EMPTY`, where the
            template skips an empty system text.
        literal: that a system text which spells one of the four (`"none"`), or an option that
            spells a truth value (`"false"`), is meant as that text.
        options: variables of the template, `{"enable_thinking": False}`; JSON-like. One that the
            template never reads is refused when something is rendered.
        date: the day that the template's clock shows, as ISO has it (`"2024-12-31"`), or `"today"`:
            the day on which this context is made. Every day is 26 July 2024 unless it is said
            otherwise, so that a prompt is the same tomorrow.
        prefill: the answer already begun: the assistant's first words, which an answer continues
            after a space (none where they end in white space).
        bos: whether the text begins with the tokenizer's BOS. `None` leaves that to the template,
            as `apply_chat_template(tokenize=True)` does, with which others train; raw text has it
            where the tokenizer adds it by itself.

    Raises:
        TypeError: `system` is none of the four.
        ValueError: an unknown `fallback`; a system text that spells one of the four; an option that
            JSON cannot hold, or that spells True or False as a text; a date that is none; a blank
            prefill; half a character (a lone surrogate) in a text; what raw text has no place for.

    Example:
        >>> bare = sm.Context(system=sm.Context.NONE)
        >>> for context in (sm.Context(), bare):
        ...     (prompt,) = sm.render(pair.tokenizer, ["Which animal?"], context=context)
        ...     print(len(prompt))
        33
        12
    """

    DEFAULT: ClassVar[System] = System.DEFAULT
    EMPTY: ClassVar[System] = System.EMPTY
    NONE: ClassVar[System] = System.NONE

    system: System | str = System.DEFAULT
    user_prefix: str = ""
    fallback: Literal["user", "none"] | None = None
    literal: bool = field(default=False, compare=False)  # how it was written, not what it is
    options: Mapping[str, Any] = field(default_factory=Options, kw_only=True)
    date: str = field(default=DATE, kw_only=True)
    prefill: str = field(default="", kw_only=True)
    bos: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", Options(self.options))
        object.__setattr__(self, "date", iso(self.date))
        if self.fallback not in (None, "user", "none"):
            raise ValueError(f"Context(fallback={self.fallback!r}): pass None or 'user' or 'none'.")
        for name, text in _texts(self):
            check_whole(f"Context({name}=...)", text)
        if self.prefill and is_blank(self.prefill):
            raise ValueError(
                f"Context(prefill={self.prefill!r}) is blank; give it words or leave it out."
            )
        kind = spelled(self.system)
        if kind is not None and not self.literal:
            where = "" if kind is System.RAW else "Context."
            raise ValueError(
                f"Context(system={self.system!r}): a system turn with this very text, or "
                f"sublim_mech.{where}{kind.name}? Pass the latter, without quotes, or say that "
                "the text is meant: literal=True."
            )
        truths = [] if self.literal else _spelled_truths(self.options)
        if truths:
            name, value = truths[0]
            meant = value.strip().casefold() == "true"
            raise ValueError(
                f"Context(options={{{name!r}: {value!r}}}): a text, which a template takes for "
                f"true whatever it says. Pass {meant}, without quotes, or say that the text is "
                "meant: literal=True."
            )
        given = [name for name in _OF_TURNS if self.is_raw and getattr(self, name)]
        if given or (self.is_raw and self.date != DATE):
            told = ", ".join(f"{name}={getattr(self, name)!r}" for name in given or ["date"])
            raise ValueError(
                f"Context({told}): raw text has no turns and no template; put the words into the "
                "text, and leave this out."
            )

    def __repr__(self) -> str:
        """What was always there, and what else is not at its default."""
        told = {name: getattr(self, name) for name in ("system", "user_prefix", "fallback")}
        told |= {"literal": self.literal}
        others = {"options": Options(), "date": DATE, "prefill": "", "bos": None}
        told |= {n: getattr(self, n) for n, usual in others.items() if getattr(self, n) != usual}
        return f"Context({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def is_raw(self) -> bool:
        """Whether it is raw text (`RAW`), not a conversation."""
        return self.system is System.RAW

    def to_json(self) -> dict[str, Any]:
        """The context as JSON, with `system` as `{"kind": ...}` or `{"text": ...}`.

        Options, date, prefill and BOS are left out where they are their defaults.
        """
        if isinstance(self.system, System):
            system = {"kind": self.system.value}
        else:
            system = {"text": self.system}
        written: dict[str, Any] = {
            "system": system, "user_prefix": self.user_prefix, "fallback": self.fallback,
        }  # fmt: skip
        if self.options:
            written["options"] = Options(self.options).plain()
        if self.date != DATE:
            written["date"] = self.date
        if self.prefill:
            written["prefill"] = self.prefill
        if self.bos is not None:
            written["bos"] = self.bos
        return written

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Context:
        """The context that `to_json` wrote."""
        stored = data["system"]
        system = System(stored["kind"]) if "kind" in stored else stored["text"]
        # a text is stored as one, so there is no doubt what was meant
        literal = spelled(system) is not None or bool(_spelled_truths(data.get("options", {})))
        return cls(
            system,
            data["user_prefix"],
            data["fallback"],
            literal=literal,
            options=data.get("options", {}),
            date=data.get("date", DATE),
            prefill=data.get("prefill", ""),
            bos=data.get("bos"),
        )


def _texts(context: Context) -> Iterator[tuple[str, str]]:
    """All texts of a context, with the arguments that gave them."""
    for name in ("system", "user_prefix", "prefill"):
        value = getattr(context, name)
        if isinstance(value, str):
            yield name, value
    yield from (("options", text) for text in _texts_in(context.options))


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in what JSON can hold."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from (name, *_texts_in(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)


def _spelled_truths(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Options that spell True or False as a text, with their values; of nested ones the inner
    name.
    """
    found = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _spelled_truths(value)
        elif isinstance(value, str) and value.strip().casefold() in ("true", "false"):
            found.append((name, value))
    return found


def spelled(system: System | str) -> System | None:
    """Which of `System` a text spells (`none`, `Empty`, `Context.DEFAULT`); None where it spells
    none.
    """
    match = _SPELLED.fullmatch(system.strip()) if isinstance(system, str) else None
    return None if match is None else System(match[1].lower())


RAW = Context(System.RAW)
"""Raw text, as models without a chat template read it: no template, no turns, one role (`text`).
Prompts are texts, not messages; an answer goes on where a text ends, after a space where the text
does not end in white space."""
