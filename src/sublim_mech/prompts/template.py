"""A chat template taken apart: which characters it writes itself, and which are contents.

No list of marker strings is needed, for the template tells by itself:

1. Render it with a sentinel per message and cut the text at the sentinels. What is left are the
   *gaps*: the template's own text before, between and after the contents (`source`).
2. Compare the gaps with and without a system message: what else stands before the first content
   is the system block that the template inserts by itself.
3. Put the real contents between the gaps and check the result against the template's own rendering
   of the real messages.
4. Compare what the template writes before an answer that is asked for, and before one that is there
   (`frames`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from .context import Context
from .prompt import Message, Segment
from .shared import common_start
from .source import Layout, RefusedError, Source, reasoning
from .vocabulary import special_in

PLAIN = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ 'Instructions: ' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'Question: ' + m['content'] + '\n' }}"
    "{% else %}{{ 'Answer: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
"""A chat template for models that have none (GPT-2): lines after one BOS that begin with
`Instructions:`, `Question:` or `Answer:`."""


class Template:
    """A tokenizer's chat template, or one of the caller's, taken apart.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        jinja: the chat template to use instead of the tokenizer's.
        context: whose options and date the template is given.

    Attributes:
        source: what renders it.
    """

    def __init__(self, tokenizer: Any, jinja: str | None, context: Context) -> None:
        self.tokenizer = tokenizer
        self.jinja = jinja
        self.context = context
        self.source = Source(tokenizer, jinja, context)

    @property
    def bos(self) -> str:
        """The tokenizer's BOS, empty where it has none."""
        return self.tokenizer.bos_token or ""

    def segments(self, messages: list[Message], *, generation: bool = True) -> list[Segment]:
        """The conversation, as the template renders it, cut into segments.

        Raises:
            ValueError: the template refuses the messages, or rewrites them.
        """
        roles = tuple(message["role"] for message in messages)
        layout = self.source.layout(roles, reasoned=reasoned(messages), generation=generation)
        rendered = self.source.render(messages, generation=generation, parts=layout.parts)
        contents = _contents(messages, layout, rendered)
        segments = self._opening(roles, layout.gaps[0])
        first_turn = segments[-1].turn
        next_roles = (*roles[1:], "assistant")
        for number, (slot, gap) in enumerate(zip(layout.slots, layout.gaps[1:], strict=True)):
            i = slot.message
            turn = first_turn + i
            segments.append(Segment(contents[number], roles[i], turn, roles[i]))
            if number + 1 < len(layout.slots) and layout.slots[number + 1].message == i:
                cut = len(gap)  # between reasoning and content
            elif generation or i + 1 < len(roles):
                # the gap after a content closes its turn and opens the next one
                cut = self._closing_length(roles[: i + 1], gap)
            else:
                cut = len(gap)
            segments += [
                Segment(gap[:cut], "template", turn, roles[i]),
                Segment(gap[cut:], "template", turn + 1, next_roles[i]),
            ]
        return self._without_phantom([segment for segment in segments if segment.text])

    def without_system(self, segments: list[Segment]) -> list[Segment]:
        """A conversation with the template's own system block cut out.

        Raises:
            ValueError: what is left does not open the first user turn as a later one is opened.
        """
        kept = [segment for segment in segments if segment.turn_role != "system"]
        opening = kept[0].text if kept[0].role == "template" else ""

        # a template may hide its default inside the user turn, where it cannot be cut out
        later = self.source.layout(("user", "assistant", "user")).gaps[2]
        opens_alike = later.endswith((opening.removeprefix(self.bos), opening))
        if not opens_alike and not self._leads_in(opening, later):
            raise ValueError(
                f"Context(system=NONE): the chat template writes {opening!r} before the first user "
                f"message and {later!r} before a later one, so its default cannot be dropped; use "
                "DEFAULT, or pass template= with the default removed."
            )

        # turns count from 0 again; a BOS that stood before the system block stays
        dropped = len(segments) > len(kept)
        shift = kept[0].turn
        kept = [Segment(s.text, s.role, s.turn - shift, s.turn_role) for s in kept]
        whole = "".join(segment.text for segment in segments)
        bos = self.bos
        if dropped and bos and whole.startswith(bos) and not opening.startswith(bos):
            kept.insert(0, Segment(bos, "template", 0, kept[0].turn_role))
        return kept

    def why_no_system_turn(self, roles: tuple[str, ...] = ("user",), *, empty: bool) -> str | None:
        """Why the template cannot express a system turn before these messages, None where it can.

        Args:
            roles: of the messages that follow.
            empty: whether the system turn's text is empty.
        """
        try:
            gaps = self.source.layout(("system", *roles)).gaps
        except RefusedError as error:
            return f"refuses a system message ({error.words})"
        except ValueError as error:
            return f"takes no system message ({error})"
        if empty and gaps[0] == self.source.layout(roles).gaps[0]:
            return "has no system turn (it writes the system text into the user turn)"
        return None

    def why_no_empty_system(self, roles: tuple[str, ...]) -> str | None:
        """Why the template has a system turn, but none with an empty text; None where it has."""
        key = "empty", roles
        if key not in self.source.known:
            self.source.known[key] = self._why_no_empty_system(roles)
        why = self.source.known[key]
        return why if why is None else str(why)

    def _why_no_empty_system(self, roles: tuple[str, ...]) -> str | None:
        layout = self.source.layout(("system", *roles))
        rest: list[Message] = [{"role": r, "content": f"Message {i}."} for i, r in enumerate(roles)]
        contents = ["", *(message["content"] for message in rest)]
        expected = layout.gaps[0]
        for content, gap in zip(contents, layout.gaps[1:], strict=True):
            expected += content + gap
        try:
            empty = self.source.render(
                [{"role": "system", "content": ""}, *rest], parts=layout.parts
            )
        except RefusedError as error:
            return f"refuses an empty system text ({error.words})"
        if empty == expected:
            return None
        if empty == self.source.render(rest, parts=layout.parts):
            return "skips an empty system text, as if there were no system message"
        return "writes an empty system text otherwise than the texts of other system turns"

    # -------------------------------------------------------------------------- the template's text

    def _opening(self, roles: tuple[str, ...], gap: str) -> list[Segment]:
        """The gap before the first content, with the system block that may stand in it."""
        key = "opening", roles[0], gap
        if key not in self.source.known:
            self.source.known[key] = tuple(self._opened(roles, gap))
        return list(self.source.known[key])

    def _opened(self, roles: tuple[str, ...], gap: str) -> list[Segment]:
        if roles[0] == "system":
            return [Segment(gap, "template", 0, "system")]
        end = self._block_end(gap)
        plain = [
            Segment(gap[:end], "template", 0, "system"),
            Segment(gap[end:], "template", int(end > 0), roles[0]),
        ]
        if self.why_no_system_turn(empty=True) is not None:
            return plain
        before, between, _ = self.source.layout(("system", "user")).gaps
        room_for_both = len(gap) >= len(before) + len(between)
        inserted = room_for_both and gap.startswith(before) and gap.endswith(between)
        if not inserted:
            return plain
        default = gap[len(before) : len(gap) - len(between)]
        cut = self._closing_length(("system",), between)
        return [
            Segment(before, "template", 0, "system"),
            Segment(default, "system", 0, "system"),
            Segment(between[:cut], "template", 0, "system"),
            Segment(between[cut:], "template", 1, roles[0]),
        ]

    def _without_phantom(self, segments: list[Segment]) -> list[Segment]:
        """The BOS belongs to the first turn with more than it.

        Where a system text stands without any frame (DeepSeek), there is no turn when there is no
        text.
        """
        first = [segment.text for segment in segments if segment.turn == 0]
        if first != [self.bos] or len(segments) == 1:
            return segments
        begun = replace(segments[0], turn=1, turn_role=segments[1].turn_role)
        return [replace(s, turn=s.turn - 1) for s in (begun, *segments[1:])]

    def _closing_length(self, roles: tuple[str, ...], gap: str) -> int:
        """How much of the gap after these messages closes the last one's turn.

        It is what the template writes after the message when the conversation ends there.
        """
        try:
            closing = self.source.layout(roles, generation=False).gaps[-1]
            if self.always_opens(roles):
                other = gap
                if gap == closing:
                    other = self.source.layout(("user", "assistant", "user")).gaps[2]
                closing = self.end_of_turn(roles, closing, other) or closing
        except ValueError:
            return 0  # it refuses a conversation that ends here: the gap opens the next turn
        return len(closing) if gap.startswith(closing) else 0

    def always_opens(self, roles: tuple[str, ...], thought: tuple[int, ...] = ()) -> bool:
        """Whether the template writes its generation prompt unasked.

        Args:
            roles: of the messages.
            thought: which of them have reasoning.
        """
        try:
            unasked = self.source.layout(roles, reasoned=thought, generation=False).gaps
        except ValueError:
            return False
        asked = self.source.layout(roles, reasoned=thought).gaps
        return asked[-1] != "" and unasked == asked

    def end_of_turn(self, roles: tuple[str, ...], after: str, following: str) -> str:
        """An end of turn without the assistant's turn that is opened behind it unasked.

        Args:
            roles: of the messages.
            after: the end of turn and the opened turn.
            following: the same end of turn, and another's turn.

        Returns:
            Empty where it cannot be told.
        """
        common = "".join(common_start([tuple(after), tuple(following)]))
        if common == after:
            return after  # nothing is opened behind it
        # both turns may be opened alike: that part is how the whole conversation's first turn opens
        opening = self.source.layout(roles).gaps[0].removeprefix(self.bos)
        cuts = (n for n in range(1, len(common) + 1) if opening.startswith(common[n:]))
        return common[: next(cuts, 0)]

    def _block_end(self, opening: str) -> int:
        """Where a block of the template's own ends that stands before the first turn, 0 for none.

        It is a turn, opened by the special token that opens the others (gpt-oss, Cohere-2).
        """
        try:
            later = self.source.layout(("user", "assistant", "user")).gaps[2]
        except ValueError:
            return 0
        body = opening.removeprefix(self.bos)
        first, then = self._pieces(body), self._pieces(later)
        if not first or special_in(self.tokenizer, first[0]) != first[:1]:
            return 0
        shared = list(common_start([tuple(first[::-1]), tuple(then[::-1])]))[::-1]
        if first[0] not in shared:
            return 0
        turn = "".join(shared[shared.index(first[0]) :])
        block = body.removesuffix(turn)
        has_text = any(special_in(self.tokenizer, one) != [one] for one in self._pieces(block))
        return len(opening) - len(turn) if has_text else 0

    def _leads_in(self, opening: str, later: str) -> bool:
        """Whether an opening is that of a later turn behind special tokens that only lead in.

        GLM begins with `[gMASK]<sop>`, which is no BOS and no system block either.
        """
        first, then = self._pieces(opening), self._pieces(later)
        shared = len(common_start([tuple(first[::-1]), tuple(then[::-1])]))
        first = first[: len(first) - shared]
        lead_in = "".join(first)
        if not lead_in or any(special_in(self.tokenizer, piece) != [piece] for piece in first):
            return False
        try:
            before_system = self.source.layout(("system", "user")).gaps[0]
        except ValueError:
            return True
        return before_system.startswith(lead_in) and before_system != lead_in

    def _pieces(self, text: str) -> list[str]:
        """A text as special tokens and the characters between them."""
        special = special_in(self.tokenizer, text)
        if not special:
            return list(text)
        tokens = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        return re.findall(f"(?s:{tokens}|.)", text)


def reasoned(messages: list[Message]) -> tuple[int, ...]:
    """Which messages have reasoning."""
    return tuple(i for i, message in enumerate(messages) if reasoning(message))


def _contents(messages: list[Message], layout: Layout, rendered: str) -> list[str]:
    """What the template writes in each slot: gaps and contents make its rendering.

    Raises:
        ValueError: they do not.
    """
    contents: list[str] = []
    done = len(layout.gaps[0])
    told = rendered.startswith(layout.gaps[0])
    for slot, gap in zip(layout.slots, layout.gaps[1:], strict=True):
        message = messages[slot.message]
        text = str(message["content"]) if slot.field == "content" else reasoning(message)
        written = _written(text, gap, rendered[done:], own=message["role"] == "assistant")
        told = told and written is not None
        contents.append(written or "")
        done += len(contents[-1]) + len(gap)
    if not told or done != len(rendered):
        raise ValueError(
            "the chat template rewrites these messages, so token roles cannot be told: "
            f"{messages!r}"
        )
    return contents


def _written(text: str, gap: str, rendered: str, *, own: bool) -> str | None:
    """A content as it stands at the beginning of what is rendered, before a gap."""
    # some templates trim
    for tried in (text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n")):
        if rendered.startswith(tried + gap):
            return tried
    if not own or not gap:
        return None
    # of the assistant's own messages some drop the thoughts
    found = rendered[: rendered.find(gap)] if gap in rendered else ""
    squeezed = "".join(found.split())
    return found if squeezed and squeezed in "".join(text.split()) else None
