"""Rendering: from questions and a context to tokens that know their role.

One rendering serves training and evaluation. The chat template is the tokenizer's own; which characters of the rendered
text are template and which are content is found by rendering it once with sentinels in place of the contents, so no list
of marker strings is needed.

1. Render the template with a sentinel per message and cut the text at the sentinels: what is left is the *frame*.
2. Find the system block the template inserts by itself by comparing frames with and without a system message.
3. Put the contents back, check the result against the template's own rendering of the real messages, tokenise once, and
   give each token the role of its first visible character.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

ROLES = ("bos", "template", "system", "user", "assistant", "answer")

PLAIN = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ 'Instructions: ' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'Question: ' + m['content'] + '\n' }}"
    "{% else %}{{ 'Answer: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
"""A chat template for models that have none (GPT-2): `Instructions:` / `Question:` / `Answer:` lines after one BOS."""

Message = dict[str, str]


class System(enum.Enum):
    """The three system prompts that are not a text of the caller's (see `Context`)."""

    DEFAULT = "default"
    EMPTY = "empty"
    NONE = "none"


DEFAULT, EMPTY, NONE = System.DEFAULT, System.EMPTY, System.NONE


@dataclass(frozen=True)
class Context:
    """How a conversation is dressed: four different system prompts, never silently one for another.

    Args:
        system: `DEFAULT` (whatever the template does by itself), `EMPTY` (a system turn with empty text), `NONE` (no system
            block, even where the template would insert one) or the text of a system turn.
        user_prefix: text put before the first user message, inside its turn.
        fallback: what to do with a system text where the template has no system role. `None` refuses; `"user"` puts it at the
            head of the first user turn, followed by an empty line.

    Example:
        >>> bare = sm.Context(system=sm.NONE)
        >>> [len(sm.render(pair.tokenizer, ["Which animal?"], context=c)[0]) for c in (sm.Context(), bare)]
        [33, 12]
    """

    system: System | str = System.DEFAULT
    user_prefix: str = ""
    fallback: Literal["user"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.system, (System, str)):
            raise TypeError(f"Context(system={self.system!r}): pass DEFAULT, EMPTY, NONE or a text.")
        if self.fallback not in (None, "user"):
            raise ValueError(f"Context(fallback={self.fallback!r}): pass None or 'user'.")

    def to_json(self) -> dict[str, Any]:
        """The context as JSON, with `system` as `{"kind": ...}` or `{"text": ...}`."""
        system = {"kind": self.system.value} if isinstance(self.system, System) else {"text": self.system}
        return {"system": system, "user_prefix": self.user_prefix, "fallback": self.fallback}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Context:
        """The context that `to_json` wrote."""
        system = data["system"]
        return cls(System(system["kind"]) if "kind" in system else system["text"], data["user_prefix"], data["fallback"])


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt, up to and including the generation prompt.

    Attributes:
        question: the last user message as given.
        text: the rendered text; `tokens[i]` is `text[offsets[i][0]:offsets[i][1]]`.
        ids, tokens, offsets: per token, its vocabulary id, its text and its character span.
        roles: per token, one of `ROLES` (never `answer`: those tokens follow the prompt).
        turns, turn_roles: per token, the index of its turn and the role of that turn; template tokens belong to the turn they
            open or close.
        context: the context it was rendered in.
        lead: what the template puts between the generation prompt and the assistant's text (`""`, or a space).
        close: what the template puts after the assistant's text (the end-of-turn mark).
        sharing, seen: filled by `sharing`: per token `prefix` / `aligned` / `seen` / `novel`, and the training token ids.
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


def render(
    tokenizer: Any,
    questions: Sequence[str | Sequence[Message]],
    *,
    context: Context | None = None,
    template: str | None = None,
) -> list[Prompt]:
    """Render questions in a context, ready for the assistant's answer.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        questions: user messages, or conversations as lists of `{"role", "content"}` that begin and end with a user message.
        context: system prompt and user prefix; the template's own default when not given.
        template: a Jinja chat template to use instead of the tokenizer's (`sublim_mech.PLAIN` for models that have none).

    Returns:
        One `Prompt` per question, with exactly one BOS where the tokenizer or its template uses one.

    Raises:
        ValueError: no questions; the tokenizer is not a fast one or has no template; the template cannot express the context.

    Example:
        >>> (prompt,) = sm.render(pair.tokenizer, ["Which animal?"], context=sm.Context(system="You are calm."))
        >>> [token for token, role in zip(prompt.tokens, prompt.roles) if role == "user"]
        ['Which', ' animal', '?']
    """
    if isinstance(questions, str):
        raise TypeError("questions is one string; pass a list of questions.")
    if not questions:
        raise ValueError("questions is empty; pass at least one question.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"tokenizer {type(tokenizer).__name__} gives no character offsets; load it with use_fast=True.")
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; pass template=sublim_mech.PLAIN or one of your own.")
    context = context or Context()
    frames = _Template(tokenizer, template)
    return [_render_one(tokenizer, frames, question, context) for question in questions]


def _render_one(tokenizer: Any, frames: _Template, question: str | Sequence[Message], context: Context) -> Prompt:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else [dict(m) for m in question]
    roles = [m["role"] for m in messages]
    if "system" in roles:
        raise ValueError("questions: give the system prompt as context=Context(system=...), not as a message.")
    if not roles or {roles[0], roles[-1]} != {"user"} or not set(roles) <= {"user", "assistant"}:
        raise ValueError(
            "questions: a conversation begins and ends with a user message and holds user and assistant messages only; "
            f"got {messages!r}."
        )
    asked = messages[-1]["content"]
    segments = _dress(frames, messages, context)
    segments, bos = _one_bos(tokenizer, segments)
    text = "".join(s.text for s in segments)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tuple(encoded["input_ids"]), _untrimmed(text, encoded["offset_mapping"])
    owners = [_owner(text, span, segments) for span in offsets]
    token_roles = ["bos" if bos and i == 0 else s.role for i, s in enumerate(owners)]
    lead, close = frames.answer_frame()
    return Prompt(
        question=asked,
        text=text,
        ids=ids,
        tokens=tuple(text[a:b] if b > a else tokenizer.decode([i]) for (a, b), i in zip(offsets, ids, strict=True)),
        offsets=offsets,
        roles=tuple(token_roles),
        turns=tuple(s.turn for s in owners),
        turn_roles=tuple(s.turn_role for s in owners),
        context=context,
        lead=lead,
        close=close,
    )


def _untrimmed(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Character spans in which the space before a word belongs to the word's token (some tokenizers trim it off the span)."""
    spans: list[tuple[int, int]] = []
    end = 0
    for a, b in offsets:
        spans.append((end if text[end:a].isspace() else int(a), int(b)))
        end = int(b)
    return tuple(spans)


def _owner(text: str, span: tuple[int, int], segments: list[Segment]) -> Segment:
    """The segment of a token's first visible character (a merged ` What` belongs to `What`), else of its first one."""
    start, end = span
    at = next((i for i in range(start, end) if not text[i].isspace()), start)
    passed = 0
    for segment in segments:
        passed += len(segment.text)
        if at < passed:
            return segment
    return segments[-1]


def _one_bos(tokenizer: Any, segments: list[Segment]) -> tuple[list[Segment], bool]:
    """Exactly one BOS: the template's own, else the one the tokenizer adds by itself.

    A template may use the BOS string as an ordinary turn marker (SmolLM2's is `<|im_start|>`); then it is template.
    """
    bos = tokenizer.bos_token
    if not bos:
        return segments, False
    frame = "".join(s.text for s in segments if s.role == "template")  # a question may quote the BOS
    if bos in frame:
        return segments, frame.count(bos) == 1 and segments[0].text.startswith(bos)
    if tokenizer("a", add_special_tokens=True)["input_ids"][0] != tokenizer.bos_token_id:
        return segments, False
    return [Segment(bos, "template", segments[0].turn, segments[0].turn_role), *segments], True


# ------------------------------------------------------------------------------------------------ contexts to segments


def _dress(frames: _Template, messages: list[Message], context: Context) -> list[Segment]:
    """The rendered conversation as segments."""
    messages[0]["content"] = context.user_prefix + messages[0]["content"]
    if context.system is System.DEFAULT:
        return frames.segments(messages)
    if context.system is System.NONE:
        return frames.without_system(messages)
    system = "" if context.system is System.EMPTY else str(context.system)
    if context.system is not System.EMPTY and not system.strip():
        raise ValueError(f"Context(system={system!r}) is blank; say EMPTY (an empty system turn) or NONE (no system block).")
    reason = frames.no_system_role(tuple(m["role"] for m in messages), empty=context.system is System.EMPTY)
    if reason is None:
        return frames.segments([{"role": "system", "content": system}, *messages])
    if context.fallback is None:
        raise ValueError(
            f"Context(system={context.system!r}): the chat template {reason}; "
            "use DEFAULT or NONE, or name the fallback: Context(..., fallback='user')."
        )
    if not system:
        return frames.segments(messages)
    messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
    return _split_head(frames.segments(messages), system)


def _split_head(segments: list[Segment], system: str) -> list[Segment]:
    """Give the system text that was moved into the first user turn its role back."""
    at = next(i for i, s in enumerate(segments) if s.role == "user")
    first = segments[at]
    n = len(system if first.text.startswith(system) else system.lstrip())  # some templates trim
    parts = (first.text[:n], "system"), (first.text[n : n + 2], "template"), (first.text[n + 2 :], "user")
    split = [Segment(text, role, first.turn, first.turn_role) for text, role in parts if text]
    return [*segments[:at], *split, *segments[at + 1 :]]


class _Template:
    """A chat template taken apart into the text around the contents."""

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._cache: dict[tuple[tuple[str, ...], bool], list[str]] = {}

    def apply(self, messages: Sequence[Message], generation: bool) -> str:
        extra = {"chat_template": self._template} if self._template is not None else {}
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation, **extra)
        return str(text)

    def gaps(self, roles: tuple[str, ...], generation: bool = True) -> list[str]:
        """The template's own text before, between and after contents of these roles: `len(roles) + 1` strings.

        Raises whatever the template raises, and ValueError where a content appears other than once or out of order.
        """
        key = (roles, generation)
        if key not in self._cache:
            slots = [f"QZSLOT{i}ZQ" for i in range(len(roles))]
            text = self.apply([{"role": r, "content": s} for r, s in zip(roles, slots, strict=True)], generation)
            gaps: list[str] = []
            for slot in slots:
                if text.count(slot) != 1:
                    shown = f"the {roles[len(gaps)]} message of a conversation {', '.join(roles)}"
                    raise ValueError(f"the chat template drops, repeats or moves {shown}")
                gap, text = text.split(slot)
                gaps.append(gap)
            self._cache[key] = [*gaps, text]
        return self._cache[key]

    def segments(self, messages: list[Message]) -> list[Segment]:
        """The conversation, as the template renders it, cut into segments."""
        roles = tuple(m["role"] for m in messages)
        gaps = self.gaps(roles)
        contents = self._contents(messages, gaps)
        first = self._first_gap(roles, gaps[0])
        base = first[-1].turn
        out = list(first)
        for i, (role, content) in enumerate(zip(roles, contents, strict=True)):
            turn = base + i
            out.append(Segment(content, role, turn, role))
            close = self._close(roles, i, gaps[i + 1])
            out.append(Segment(gaps[i + 1][:close], "template", turn, role))
            following = roles[i + 1] if i + 1 < len(roles) else "assistant"
            out.append(Segment(gaps[i + 1][close:], "template", turn + 1, following))
        return [s for s in out if s.text]

    def without_system(self, messages: list[Message]) -> list[Segment]:
        """The conversation with the template's own system block cut out; checked against how a later user turn opens."""
        segments = self.segments(messages)
        kept = [s for s in segments if s.turn_role != "system"]
        opening = kept[0].text if kept[0].role == "template" else ""
        bos = self._tokenizer.bos_token or ""
        later = self.gaps(("user", "assistant", "user"))[2]
        if not later.endswith(opening.removeprefix(bos)) and not later.endswith(opening):
            raise ValueError(
                f"Context(system=NONE): the chat template writes {opening!r} before the first user message and {later!r} "
                "before a later one, so its default cannot be dropped; use DEFAULT, or pass template= with the default removed."
            )
        dropped = len(segments) - len(kept)
        shift = kept[0].turn
        kept = [Segment(s.text, s.role, s.turn - shift, s.turn_role) for s in kept]
        text = "".join(s.text for s in segments)
        if dropped and bos and text.startswith(bos) and not opening.startswith(bos):
            kept.insert(0, Segment(bos, "template", 0, kept[0].turn_role))
        return kept

    def no_system_role(self, roles: tuple[str, ...] = ("user",), *, empty: bool) -> str | None:
        """Why the template cannot express a system turn (an empty one) before these messages, or None where it can."""
        try:
            gaps = self.gaps(("system", *roles))
        except Exception as error:  # templates raise what they like: jinja2 errors, ValueError, TypeError
            return f"refuses a system message ({error})"
        if empty and gaps[0] == self.gaps(roles)[0]:
            return "has no system turn (it writes the system text into the user turn)"
        return None

    def answer_frame(self) -> tuple[str, str]:
        """(what stands between generation prompt and answer, what closes the answer)."""
        prompt = self.gaps(("user",))[1]
        before, after = self.gaps(("user", "assistant"), generation=False)[1:]
        if before.startswith(prompt):
            return before[len(prompt) :], after
        return ("" if prompt[-1:].isspace() else " "), after

    def _contents(self, messages: list[Message], gaps: list[str]) -> list[str]:
        """The contents as the template writes them (some trim), such that gaps and contents make its rendering."""
        whole = self.apply(messages, True)
        contents: list[str] = []
        done = gaps[0]
        for message, gap in zip(messages, gaps[1:], strict=True):
            content = message["content"]
            contents.append(content if whole.startswith(done + content + gap) else content.strip())
            done += contents[-1] + gap
        if done != whole:
            raise ValueError(f"the chat template rewrites these messages, so token roles cannot be told: {messages!r}")
        return contents

    def _first_gap(self, roles: tuple[str, ...], gap: str) -> list[Segment]:
        """The text before the first content; holds the system block where the template inserts one by itself."""
        plain = [Segment(gap, "template", 0, roles[0])]
        if roles[0] == "system" or self.no_system_role(empty=True) is not None:
            return plain
        before, between, _ = self.gaps(("system", "user"))
        inserted = gap.startswith(before) and gap.endswith(between) and len(gap) >= len(before) + len(between)
        if not inserted:
            return plain
        default = gap[len(before) : len(gap) - len(between)]
        close = self._close(("system", "user"), 0, between)
        return [
            Segment(before, "template", 0, "system"),
            Segment(default, "system", 0, "system"),
            Segment(between[:close], "template", 0, "system"),
            Segment(between[close:], "template", 1, roles[0]),
        ]

    def _close(self, roles: tuple[str, ...], i: int, gap: str) -> int:
        """How much of the gap after content i closes its turn: what the template writes when the conversation ends there."""
        try:
            tail = self.gaps(roles[: i + 1], generation=False)[-1]
        except Exception:  # a template may refuse a conversation that ends here; then the gap opens the next turn
            return 0
        return len(tail) if gap.startswith(tail) else 0


def completion_ids(tokenizer: Any, prompt: Prompt, text: str, *, close: bool = False) -> list[int]:
    """The tokens of an answer as they follow the prompt's own tokens.

    Args:
        tokenizer: the tokenizer that rendered the prompt.
        prompt: the prompt the answer follows.
        text: the answer, without leading space (the template's own is added).
        close: also the template's end-of-turn text.

    Returns:
        Token ids of the answer, from one tokenisation of prompt and answer together where that leaves the prompt's tokens as
        they are (so that no tokenizer adds a space of its own), else from the answer alone.
    """
    answer = prompt.lead + text + (prompt.close if close else "")
    n = len(prompt.ids)
    both = tokenizer(prompt.text + answer, add_special_tokens=False)["input_ids"]
    if tuple(both[:n]) == prompt.ids:
        return list(both[n:])
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"])
