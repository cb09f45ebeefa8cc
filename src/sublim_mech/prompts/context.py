"""Contexts: how a conversation is dressed, with four system prompts that are never confused."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


class System(enum.Enum):
    """The three system prompts that are not a text of the caller's (see `Context`)."""

    DEFAULT = "default"
    EMPTY = "empty"
    NONE = "none"


@dataclass(frozen=True)
class Context:
    """How a conversation is dressed: four different system prompts, never silently one for another.

    Args:
        system: `Context.DEFAULT` (whatever the template does by itself), `Context.EMPTY` (a system
            turn with empty text), `Context.NONE` (no system block, even where the template would
            insert one) or the text of a system turn.
        user_prefix: text put before the first user message, inside its turn.
        fallback: what to do with a system text where the template has no system role. `None`
            refuses; `"user"` puts it at the head of the first user turn, followed by an empty line.

    Raises:
        TypeError: `system` is none of the four.
        ValueError: an unknown `fallback`.

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

    def __post_init__(self) -> None:
        if not isinstance(self.system, (System, str)):
            raise TypeError(
                f"Context(system={self.system!r}): pass DEFAULT, EMPTY, NONE or a text."
            )
        if self.fallback not in (None, "user"):
            raise ValueError(f"Context(fallback={self.fallback!r}): pass None or 'user'.")

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
        return cls(system, data["user_prefix"], data["fallback"])
