"""Numbers as texts, and how much of a text fits: its width in columns, shortened or in lines.

A column is as wide as a Latin letter; Chinese, Japanese and Korean characters and most emoji take
two, as in a terminal.
"""

from __future__ import annotations

import re
import unicodedata


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
