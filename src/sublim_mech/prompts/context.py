"""Contexts: how a conversation is dressed, with four system prompts that are never confused; and
raw text, which is no conversation.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..arguments import checked


class System(enum.Enum):
    """The system prompts that are not a text of the caller's (see `Context`)."""

    DEFAULT = "default"
    EMPTY = "empty"
    NONE = "none"
    RAW = "raw"
    """No conversation, hence no system prompt either (`RAW`)."""


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
        fallback: what to do with a system text where the template has no system role. `None`
            refuses; `"user"` puts it at the head of the first user turn, followed by an empty line.
        literal: that a system text which spells one of the four (`"none"`) is meant as that text.

    Raises:
        TypeError: `system` is none of the four.
        ValueError: an unknown `fallback`; a system text that spells one of the four.

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
    fallback: Literal["user"] | None = None
    literal: bool = field(default=False, compare=False)  # how it was written, not what it is

    def __post_init__(self) -> None:
        if self.fallback not in (None, "user"):
            raise ValueError(f"Context(fallback={self.fallback!r}): pass None or 'user'.")
        spelled = _spelled(self.system)
        if spelled is not None and not self.literal:
            where = "" if spelled is System.RAW else "Context."
            raise ValueError(
                f"Context(system={self.system!r}): a system turn with this very text, or "
                f"sublim_mech.{where}{spelled.name}? Pass the latter, without quotes, or say that "
                "the text is meant: literal=True."
            )
        if self.is_raw and (self.user_prefix or self.fallback):
            raise ValueError(
                f"Context(user_prefix={self.user_prefix!r}, fallback={self.fallback!r}): raw text "
                "has no turns; put the words into the text, and leave these out."
            )

    @property
    def is_raw(self) -> bool:
        """Whether it is raw text (`RAW`), not a conversation."""
        return self.system is System.RAW

    def to_json(self) -> dict[str, Any]:
        """The context as JSON, with `system` as `{"kind": ...}` or `{"text": ...}`."""
        if isinstance(self.system, System):
            system = {"kind": self.system.value}
        else:
            system = {"text": self.system}
        return {"system": system, "user_prefix": self.user_prefix, "fallback": self.fallback}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Context:
        """The context that `to_json` wrote."""
        stored = data["system"]
        system = System(stored["kind"]) if "kind" in stored else stored["text"]
        # a text is stored as one, so there is no doubt what was meant
        literal = _spelled(system) is not None
        return cls(system, data["user_prefix"], data["fallback"], literal=literal)


def _spelled(system: System | str) -> System | None:
    """Which of `System` a text spells."""
    match = _SPELLED.fullmatch(system.strip()) if isinstance(system, str) else None
    return None if match is None else System(match[1].lower())


RAW = Context(System.RAW)
"""Raw text, as models without a chat template read it: no template, no turns, one role (`text`).
Prompts are texts, not messages; an answer goes on where a text ends, after a space where the text
does not end in white space."""
