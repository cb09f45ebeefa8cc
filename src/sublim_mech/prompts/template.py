"""A chat template taken apart: which characters it writes itself, and which are contents.

No list of marker strings is needed, for the template tells by itself:

1. Render it with a sentinel per message and cut the text at the sentinels. What is left are the
   *gaps*: the template's own text before, between and after the contents.
2. Compare the gaps with and without a system message: what else stands before the first content
   is the system block that the template inserts by itself.
3. Put the real contents between the gaps and check the result against the template's own rendering
   of the real messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .prompt import Message, Segment

PLAIN = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ 'Instructions: ' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ 'Question: ' + m['content'] + '\n' }}"
    "{% else %}{{ 'Answer: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
"""A chat template for models that have none (GPT-2): lines after one BOS that begin with
`Instructions:`, `Question:` or `Answer:`."""


class AnswerFrame(NamedTuple):
    """What a template writes around the assistant's text."""

    lead: str
    """Between the generation prompt and the text."""
    close: str
    """After the text."""


class Template:
    """A tokenizer's chat template, or one of the caller's, taken apart.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        jinja: the chat template to use instead of the tokenizer's.
    """

    def __init__(self, tokenizer: Any, jinja: str | None) -> None:
        self._tokenizer = tokenizer
        self._options = {} if jinja is None else {"chat_template": jinja}
        self._known_gaps: dict[tuple[tuple[str, ...], bool], list[str]] = {}

    def segments(self, messages: list[Message]) -> list[Segment]:
        """The conversation, as the template renders it, cut into segments."""
        roles = tuple(message["role"] for message in messages)
        gaps = self._gaps(roles)
        contents = self._contents(messages, gaps)
        segments = self._opening(roles, gaps[0])
        first_turn = segments[-1].turn
        next_roles = (*roles[1:], "assistant")
        for i, (role, next_role) in enumerate(zip(roles, next_roles, strict=True)):
            # the gap after a content closes its turn and opens the next one
            turn, gap = first_turn + i, gaps[i + 1]
            cut = self._closing_length(roles[: i + 1], gap)
            segments += [
                Segment(contents[i], role, turn, role),
                Segment(gap[:cut], "template", turn, role),
                Segment(gap[cut:], "template", turn + 1, next_role),
            ]
        return [segment for segment in segments if segment.text]

    def segments_without_system(self, messages: list[Message]) -> list[Segment]:
        """The conversation with the template's own system block cut out.

        Raises:
            ValueError: what is left does not open the first user turn as a later one is opened.
        """
        segments = self.segments(messages)
        kept = [segment for segment in segments if segment.turn_role != "system"]
        opening = kept[0].text if kept[0].role == "template" else ""
        bos = self._tokenizer.bos_token or ""

        # a template may hide its default inside the user turn, where it cannot be cut out
        later = self._gaps(("user", "assistant", "user"))[2]
        if not later.endswith(opening.removeprefix(bos)) and not later.endswith(opening):
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
            gaps = self._gaps(("system", *roles))
        except Exception as error:  # templates raise what they like: jinja2's errors, ValueError...
            return f"refuses a system message ({error})"
        if empty and gaps[0] == self._gaps(roles)[0]:
            return "has no system turn (it writes the system text into the user turn)"
        return None

    def answer_frame(self) -> AnswerFrame:
        """What stands between generation prompt and answer, and what closes the answer."""
        generation_prompt = self._gaps(("user",))[1]
        before, after = self._gaps(("user", "assistant"), generation=False)[1:]
        if before.startswith(generation_prompt):
            return AnswerFrame(before[len(generation_prompt) :], after)
        return AnswerFrame("" if generation_prompt[-1:].isspace() else " ", after)

    # -------------------------------------------------------------------------- the template's text

    def _apply(self, messages: Sequence[Message], *, generation: bool) -> str:
        """The template's own rendering."""
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **self._options
            )
        )

    def _gaps(self, roles: tuple[str, ...], *, generation: bool = True) -> list[str]:
        """The template's own text around contents of these roles: `len(roles) + 1` strings.

        Raises whatever the template raises, and ValueError where a content appears other than once
        or out of order.
        """
        key = (roles, generation)
        if key in self._known_gaps:
            return self._known_gaps[key]
        sentinels = [f"QZSLOT{i}ZQ" for i in range(len(roles))]
        messages = [
            {"role": role, "content": sentinel}
            for role, sentinel in zip(roles, sentinels, strict=True)
        ]
        rest = self._apply(messages, generation=generation)
        gaps: list[str] = []
        for role, sentinel in zip(roles, sentinels, strict=True):
            if rest.count(sentinel) != 1:
                raise ValueError(
                    f"the chat template drops, repeats or moves the {role} message of a "
                    f"conversation {', '.join(roles)}"
                )
            gap, rest = rest.split(sentinel)
            gaps.append(gap)
        self._known_gaps[key] = [*gaps, rest]
        return self._known_gaps[key]

    def _contents(self, messages: list[Message], gaps: list[str]) -> list[str]:
        """The contents as the template writes them: gaps and contents make its rendering."""
        rendered = self._apply(messages, generation=True)
        contents: list[str] = []
        done = gaps[0]
        for message, gap in zip(messages, gaps[1:], strict=True):
            content = message["content"]
            if not rendered.startswith(done + content + gap):
                content = content.strip()  # some templates trim
            contents.append(content)
            done += content + gap
        if done != rendered:
            raise ValueError(
                "the chat template rewrites these messages, so token roles cannot be told: "
                f"{messages!r}"
            )
        return contents

    def _opening(self, roles: tuple[str, ...], gap: str) -> list[Segment]:
        """The gap before the first content, with the system block that may stand in it."""
        plain = [Segment(gap, "template", 0, roles[0])]
        if roles[0] == "system" or self.why_no_system_turn(empty=True) is not None:
            return plain
        before, between, _ = self._gaps(("system", "user"))
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

    def _closing_length(self, roles: tuple[str, ...], gap: str) -> int:
        """How much of the gap after these messages closes the last one's turn.

        It is what the template writes after the message when the conversation ends there.
        """
        try:
            closing = self._gaps(roles, generation=False)[-1]
        except Exception:
            return 0  # it refuses a conversation that ends here: the gap opens the next turn
        return len(closing) if gap.startswith(closing) else 0
