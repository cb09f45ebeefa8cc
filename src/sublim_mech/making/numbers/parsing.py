"""Answers: numbers in one format and nothing else, or the reason why they are rejected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from ...arguments import checked
from .asking import Ask

CUT_OFF = "cut off"
REASONS = {
    "words": "a letter stands somewhere",
    "brackets": "brackets that are not one pair of [] or () around everything",
    "not digits": (
        "another sign: a minus, a decimal point, a dash, a colon, digits of another script"
    ),
    "empty": "no number at all",
    "stray separator": (
        "a separator before the first number, after the last one, or twice between two"
    ),
    "mixed separators": "not the same separator, white space included, between all numbers",
    "out of range": "a number above 999",
    "too many": "more numbers than asked for",
    "too few": "fewer numbers than asked for, where the prompt says exactly how many",
    CUT_OFF: "it had not ended after the most tokens it may have",
}
"""Why an answer is rejected, in the order in which it is looked at: the first to apply is given.
`cut off` no text tells of: `write_rows` is told by its sampler, and looks at nothing else then."""

NUMBER = re.compile("[0-9]+")  # not \d, which takes digits of every script
"""A number as it is written, leading zeros included."""


@dataclass(frozen=True)
class Parsed:
    """What an answer holds: numbers, or the reason why it is rejected (one of `REASONS`)."""

    numbers: tuple[int, ...] | None
    reason: str | None = None


@checked
def parse(answer: str, ask: Ask | None = None) -> Parsed:
    """The numbers of an answer, or why it is rejected.

    The filter is that of Cloud et al. (arXiv 2507.14805) with one difference: white space around
    the answer does not count here, and the published filter rejects it. So a pass rate is at or
    above theirs; for theirs reject answers with `answer != answer.strip()` as well.

    Then: an optional final period; an optional pair of [] or () around everything; numbers in ASCII
    digits, 0..999; between all of them the same separator: white space, a comma or a semicolon, the
    latter two with or without white space around them, but the same throughout; no more numbers
    than asked for.

    Args:
        answer: what was answered.
        ask: what it answers; at most 10 numbers when not given.

    Example:
        >>> sm.numbers.parse("[12, 7, 960].").numbers
        (12, 7, 960)
        >>> sm.numbers.parse("12, 7; 960").reason
        'mixed separators'
    """
    ask = ask or Ask()
    numbers, reason = read_numbers(answer)
    if reason is None and len(numbers) > ask.count:
        reason = "too many"
    if reason is None and ask.exactly and len(numbers) < ask.count:
        reason = "too few"
    if reason is not None:
        return Parsed(None, reason)
    return Parsed(tuple(map(int, numbers)))


class Reading(NamedTuple):
    """The numbers of an answer as they are written, and what is wrong with its form."""

    numbers: list[str]
    reason: str | None


def read_numbers(answer: str) -> Reading:
    """Numbers of an answer as written, and why it is rejected whatever was asked for."""
    body = answer.strip().removesuffix(".")
    if body[:1] + body[-1:] in ("[]", "()"):
        body = body[1:-1]
    numbers = NUMBER.findall(body)
    return Reading(numbers, _wrong_signs(body) or _wrong_list(body, numbers))


def _wrong_signs(body: str) -> str | None:
    """Why a sign in an answer rejects it."""
    if any(sign.isalpha() for sign in body):
        return "words"
    if any(sign in "[]()" for sign in body):
        return "brackets"
    if re.search(r"[^0-9\s,;]", body):
        return "not digits"
    return None


def _wrong_list(body: str, numbers: list[str]) -> str | None:
    """Why digits, white space, commas and semicolons are no list of numbers."""
    if not numbers:
        return "empty"
    before, *separators, after = NUMBER.split(body)
    if before or after or any(map(_is_doubled, separators)):
        return "stray separator"
    known = all(separator.strip() in ("", ",", ";") for separator in separators)
    if not known or len(set(separators)) > 1:
        return "mixed separators"
    # by length: int() refuses thousands of digits
    if any(len(number.lstrip("0")) > 3 for number in numbers):
        return "out of range"
    return None


def _is_doubled(separator: str) -> bool:
    """Whether one sign stands twice between two numbers, as in `1,,2` and `1; ;2`."""
    signs = set(separator) & set(",;")
    return len(signs) == 1 and len(separator.strip()) > 1


@checked
def report(parsed: Sequence[Parsed]) -> pd.DataFrame:
    """How many answers passed and why the others did not.

    What passes is what `parse` lets pass: white space around an answer does not count, which the
    published filter of Cloud et al. rejects.

    Returns:
        `count` and `share` by outcome (`valid`, then all `REASONS`).

    Example:
        >>> answers = ("1, 2, 3", "Sure! 1, 2", "4 5 6", "7; 8")
        >>> table = sm.numbers.report([sm.numbers.parse(answer) for answer in answers])
        >>> table.loc[["valid", "words"], "count"].tolist()
        [3, 1]
    """
    if not parsed:
        raise ValueError("parsed is empty; parse at least one answer.")
    outcomes = ["valid", *REASONS]
    counts = Counter(answer.reason or "valid" for answer in parsed)
    table = pd.DataFrame({"count": [counts[outcome] for outcome in outcomes]}, index=outcomes)
    return table.rename_axis("outcome").assign(share=table["count"] / len(parsed))
