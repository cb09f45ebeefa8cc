"""Rendering: from questions and a context to tokens that know their role.

One rendering serves training and evaluation. The chat template is the tokenizer's own.

1. Dress the messages in their context: system turn, user prefix, or the fallback for a system text.
2. Let the template render them, cut into segments of one role each (`template`).
3. See to exactly one BOS.
4. Tokenise the text once, and give each token the role of its first visible character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .context import Context, System
from .prompt import Message, Prompt, Segment
from .template import Template


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
        questions: user messages, or conversations as lists of `{"role", "content"}` that begin and
            end with a user message.
        context: system prompt and user prefix; the template's own default when not given.
        template: a Jinja chat template to use instead of the tokenizer's
            (`sublim_mech.prompts.PLAIN` for models that have none).

    Returns:
        One `Prompt` per question, with exactly one BOS where the tokenizer or its template uses
        one.

    Raises:
        TypeError: `questions` is one string.
        ValueError: no questions; the tokenizer is not a fast one or has no template; the template
            cannot express the context.

    Example:
        >>> calm = sm.Context(system="You are calm.")
        >>> (prompt,) = sm.render(pair.tokenizer, ["Which animal?"], context=calm)
        >>> [token for token, role in zip(prompt.tokens, prompt.roles) if role == "user"]
        ['Which', ' animal', '?']
    """
    if isinstance(questions, str):
        raise TypeError("questions is one string; pass a list of questions.")
    if not questions:
        raise ValueError("questions is empty; pass at least one question.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets; load it with "
            "use_fast=True."
        )
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template; pass template=sublim_mech.prompts.PLAIN or one of "
            "your own."
        )
    context = context or Context()
    taken_apart = Template(tokenizer, template)  # one for all: it remembers what it was asked
    return [_render_one(tokenizer, taken_apart, question, context) for question in questions]


def completion_ids(tokenizer: Any, prompt: Prompt, text: str, *, close: bool = False) -> list[int]:
    """The tokens of an answer as they follow the prompt's own tokens.

    Args:
        tokenizer: the tokenizer that rendered the prompt.
        prompt: the prompt the answer follows.
        text: the answer, without leading space (the template's own is added).
        close: also the template's end-of-turn text.

    Returns:
        Token ids of the answer, from one tokenisation of prompt and answer together where that
        leaves the prompt's tokens as they are (so that no tokenizer adds a space of its own), else
        from the answer alone.

    Example:
        >>> from sublim_mech.prompts import completion_ids, render
        >>> (prompt,) = render(tokenizer, ["Which animal?"])
        >>> tokenizer.decode(completion_ids(tokenizer, prompt, "owl", close=True)).strip()
        'owl<|im_end|>'
    """
    answer = prompt.lead + text + (prompt.close if close else "")
    together = tokenizer(prompt.text + answer, add_special_tokens=False)["input_ids"]
    if tuple(together[: len(prompt)]) == prompt.ids:
        return list(together[len(prompt) :])
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


def _render_one(
    tokenizer: Any, template: Template, question: str | Sequence[Message], context: Context
) -> Prompt:
    messages = _conversation(question)
    asked = messages[-1]["content"]
    segments = _dress(template, messages, context)
    segments, begins_with_bos = _with_one_bos(tokenizer, segments)

    # one tokenisation of the whole text, as training has it
    text = "".join(segment.text for segment in segments)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = tuple(encoded["input_ids"])
    offsets = _untrimmed(text, encoded["offset_mapping"])
    tokens = []
    for (start, end), token_id in zip(offsets, ids, strict=True):
        tokens.append(text[start:end] if end > start else tokenizer.decode([token_id]))

    # roles follow from the characters
    owners = [_owner(text, span, segments) for span in offsets]
    roles = [segment.role for segment in owners]
    if begins_with_bos:
        roles[0] = "bos"
    answer_frame = template.answer_frame()
    return Prompt(
        question=asked,
        text=text,
        ids=ids,
        tokens=tuple(tokens),
        offsets=offsets,
        roles=tuple(roles),
        turns=tuple(segment.turn for segment in owners),
        turn_roles=tuple(segment.turn_role for segment in owners),
        context=context,
        lead=answer_frame.lead,
        close=answer_frame.close,
    )


def _conversation(question: str | Sequence[Message]) -> list[Message]:
    """The messages of a question, as copies; refused where they do not run from user to user."""
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    messages = [dict(message) for message in question]
    roles = [message["role"] for message in messages]
    if "system" in roles:
        raise ValueError(
            "questions: give the system prompt as context=Context(system=...), not as a message."
        )
    if not roles or {roles[0], roles[-1]} != {"user"} or not set(roles) <= {"user", "assistant"}:
        raise ValueError(
            "questions: a conversation begins and ends with a user message and holds user and "
            f"assistant messages only; got {messages!r}."
        )
    return messages


# ----------------------------------------------------------------------------- contexts to segments


def _dress(template: Template, messages: list[Message], context: Context) -> list[Segment]:
    """The rendered conversation as segments; changes the first of the messages."""
    messages[0]["content"] = context.user_prefix + messages[0]["content"]
    if context.system is System.DEFAULT:
        return template.segments(messages)
    if context.system is System.NONE:
        return template.segments_without_system(messages)

    empty = context.system is System.EMPTY
    system = "" if empty else str(context.system)
    if not empty and not system.strip():
        raise ValueError(
            f"Context(system={system!r}) is blank; say EMPTY (an empty system turn) or NONE (no "
            "system block)."
        )
    roles = tuple(message["role"] for message in messages)
    reason = template.why_no_system_turn(roles, empty=empty)
    if reason is None:
        return template.segments([{"role": "system", "content": system}, *messages])

    # the template has no system turn: the caller says what to do instead
    if context.fallback is None:
        raise ValueError(
            f"Context(system={context.system!r}): the chat template {reason}; use DEFAULT or NONE, "
            "or name the fallback: Context(..., fallback='user')."
        )
    if empty:
        return template.segments(messages)
    messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
    return _split_head(template.segments(messages), system)


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


# ------------------------------------------------------------------------------- segments to tokens


def _with_one_bos(tokenizer: Any, segments: list[Segment]) -> tuple[list[Segment], bool]:
    """Exactly one BOS, and whether the text begins with it.

    It is the template's own, else the one the tokenizer adds by itself. A template may use the BOS
    string as an ordinary turn marker (SmolLM2's is `<|im_start|>`); then it is template.
    """
    bos = tokenizer.bos_token
    if not bos:
        return segments, False
    # a question may quote the BOS, so only the template's own text counts
    frame = "".join(segment.text for segment in segments if segment.role == "template")
    if bos in frame:
        return segments, frame.count(bos) == 1 and segments[0].text.startswith(bos)
    if tokenizer("a", add_special_tokens=True)["input_ids"][0] != tokenizer.bos_token_id:
        return segments, False
    added = Segment(bos, "template", segments[0].turn, segments[0].turn_role)
    return [added, *segments], True


def _untrimmed(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Character spans in which the space before a word belongs to the word's token.

    Some tokenizers trim it off the span.
    """
    spans: list[tuple[int, int]] = []
    last_end = 0
    for start, end in offsets:
        trimmed = text[last_end:start].isspace()
        spans.append((last_end if trimmed else int(start), int(end)))
        last_end = int(end)
    return tuple(spans)


def _owner(text: str, span: tuple[int, int], segments: list[Segment]) -> Segment:
    """The segment of a token's first visible character, else of its first one.

    So a merged ` What` belongs to `What`.
    """
    start, end = span
    visible = next((i for i in range(start, end) if not text[i].isspace()), start)
    segment_end = 0
    for segment in segments:
        segment_end += len(segment.text)
        if visible < segment_end:
            return segment
    return segments[-1]
