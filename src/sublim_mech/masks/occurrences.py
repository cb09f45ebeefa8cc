"""Masks of the tokens that a text touches."""

from __future__ import annotations

import re
from typing import Literal

from ..arguments import checked
from ..prompts import Prompt
from .mask import Mask, mask_of_tokens

Occurrence = Literal["all", "first", "last"] | int
"""Which occurrences of a text: a word, or a number from 0 (negative from the end)."""


@checked
def text(substring: str, *, which: Occurrence | None = None) -> Mask:
    """The tokens that an occurrence of this text touches, anywhere in the rendered prompt.

    Occurrences are counted as `str.count` does: case matters, they do not overlap, and "owl" occurs
    in "fowl" (`regex` knows words).

    Args:
        substring: the text.
        which: `all`, `first`, `last`, or a number from 0 (negative from the end); may be left out
            where there is only one.

    Raises:
        TypeError: `substring` is not a string, or `which` neither a word nor a whole number.
        ValueError: an empty text or an unknown `which`; when applied, the occurrence does not
            exist, or `which` is needed.

    Example:
        >>> name = sm.masks.text("SmolLM", which="first")
        >>> "".join(prompts[0].tokens[t] for t in name.tokens(prompts[0]))
        ' SmolLM'
    """
    if not substring:
        raise ValueError("text('') is empty; give the text to look for.")
    return _of_occurrences("text", substring, re.compile(re.escape(substring)), which)


@checked
def regex(pattern: str, *, which: Occurrence | None = None) -> Mask:
    r"""The tokens that a match of this regular expression touches, anywhere in the rendered prompt.

    Matches are those of `re.finditer`; empty ones are ignored.

    Args:
        pattern: a Python regular expression, with its flags inside, as in `(?i)owl`.
        which: as in `text`.

    Raises:
        TypeError: `pattern` is not a string, or `which` neither a word nor a whole number.
        ValueError: an invalid pattern or an unknown `which`; when applied, the match does not
            exist, or `which` is needed.

    Example:
        >>> marks = sm.masks.regex(r"[.?]", which="all")
        >>> {prompts[0].tokens[t] for t in marks.tokens(prompts[0])} <= {".", "?"}
        True
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"regex({pattern!r}) is not a regular expression: {error}; text(...) takes text as it "
            "is."
        ) from error
    return _of_occurrences("regex", pattern, compiled, which)


def _of_occurrences(
    function: str, wanted: str, pattern: re.Pattern[str], which: Occurrence | None
) -> Mask:
    """The tokens whose characters overlap the chosen matches."""
    number = _number(function, which)

    def inside(prompt: Prompt) -> list[int]:
        matches = pattern.finditer(prompt.text)
        spans = [match.span() for match in matches if match.end() > match.start()]
        count = len(spans)
        ambiguous = which is None and count > 1
        missing = count == 0 or (number is not None and not -count <= number < count)
        if ambiguous or missing:
            raise ValueError(_refusal(f"{function}({wanted!r}, which={which!r})", count, prompt))
        chosen = spans if number is None else [spans[number]]
        return [i for i, token_span in enumerate(prompt.offsets) if _touches(token_span, chosen)]

    name = f"{function} {wanted!r}"
    if which is not None:
        name += f" [{which}]"
    return mask_of_tokens(name, inside)


def _number(function: str, which: Occurrence | None) -> int | None:
    """The number of the occurrence that is meant; None for all of them."""
    if which is None:
        return 0  # the only one there is
    if not isinstance(which, str):
        return int(which)
    if which not in ("all", "first", "last"):
        raise ValueError(
            f"{function}(which={which!r}): pass 'all', 'first', 'last' or a number from 0."
        )
    return {"all": None, "first": 0, "last": -1}[which]


def _touches(token: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    """Whether a token's characters overlap one of these spans."""
    token_start, token_end = token
    return any(token_start < end and start < token_end for start, end in spans)


def _refusal(call: str, count: int, prompt: Prompt) -> str:
    fix = "compare spelling, case and spaces with prompt.text."
    if count:
        fix = (
            f"pass which='all', 'first', 'last' or a number, 0 to {count - 1} or -{count} to -1 "
            "from the end."
        )
    plural = "" if count == 1 else "s"
    return f"{call}: {count} occurrence{plural} in the prompt {prompt.question!r}; {fix}"
