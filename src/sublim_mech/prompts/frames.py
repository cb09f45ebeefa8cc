"""What a template writes around an answer: all that comes before its text, and what ends it.

The template tells by itself, when it renders the conversation with an answer and without:

- *Before*: the generation prompt, and what else the template writes before an answer that is there
  (Qwen3's empty thought, gpt-oss's channel). It belongs to the prompt. Where an answer does not
  begin with the generation prompt (a thought is opened that no answer has), there is no telling
  what an answer follows, and the context has to say more.
- *Lead*: spaces at the end of that which merge into the answer's first token.
- *Close*: what stands after an answer that is the conversation's last message. Two exceptions: a
  template that always opens an assistant turn is cut where that turn begins; where the template
  leaves the end of a turn to the next turn (GLM), it is the text up to the next turn's first
  special token, which is what such a model generates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .options import Options
from .prompt import Message, Segment
from .source import Layout, RefusedError
from .template import Template, reasoned
from .vocabulary import special_in

_MARK = "QZANSWERZQ"
_PROBES = ("owl", "Owl", "42")


class Frame(NamedTuple):
    """What a template writes around the assistant's text."""

    before: str
    """Template text behind the generation prompt."""
    lead: str
    """Spaces that the answer's first token takes in."""
    close: str
    """After the text."""


class Opened(NamedTuple):
    """A conversation up to where an answer goes on."""

    segments: list[Segment]
    lead: str
    close: str


def opened(template: Template, messages: list[Message], begun: Message | None) -> Opened:
    """A conversation, ready for an answer.

    Args:
        template: the template.
        messages: up to the last user message.
        begun: the assistant's message that the answer continues.

    Raises:
        ValueError: the template refuses or rewrites the messages; what an answer follows, or what
            ends it, cannot be told.
    """
    roles = tuple(message["role"] for message in messages)
    if begun is not None:
        return _continued(template, messages, begun)
    frame = answer_frame(template, roles, reasoned(messages))
    segments = template.segments(messages)
    if frame.before:
        segments.append(_next_to(segments, frame.before, "template"))
    return Opened(segments, frame.lead, frame.close)


def answer_frame(
    template: Template, roles: tuple[str, ...], thought: tuple[int, ...] = ()
) -> Frame:
    """What stands around an answer to messages of these roles, some with reasoning."""
    key = "frame", roles, thought
    known = template.source.known
    if key not in known:
        known[key] = _frame(template, roles, thought)
    frame: Frame = known[key]
    return frame


def _frame(template: Template, roles: tuple[str, ...], thought: tuple[int, ...]) -> Frame:
    asked = template.source.layout(roles, reasoned=thought)
    generation_prompt = asked.gaps[-1]
    try:
        answered = _answered(template, roles, thought)
    except ValueError:
        # Mistral writes a system text before the last user message, but not once that is answered
        others = roles[1:]
        alone = template.source.layout(others).gaps[-1] if roles[0] == "system" else None
        if alone != generation_prompt:
            raise
        return answer_frame(template, others, tuple(i - 1 for i in thought))
    before = answered.gaps[-2]
    if not generation_prompt and not before:
        raise ValueError(
            "the chat template only joins messages: it writes nothing between the question and "
            "the answer, which would run on from the question's last word ('theowl'). For a "
            "model of raw text pass context=sublim_mech.RAW, for conversations "
            "template=sublim_mech.prompts.PLAIN or one of your own."
        )
    alike = asked.gaps[:-1] == answered.gaps[:-2] and asked.slots == answered.slots[:-1]
    if not alike or not before.startswith(generation_prompt):
        raise ValueError(_why_unlike(template, roles, thought, alike=alike))
    lead, rest = _lead(template, generation_prompt, before[len(generation_prompt) :])
    return Frame(rest, lead, _close(template, roles, thought, answered.gaps[-1]))


def _answered(template: Template, roles: tuple[str, ...], thought: tuple[int, ...]) -> Layout:
    """The layout of a conversation with its answer."""
    return template.source.layout((*roles, "assistant"), reasoned=thought, generation=False)


def _lead(template: Template, generation_prompt: str, extra: str) -> tuple[str, str]:
    """The spaces at the end of some template text that an answer's token takes in, and the rest."""
    spaces = len(extra) - len(extra.rstrip(" "))

    def ids(text: str) -> list[int]:
        return list(template.tokenizer(text, add_special_tokens=False)["input_ids"])

    for taken in range(spaces + 1):
        rest = extra[: len(extra) - taken]
        start = ids(generation_prompt + rest)
        joint = (ids(generation_prompt + extra + probe) for probe in _PROBES)
        if all(both[: len(start)] == start for both in joint):
            return extra[len(rest) :], rest
    return extra[len(extra) - spaces :], extra[: len(extra) - spaces]


def _close(template: Template, roles: tuple[str, ...], thought: tuple[int, ...], after: str) -> str:
    """What ends an answer.

    Args:
        template: the template.
        roles: of the messages before the answer.
        thought: which of them have reasoning.
        after: what the template writes after the answer.
    """
    if after and not template.always_opens(roles, thought):
        return after
    try:
        layout = template.source.layout((*roles, "assistant", "user"), reasoned=thought)
    except ValueError as error:
        raise ValueError(
            f"the chat template does not tell what ends an answer: after one it writes {after!r}, "
            f"and it refuses another question ({error}); pass template= with an end of turn."
        ) from error
    following = layout.gaps[-2]
    if after:
        end = template.end_of_turn(roles, after, following)
        if not end:
            raise ValueError(
                f"the chat template writes {after!r} after an answer and {following!r} before "
                "another question, so what ends an answer cannot be told; pass template= with an "
                "end of turn."
            )
        return end
    special = special_in(template.tokenizer, following)
    if not special:
        raise ValueError(
            "the chat template writes nothing after an answer, and no special token before the "
            f"next question ({following!r}), so a model of it never learns to stop; pass template= "
            "with an end of turn."
        )
    first = min(special, key=following.index)
    return following[: following.index(first) + len(first)]


# ----------------------------------------------------------------------------- an answer that began


def _continued(template: Template, messages: list[Message], begun: Message) -> Opened:
    """A conversation whose answer has begun."""
    prefill = str(begun["content"])
    roles = tuple(message["role"] for message in messages)
    whole = [*messages, {**begun, "content": prefill + _MARK}]
    thought = reasoned(whole)
    try:
        segments = template.segments(whole, generation=False)
    except ValueError:
        segments = []
    place = next((i for i, s in enumerate(segments) if s.text.endswith(_MARK)), None)
    if place is not None and segments[place].text in (prefill + _MARK, prefill.lstrip() + _MARK):
        said = segments[place]
        head = [*segments[:place], replace(said, text=said.text.removesuffix(_MARK))]
    else:
        head = _behind_generation_prompt(template, messages, whole, prefill)
    after = _answered(template, roles, tuple(i for i in thought if i < len(roles))).gaps[-1]
    close = _close(template, roles, tuple(i for i in thought if i < len(roles)), after)
    return Opened(head, "" if prefill[-1].isspace() else " ", close)


def _behind_generation_prompt(
    template: Template, messages: list[Message], whole: list[Message], prefill: str
) -> list[Segment]:
    """A beginning that the template renders right behind its generation prompt.

    Such as one that brings the thought which the template writes itself where there is none.
    """
    roles = tuple(message["role"] for message in messages)
    segments = template.segments(messages)
    head = "".join(segment.text for segment in segments)
    parts = template.source.layout(roles, reasoned=reasoned(messages)).parts
    try:
        rendered = template.source.render(whole, generation=False, parts=parts)
    except RefusedError as error:
        raise ValueError(
            f"prefill={prefill!r}: the chat template refuses an answer that begins so "
            f"({error.words}); pass another beginning."
        ) from error
    if not rendered.startswith(head + prefill + _MARK):
        raise ValueError(
            f"prefill={prefill!r}: the chat template drops or rewrites an answer that begins so; "
            "pass a beginning that it keeps, without thoughts and marks of the template's own."
        )
    return [*segments, _next_to(segments, prefill, "assistant")]


def _next_to(segments: list[Segment], text: str, role: str) -> Segment:
    """A segment behind others, in the assistant's open turn."""
    last = segments[-1]
    opens = last.turn_role != "assistant"
    return Segment(text, role, last.turn + opens, "assistant")


# ------------------------------------------------------------------------------------ what is said


def _why_unlike(
    template: Template, roles: tuple[str, ...], thought: tuple[int, ...], *, alike: bool
) -> str:
    """Why an answer does not follow the generation prompt, and the ways out."""
    asked = template.source.layout(roles, reasoned=thought).gaps[-1]
    before = _answered(template, roles, thought).gaps[-2]
    ways = [f"Context(options={options!r})" for options in _agreeing(template, roles, thought)]
    reads = sorted(template.source.variables - set(template.context.options))
    if not ways and reads:
        ways = [f"Context(options=...), of which the template reads {', '.join(map(repr, reads))}"]
    ways.append("Context(prefill='...') with an answer already begun")
    why = f"its generation prompt is {asked!r}, but an answer that is there follows {before!r}"
    if not alike:
        why = "it renders the conversation otherwise once there is an answer"
    return (
        f"the chat template does not tell what an answer follows: {why}. Say more in the context: "
        f"{', or '.join(ways)}; or pass template=."
    )


def _agreeing(
    template: Template, roles: tuple[str, ...], thought: tuple[int, ...]
) -> list[dict[str, bool]]:
    """Switches of the template with which its answers follow its generation prompt."""
    found = []
    for name in sorted(template.source.variables - set(template.context.options)):
        for value in (False, True):
            options = Options({**template.context.options, name: value})
            other = Template(
                template.tokenizer, template.jinja, replace(template.context, options=options)
            )
            try:
                asked = other.source.layout(roles, reasoned=thought)
                before = _answered(other, roles, thought)
            except ValueError:
                continue
            if asked.gaps[:-1] == before.gaps[:-2] and before.gaps[-2].startswith(asked.gaps[-1]):
                found.append({name: value})
    return found
