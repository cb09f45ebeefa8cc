"""Numbers as texts, and how much of a text fits: its width in columns, shortened or in lines.

A column is as wide as a Latin letter; Chinese, Japanese and Korean characters and most emoji take
two, as in a terminal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ..hints import counted


def percent(share: float, digits: int = 0) -> str:
    """A share in per cent; what rounds to 0 has no sign.

    Example:
        >>> from sublim_mech.results.words import percent
        >>> percent(-0.253, 1), percent(-0.0002)
        ('-25.3%', '0%')
    """
    return f"{share:z.{digits}%}"


def columns(text: str) -> int:
    """The width of a text of one line.

    Example:
        >>> from sublim_mech.results.words import columns
        >>> columns("owl"), columns("猫头鹰")
        (3, 6)
    """
    return sum(_width(character) for character in text)


def seen(text: str) -> str:
    r"""A text whose blanks show: a space at either end or beside another one as `␣`, line ends,
    tabs and characters without ink as Python writes them, and a backslash, which would look like
    the beginning of one of these, as two.

    Example:
        >>> from sublim_mech.results.words import seen
        >>> print(seen(" You are  calm.\n"), seen(r"Two\none"))
        ␣You are␣␣calm.\n Two\\none
    """
    text = re.sub(r"\A +| +\Z| {2,}", lambda blanks: "␣" * len(blanks[0]), text)
    return "".join(map(_inked, text))


def _inked(character: str) -> str:
    """A character as it is, or as Python writes it where it leaves no ink of its own, or is a
    backslash.
    """
    without_ink = unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
    if character == "\\":
        return 2 * character
    if not without_ink or character in "\u200c\u200d":  # joiners are part of letters and emoji
        return character
    return character.encode("unicode_escape").decode()


def shortened(text: str, width: int) -> str:
    """A text of at most `width` columns: cut, with an ellipsis, where it is longer."""
    if columns(text) <= width:
        return text
    kept, used = "", 1  # the ellipsis
    for character in text:
        used += _width(character)
        if used > width:
            break
        kept += character
    return f"{kept.rstrip()}…"


def names_apart(names: Iterable[str], width: int) -> dict[str, str]:
    """Names of several things, each in at most `width` columns (8 or more) and none as another: of
    those that begin alike, their beginning and what is around the first difference.

    Returns:
        Name -> what to call it. Numbers behind names that are still alike take some more room.

    Example:
        >>> from sublim_mech.results.words import names_apart
        >>> list(names_apart(["You are calm and kind.", "You are calm and brief."], 16).values())
        ['You are…nd kind.', 'You are…nd brie…']
    """
    short = {name: shortened(name, width) for name in names}
    for _ in short:
        alike = _alike(short)
        if not alike:
            return short
        for group in alike:
            different = (len(set(letters)) > 1 for letters in zip(*group, strict=False))
            first = next((n for n, here in enumerate(different) if here), min(map(len, group)))
            short |= {name: _around(name, first, width) for name in group}
    for group in _alike(short):
        short |= {name: f"{short[name]} ({n})" for n, name in enumerate(group, 1)}
    return short


def _alike(short: dict[str, str]) -> list[list[str]]:
    """Names that are called the same, in groups."""
    groups: dict[str, list[str]] = {}
    for name, called in short.items():
        groups.setdefault(called, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _around(name: str, first: int, width: int) -> str:
    """The beginning of a name, and its letters from just before a place on."""
    beginning = shortened(name, width // 2)
    return f"{beginning}{shortened(name[max(first - 3, 0) :], width - columns(beginning))}"


def wrapped(text: str, width: int, *, lines: int = 3) -> str:
    """A text in lines of at most `width` columns, broken at spaces, else inside words.

    What does not fit into so many lines is cut.
    """
    width = max(width, 2)  # a wide character has to fit
    broken = [""]
    for word in re.findall(r"\s+|\S+", " ".join(text.split())):
        if columns(broken[-1]) + columns(word) > width and broken[-1]:
            broken.append("")
            if word.isspace():
                continue
        while columns(word) > width:
            start = _start(word, width)
            broken[-1] = start
            broken.append("")
            word = word[len(start) :]
        broken[-1] += word
    broken = [line.rstrip() for line in broken if line.strip()]
    if len(broken) > lines:
        last = _start(broken[lines - 1], width - 1).rstrip()
        broken = [*broken[: lines - 1], f"{last}…"]
    return "\n".join(broken)


def wrapped_apart(names: Iterable[str], width: int) -> dict[str, str]:
    """Names of several things in lines of at most `width` columns, none as another.

    Returns:
        Name -> its lines, as `wrapped` has them; of names that are cut where they are still alike,
        what `names_apart` leaves of them.
    """
    lines = {name: wrapped(name, width) for name in names}
    if not _alike(lines):
        return lines
    short = names_apart(lines, max(2 * width, 8))
    return {name: wrapped(called, width) for name, called in short.items()}


def _start(word: str, width: int) -> str:
    """As much of a word as fits."""
    used = 0
    for place, character in enumerate(word):
        used += _width(character)
        if used > width:
            return word[:place]
    return word


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def how_drawn(
    samples: int, temperature: float, seed: int, max_new_tokens: int, *, greedy: bool
) -> str:
    """How answers were drawn, in a line.

    Args:
        samples: sampled answers per prompt and model; 0 for none.
        temperature: of the sampling.
        seed: of the sampling.
        max_new_tokens: tokens after which an answer ends.
        greedy: whether there is a greedy answer, too or alone.

    Example:
        >>> from sublim_mech.results.words import how_drawn
        >>> how_drawn(0, 1.0, 0, 8, greedy=True)
        'greedy; at most 8 tokens per answer'
    """
    drawn = ["greedy"] if greedy else []
    if samples:
        drawn.append(
            f"{counted(samples, 'sampled answer')} per prompt and model at temperature "
            f"{temperature:g} (seed {seed}, the same random numbers for all)"
        )
    return f"{', and '.join(drawn)}; at most {counted(max_new_tokens, 'token')} per answer"
