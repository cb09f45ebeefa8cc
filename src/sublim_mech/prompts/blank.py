"""Whether a text can be seen at all."""

from __future__ import annotations

import unicodedata


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not any(map(_is_visible, text))


_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Fillers and blanks that Unicode counts as letters, marks or symbols."""


def _is_visible(character: str) -> bool:
    """Whether a character alone leaves ink: no space, control or format character, or selector."""
    if character in _BLANK_LETTERS or "VARIATION SELECTOR" in unicodedata.name(character, ""):
        return False
    return unicodedata.category(character)[0] not in "CZ"
