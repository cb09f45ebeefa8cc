"""Prompts: a rendered conversation whose tokens know their role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from ..hints import counted
from .context import Context

ROLES = ("bos", "template", "system", "user", "assistant", "text", "answer")
"""What a token may be, in the order of all tables. `text` is raw text, which is no conversation."""

_SHOWN = ("user_prefix", "options", "date", "prefill", "bos")
"""What `repr` tells of a context beside its system prompt, where it is not as usual."""

Message = Annotated[dict[str, Any], "{'role': ..., 'content': ...}"]
"""One message of a conversation: `{"role": ..., "content": ...}`."""


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt: all that comes before an answer's text.

    Text, lead, answer and close are what the template renders for the conversation with that
    answer, where it writes the answer as it is: those that it trims or takes apart `hard_data`,
    `soft_data` and `label` tell or refuse (`written.check_answers`).

    Attributes:
        question: the last user message as given; of raw text, the text.
        text: the rendered text; `tokens[i]` is `text[offsets[i][0]:offsets[i][1]]`.
        ids, tokens, offsets: per token, its vocabulary id, its text and its character span.
        roles: per token, one of `ROLES` (never `answer`: those tokens follow the prompt).
        turns, turn_roles: per token, the index of its turn and the role of that turn; template
            tokens belong to the turn they open or close.
        context: the context it was rendered in.
        lead: the space that stands between the prompt and the answer's text and becomes part of the
            answer's first token, or `""`; after raw text, and after an answer that has begun, a
            space where the text does not end in white space.
        close: what ends the answer: what the template puts after it (the end-of-turn mark), or
            what its models generate where it puts nothing; after raw text the tokenizer's end of
            text.
        sharing, seen: filled by `mark_sharing`: per token `prefix` / `aligned` / `seen` / `novel`,
            and the training token ids.
        tokenizer: which tokenizer rendered it (`vocabulary.fingerprint`); empty where the ids are
            the caller's own, and the caller answers for them.
        same_as: which others of `DEFAULT`, `EMPTY` and `NONE` give the same ids in this template.
        dated: whether the template tells the context's date, so that another day is another prompt.
        template: the chat template that rendered it; empty of raw text, and where the ids are the
            caller's own.
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
    tokenizer: str = ""
    same_as: tuple[str, ...] = ()
    dated: bool = False
    template: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        same = f", the same as {' and '.join(self.same_as)}" if self.same_as else ""
        told = [f"system={self.context.system!r}"]
        stored = self.described()
        told += [
            f"{name}={stored[name]!r}" for name in _SHOWN if stored.get(name) not in ("", None)
        ]
        return f"Prompt({self.question!r}, {counted(len(self), 'token')}, {', '.join(told)}{same})"

    @property
    def begun(self) -> str:
        """The assistant's words that an answer continues, `""` where there are none."""
        last = next(
            (i for i, role in enumerate(self.roles[::-1]) if role != "assistant"), len(self)
        )
        return self.text[self.offsets[-last][0] :] if last else ""

    def said_by(self, role: str) -> str:
        """The text of all tokens of a role, in order.

        Of the characters that they span: one character may be of several tokens, and each of these
        shows it (`tokens`).
        """
        said, end = "", 0
        for (first, last), of_token in zip(self.offsets, self.roles, strict=True):
            if of_token == role:
                said += self.text[max(first, end) : last]
            end = max(end, last)
        return said

    def described(self) -> dict[str, Any]:
        """Its context as `Context.to_json` has it, but with the date where the template tells it,
        and only there; and with the beginning of the answer also where its conversation has it.
        """
        told = {key: value for key, value in self.context.to_json().items() if key != "date"}
        if not self.context.prefill and self.begun:
            told["prefill"] = self.begun
        return told | ({"date": self.context.date} if self.dated else {})


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text with one role, in one turn."""

    text: str
    role: str
    turn: int
    turn_role: str
