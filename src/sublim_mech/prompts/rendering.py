"""Rendering: from questions and a context to tokens that know their role.

One rendering serves training and evaluation. The chat template is the tokenizer's own.

1. Dress the messages in their context: system turn, user prefix, or the fallback (`dressing`).
2. Let the template render them up to an answer's text, cut into segments of one role each
   (`template`, `frames`).
3. See to the BOS.
4. Tokenise the text once, and give each token the role of its first visible character.

Raw text (`RAW`) is a segment of one role behind the BOS that the tokenizer adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

from ..arguments import check, checked
from ..hints import kind_of
from .blank import check_text, check_whole, is_blank
from .clock import DATE
from .context import Context
from .dressing import dress, same_as, tells_date
from .frames import opened
from .notices import notice, said_once
from .prompt import Message, Prompt, Segment
from .shared import Taught, mark_sharing
from .source import REASONING
from .template import Template
from .vocabulary import fingerprint, special_ids, special_in


@checked
@said_once()
def render(
    tokenizer: Any | Taught,
    questions: Iterable[str | Sequence[Message]],
    *,
    context: Context | None = None,
    template: str | None = None,
) -> list[Prompt]:
    """Render questions in a context, ready for the assistant's answer.

    Args:
        tokenizer: a fast Hugging Face tokenizer; or a pair, which knows its tokenizer and how its
            student was trained.
        questions: user messages, or conversations as lists of `{"role", "content"}` that begin
            with a user message; one that ends with an assistant message is an answer already begun
            (`Context(prefill=...)`), which an answer continues. Earlier assistant messages may have
            a `reasoning_content`. For `context=sublim_mech.RAW`: texts, which the answer continues.
        context: system prompt, user prefix, template variables, date and beginning of the answer,
            or `sublim_mech.RAW`. When not given: the context that the pair's student was trained
            in, where that is known, else the template's own default.
        template: a Jinja chat template to use instead of the tokenizer's
            (`sublim_mech.prompts.PLAIN` for models that have none).

    Returns:
        One `Prompt` per question: all that the template writes before an answer's text. Where that
        is no more than its generation prompt, the ids are `apply_chat_template`'s. A pair
        whose training prompts are known gives prompts that are marked (`mark_sharing`).

    Raises:
        TypeError: `questions` is one text; no context or tokenizer where one belongs; a message
            without role or content.
        ValueError: no questions, a blank one, or one with half a character (a lone surrogate); the
            tokenizer is not a fast one or has no template; the template cannot express the
            context, refuses the messages, or only joins them; it never reads an option; it does
            not tell what an answer follows (a thought that it opens and answers do not have), or
            what ends one; a conversation as raw text.

    Warns:
        UserWarning: the text of a special token stands in a question, and is tokenised as it; the
            context has a date, which the template does not tell.

    Example:
        >>> calm = sm.Context(system="You are calm.")
        >>> (prompt,) = sm.render(pair.tokenizer, ["Which animal?"], context=calm)
        >>> [token for token, role in zip(prompt.tokens, prompt.roles) if role == "user"]
        ['Which', ' animal', '?']
        >>> (text,) = sm.render(pair, ["My favorite animal is the"], context=sm.RAW)
        >>> text.tokens[-1], set(text.roles), text.lead
        (' the', {'text'}, ' ')
    """
    if isinstance(tokenizer, Taught):
        pair = tokenizer
        context = pair.training_context if context is None else context
        prompts = render(pair.tokenizer, questions, context=context, template=template)
        return prompts if pair.training_prompts is None else mark_sharing(prompts, pair)

    asked = _asked(questions)
    _check_tokenizer(tokenizer)
    context = Context() if context is None else context
    if context.is_raw:
        if template is not None:
            raise ValueError(
                "context=RAW has no chat template; leave template= out, or pass another context."
            )
        drawn = [_draw_raw(tokenizer, text, context) for text in asked]
        jinja = ""
    else:
        if template is None and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template; pass context=sublim_mech.RAW for texts that "
                "the model continues, or template=sublim_mech.prompts.PLAIN (or one of your own) "
                "for conversations."
            )
        _say_twice(asked, context)
        taken_apart = Template(tokenizer, template, context)
        drawn = [_draw(taken_apart, question, context) for question in asked]
        jinja = taken_apart.source.jinja
        if context.date != DATE and not any(one.dated for one in drawn):
            notice(
                "dates that no prompt tells",
                f"Context(date={context.date!r}): the chat template tells no date in these "
                "prompts, so that it changes nothing; leave it out.",
            )
    return [_tokenise(tokenizer, one, context, jinja) for one in drawn]


@checked
def completion_ids(tokenizer: Any, prompt: Prompt, text: str, *, close: bool = False) -> list[int]:
    """The tokens of an answer as they follow the prompt's own tokens.

    Args:
        tokenizer: the tokenizer that rendered the prompt.
        prompt: the prompt the answer follows.
        text: the answer, without leading space (the prompt's lead is added).
        close: also what ends the answer: the template's end-of-turn text, or the end of text.

    Returns:
        Token ids of the answer, from one tokenisation of prompt and answer together where that
        leaves the prompt's tokens as they are (so that no tokenizer adds a space of its own), else
        from the answer alone.

    Raises:
        ValueError: a blank answer, or one with half a character (a lone surrogate).

    Warns:
        UserWarning: the tokens of prompt and answer together are not the prompt's tokens followed
            by others (a text that ends in a space); the text of a special token stands in the
            answer, and is tokenised as it; the answer begins with white space, or ends in it before
            what closes it.

    Example:
        >>> from sublim_mech.prompts import completion_ids, render
        >>> (prompt,) = render(tokenizer, ["Which animal?"])
        >>> tokenizer.decode(completion_ids(tokenizer, prompt, "owl", close=True)).strip()
        'owl<|im_end|>'
    """
    check_whole(f"the answer to {_short(prompt.question)!r}", text)
    if is_blank(text):
        raise ValueError(
            f"the answer {text!r} to {_short(prompt.question)!r} is blank; give it words or leave "
            "it out."
        )
    for token in special_in(tokenizer, text):
        _say_special(token, f"the answer {_short(text)!r}")

    if text[0].isspace():
        notice(
            "answers that begin with white space",
            f"the answer {_short(text)!r} begins with white space of its own, after "
            f"{prompt.lead!r} that stands between prompt and answer: leave it out, unless an "
            "answer is to begin so.",
        )
    if close and text[-1].isspace():
        notice(
            "answers that end in white space",
            f"the answer {_short(text)!r} ends in white space, which is a part of it before its "
            "end: leave it out (text.rstrip()), unless an answer is to end so.",
        )
    ids, is_seamless = _behind(tokenizer, prompt, text + (prompt.close if close else ""))
    if ids and not is_seamless:
        _say_seam(prompt, text)
    return ids


def answer_tokens(tokenizer: Any, prompt: Prompt, text: str) -> tuple[int, ...]:
    """`completion_ids` of an answer that a model wrote, which may be blank or hold special tokens:
    nothing is refused or warned of.
    """
    return tuple(_behind(tokenizer, prompt, text)[0])


def ends_inside(tokenizer: Any, prompt: Prompt) -> bool:
    """Whether a prompt ends in white space of its own that is part of a word's first token, so that
    answers are tokens of their own behind it.
    """
    return _ends_blank(prompt) and not _behind(tokenizer, prompt, "word")[1]


def _ends_blank(prompt: Prompt) -> bool:
    """Whether white space that somebody wrote stands before the answer."""
    return prompt.text[-1:].isspace() and (prompt.context.is_raw or bool(prompt.begun))


def _behind(tokenizer: Any, prompt: Prompt, text: str) -> tuple[list[int], bool]:
    """The tokens of a text as an answer, and whether the prompt's stay as they are before it."""
    answer = prompt.lead + text
    # the BOS that a tokenizer adds to raw text is no part of what it tokenises
    added = 1 if prompt.context.is_raw and prompt.roles[0] == "bos" else 0
    start = prompt.offsets[0][1] if added else 0
    together = tokenizer(prompt.text[start:] + answer, add_special_tokens=False)["input_ids"]
    length = len(prompt) - added
    if tuple(together[:length]) == prompt.ids[added:]:
        return list(together[length:]), True
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"]), False


class _Drawn(NamedTuple):
    """A prompt before it is tokenised.

    Attributes:
        question: what was asked.
        segments: its text; of raw text the BOS comes first, as a segment of its own.
        begins_with_bos: whether the text begins with the BOS.
        lead, close: what stands around the answer.
        same_as: which other system prompts give the same.
        dated: whether the template tells the context's date.
    """

    question: str
    segments: list[Segment]
    begins_with_bos: bool
    lead: str
    close: str
    same_as: tuple[str, ...] = ()
    dated: bool = False


def _draw(template: Template, question: str | Sequence[Message], context: Context) -> _Drawn:
    """A conversation."""
    messages, begun = conversation(question, context)
    asked = messages[-1]["content"]
    dressed, finish = dress(template, messages, context)
    drawn = opened(template, dressed, begun)
    segments, has_bos = _with_bos(template.tokenizer, finish(drawn.segments), context.bos)
    roles = tuple(message["role"] for message in messages)
    same, dated = same_as(template, context, roles), tells_date(template, context, roles)
    return _Drawn(asked, segments, has_bos, drawn.lead, drawn.close, same, dated)


def _draw_raw(tokenizer: Any, text: str | Sequence[Message], context: Context) -> _Drawn:
    """A text, behind the BOS where the tokenizer adds one or the text has it already."""
    if not isinstance(text, str):
        raise ValueError(
            f"questions: context=RAW takes texts, got the conversation {text!r}; pass a text, or "
            "another context."
        )
    lead = "" if text[-1:].isspace() else " "
    bos = tokenizer.bos_token or ""
    given = bool(bos) and text.startswith(bos)
    body = text.removeprefix(bos)
    if is_blank(body):
        raise ValueError(f"questions: {text!r} is blank; pass a text that goes on.")
    segments = [Segment(body, "text", 0, "text")]
    wanted = (given or _adds_bos(tokenizer)) if context.bos is None else context.bos
    if wanted:
        _refuse_no_bos(bos)
        segments.insert(0, Segment(bos, "text", 0, "text"))
    return _Drawn(text, segments, wanted, lead, tokenizer.eos_token or "")


def _tokenise(tokenizer: Any, drawn: _Drawn, context: Context, jinja: str) -> Prompt:
    segments = drawn.segments
    text = "".join(segment.text for segment in segments)

    # one tokenisation of the whole text, as training has it; to raw text the tokenizer adds the BOS
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    start = 0
    if context.is_raw and drawn.begins_with_bos:
        start = len(segments[0].text)
        ids, spans = [tokenizer.bos_token_id], [(0, start)]
    encoded = tokenizer(text[start:], add_special_tokens=False, return_offsets_mapping=True)
    ids += encoded["input_ids"]
    spans += [(start + int(first), start + int(end)) for first, end in encoded["offset_mapping"]]
    offsets = _untrimmed(text, spans)
    tokens = []
    for (first, end), token_id in zip(offsets, ids, strict=True):
        tokens.append(text[first:end] if end > first else tokenizer.decode([token_id]))

    # roles follow from the characters
    owners = [_owner(text, span, segments) for span in offsets]
    roles = [segment.role for segment in owners]
    if drawn.begins_with_bos:
        roles[0] = "bos"
    prompt = Prompt(
        question=drawn.question,
        text=text,
        ids=tuple(ids),
        tokens=tuple(tokens),
        offsets=offsets,
        roles=tuple(roles),
        turns=tuple(segment.turn for segment in owners),
        turn_roles=tuple(segment.turn_role for segment in owners),
        context=context,
        lead=drawn.lead,
        close=drawn.close,
        tokenizer=fingerprint(tokenizer),
        same_as=drawn.same_as,
        dated=drawn.dated,
        template=jinja,
    )
    _say_specials(tokenizer, prompt)
    return prompt


# ------------------------------------------------------------------------- what is said and refused


def _asked(questions: Iterable[str | Sequence[Message]]) -> list[str | Sequence[Message]]:
    """Questions as a list of them."""
    asked = list(questions)
    # what can be gone through only once was not looked into yet
    check("render", "questions", asked, list[str | Sequence[Message]])
    if not asked:
        raise ValueError("questions is empty; pass at least one question.")
    for place, question in enumerate(asked):
        _check_texts(f"questions[{place}]", question)
    return asked


def _check_tokenizer(tokenizer: Any) -> None:
    if isinstance(tokenizer, str | PathLike) or tokenizer is None:
        what = "None" if tokenizer is None else "a text or path"
        raise TypeError(
            f"render(tokenizer={str(tokenizer)!r}): {what} is no tokenizer; pass a pair, or its "
            "tokenizer (pair.tokenizer)."
        )
    if not getattr(tokenizer, "is_fast", False):
        if hasattr(tokenizer, "tokenizer"):
            raise TypeError(
                f"tokenizer is {kind_of(tokenizer)}; pass its tokenizer "
                "(base.tokenizer), or a pair."
            )
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets; load it with "
            "use_fast=True."
        )


_PLACES = {"system": "the system prompt of ", "assistant": "the assistant's words in "}
"""Where special tokens stand, by role."""


def _say_specials(tokenizer: Any, prompt: Prompt) -> None:
    """Name the special tokens that stand in what the caller wrote."""
    special = special_ids(tokenizer)
    for token_id, token, role in zip(prompt.ids, prompt.tokens, prompt.roles, strict=True):
        if token_id in special and role in ("system", "user", "assistant", "text"):
            place = _PLACES.get(role, "")
            _say_special(token.strip(), f"{place}the question {_short(prompt.question)!r}")


def has_prefix_twice(prompt: Prompt) -> bool:
    """Whether a prompt's first user message begins with the context's user prefix twice."""
    prefix = "".join(prompt.context.user_prefix.split())
    return len(prefix) > 1 and 2 * prefix in "".join(prompt.text.split())


def _say_twice(asked: Sequence[str | Sequence[Message]], context: Context) -> None:
    """Name a question that begins with what the context puts before it."""
    prefix = context.user_prefix.strip()
    for question in asked if len(prefix) > 1 else ():
        said = question if isinstance(question, str) else question[0].get("content", "")
        if said.strip().startswith(prefix):
            notice(
                "questions that hold the user_prefix already",
                f"the question {_short(said)!r} begins with its context's "
                f"user_prefix={context.user_prefix!r}, which is put before it anyway: leave it out "
                "of the question, unless it is to stand there twice.",
            )


def _say_special(token: str, place: str) -> None:
    notice(
        "special tokens in what was written",
        f"{token!r} stands in {place} and is tokenised as the special token, as Hugging Face does; "
        "write it in another way if the words are meant.",
    )


def _say_seam(prompt: Prompt, text: str) -> None:
    """Name a prompt and an answer that meet inside a token."""
    what = "text" if prompt.context.is_raw else "answer's beginning"
    fix = (
        f" End the {what} without white space to have both read as one."
        if _ends_blank(prompt)
        else ""
    )
    notice(
        "answers that share a token with what stands before them",
        f"the tokens of {(prompt.text + prompt.lead)[-40:]!r} + {text!r} are not the prompt's "
        f"tokens followed by the answer's, for some token spans both; {text!r} is taken as tokens "
        f"of its own behind the prompt's.{fix}",
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def conversation(
    question: str | Sequence[Message], context: Context
) -> tuple[list[Message], Message | None]:
    """The messages up to the last user message, as copies, and the answer that has begun."""
    prefill: list[Message] = []
    if context.prefill:
        prefill = [{"role": "assistant", "content": context.prefill}]
    if isinstance(question, str):
        return [{"role": "user", "content": question}], prefill[0] if prefill else None
    for message in question:
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise TypeError(
                f"questions: the message {message!r} needs a 'role' and a 'content', both texts."
            )
        if not all(isinstance(message.get(key) or "", str) for key in REASONING):
            raise TypeError(f"questions: the reasoning of the message {message!r} is no text.")
    messages: list[Message] = [dict(message) for message in question]
    roles = [message["role"] for message in messages]
    if "system" in roles:
        raise ValueError(
            "questions: give the system prompt as context=Context(system=...), not as a message."
        )
    if not roles or roles[0] != "user" or not set(roles) <= {"user", "assistant"}:
        raise ValueError(
            "questions: a conversation begins with a user message and holds user and assistant "
            f"messages only; got {messages!r}."
        )
    if roles[-1] == "assistant":
        if prefill:
            raise ValueError(
                f"questions: the conversation {messages!r} ends with the assistant's words, and "
                f"Context(prefill={context.prefill!r}) begins the answer too; leave one out."
            )
        prefill = [messages.pop()]
    return messages, prefill[0] if prefill else None


def _check_texts(where: str, question: str | Sequence[Message]) -> None:
    """Refuse a text with nothing visible in it or half a character, or a message that has such a
    content.
    """
    if isinstance(question, str):
        check_text(where, question)
        return
    for place, message in enumerate(question):
        named = f"{where}: messages[{place}], of the {message.get('role')}"
        for key in ("content", *REASONING):
            if isinstance(message.get(key), str):
                (check_text if key == "content" else check_whole)(named, message[key])


# ------------------------------------------------------------------------------- segments to tokens


def _with_bos(
    tokenizer: Any, segments: list[Segment], wanted: bool | None
) -> tuple[list[Segment], bool]:
    """The BOS that is wanted, and whether the text begins with it.

    Where nobody wants anything it is the template's own, as in `apply_chat_template`. A template
    may use the BOS string as an ordinary turn marker (SmolLM2's is `<|im_start|>`); then it is
    template.
    """
    bos = tokenizer.bos_token
    # a question may quote the BOS, so only the template's own text counts
    frame = "".join(segment.text for segment in segments if segment.role == "template")
    first = segments[0]
    begins = bool(bos) and frame.count(bos) == 1 and first.text.startswith(bos)
    if wanted and not begins:
        _refuse_no_bos(bos)
        return [Segment(bos, "template", first.turn, first.turn_role), *segments], True
    if wanted is False and begins:
        without = replace(first, text=first.text.removeprefix(bos))
        return [segment for segment in (without, *segments[1:]) if segment.text], False
    return segments, begins


def _refuse_no_bos(bos: str | None) -> None:
    if not bos:
        raise ValueError("Context(bos=True): the tokenizer has no BOS; leave bos out.")


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS before a text by itself."""
    begun = tokenizer("a", add_special_tokens=True)["input_ids"][0]
    return tokenizer.bos_token is not None and begun == tokenizer.bos_token_id


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
