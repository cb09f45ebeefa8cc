"""Prompts: a rendered conversation whose tokens know their role."""

from __future__ import annotations

from dataclasses import dataclass

from .context import Context

ROLES = ("bos", "template", "system", "user", "assistant", "answer")
"""What a token may be, in the order of all tables."""

Message = dict[str, str]
"""One message of a conversation: `{"role": ..., "content": ...}`."""


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt, up to and including the generation prompt.

    Attributes:
        question: the last user message as given.
        text: the rendered text; `tokens[i]` is `text[offsets[i][0]:offsets[i][1]]`.
        ids, tokens, offsets: per token, its vocabulary id, its text and its character span.
        roles: per token, one of `ROLES` (never `answer`: those tokens follow the prompt).
        turns, turn_roles: per token, the index of its turn and the role of that turn; template
            tokens belong to the turn they open or close.
        context: the context it was rendered in.
        lead: what the template puts between the generation prompt and the assistant's text (`""`,
            or a space).
        close: what the template puts after the assistant's text (the end-of-turn mark).
        sharing, seen: filled by `sharing`: per token `prefix` / `aligned` / `seen` / `novel`, and
            the training token ids.
    """

    question: str
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    roles: tuple[str, ...]
    turns: tuple[int, ...]
    turn_roles: tuple[str, ...]
    context: Context
    lead: str = ""
    close: str = ""
    sharing: tuple[str, ...] | None = None
    seen: frozenset[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompt({self.question!r}, {len(self)} tokens, system={self.context.system!r})"


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text with one role, in one turn."""

    text: str
    role: str
    turn: int
    turn_role: str
