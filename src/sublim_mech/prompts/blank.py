"""Whether a text can be seen at all, and read by a tokenizer."""

from __future__ import annotations

import re
import unicodedata


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not any(map(_is_visible, text))


def check_text(where: str, text: str) -> None:
    """Refuse a text with nothing visible in it, or with half a character.

    Args:
        where: what errors call it.
        text: the text.

    Raises:
        ValueError: it is such a text.
    """
    check_whole(where, text)
    if is_blank(text):
        raise ValueError(f"{where}: {text!r} is blank; give it words or leave it out.")


def check_whole(where: str, text: str) -> None:
    """Refuse a text with half a character: a lone surrogate, as it is left where text in UTF-16 (or
    escaped, in JSON) was cut inside an emoji. Python's texts may hold it; tokenizers and files in
    UTF-8 do not take it.

    Args:
        where: what errors call it.
        text: the text.

    Raises:
        ValueError: it has one.
    """
    half = _HALF.search(text)
    if half is None:
        return
    place = half.start()
    around = text[max(place - _AROUND, 0) : place + _AROUND]
    raise ValueError(
        f"{where}: {around!r} has half a character at place {place} (the lone surrogate "
        f"{half[0]!r}), which no tokenizer reads; write the whole character, or leave it out."
    )


_HALF = re.compile("[\ud800-\udfff]")
"""Halves of characters in UTF-16; in Python's texts whole ones are one character."""

_AROUND = 30
"""Characters that errors show on both sides of a half."""

_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Fillers and blanks that Unicode counts as letters, marks or symbols."""


def _is_visible(character: str) -> bool:
    """Whether a character alone leaves ink: no space, control or format character, or selector."""
    if character in _BLANK_LETTERS or "VARIATION SELECTOR" in unicodedata.name(character, ""):
        return False
    return unicodedata.category(character)[0] not in "CZ"
