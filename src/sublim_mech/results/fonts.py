r"""Words in any script: which installed font draws a character, and what stands where none does.

1. matplotlib draws a character with the first font of a text's list that has it. The user's own
   fonts come first (`rcParams["font.family"]`); `fallbacks` finds what must be added to them.
2. What no installed font has is written as code points, `\u{4e2d 6587}`, never as an empty box.
3. matplotlib before 3.11 sets letters in the order of memory; there, words of scripts that are read
   from right to left are turned round.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import matplotlib
from matplotlib import ft2font
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

SETS_ANY_DIRECTION = hasattr(ft2font, "__libraqm_version__")
"""Whether matplotlib itself sets text from right to left and joins its letters."""

_NOT_FOR_TEXT = ("last resort", "lastresort", "blank", "symsize", "siz")
"""Fonts with a box or nothing for every character, or with pieces of brackets."""

_KINDS = {"R": "R", "AL": "R", "NSM": "M", "WS": "S"}
"""Letters from right to left, marks on letters, spaces; by their class in Unicode."""

_VARIATION = re.compile("[\ufe00-\ufe0f]")


class Fallbacks(NamedTuple):
    """What the user's own fonts lack.

    Attributes:
        families: fonts to add, in order.
        missing: characters that no installed font has.
    """

    families: tuple[str, ...]
    missing: frozenset[str]


def fallbacks(characters: Iterable[str]) -> Fallbacks:
    """The installed fonts that draw what the user's own fonts do not."""
    own = [FT2Font(findfont(FontProperties(family=[name]))) for name in _own_families()]
    lacking = {c for c in characters if c != "\n" and not any(_draws(font, c) for font in own)}
    return _search(frozenset(lacking), len(fontManager.ttflist))


def drawable(text: str) -> str:
    """A text as figures write it: characters that no font has as code points."""
    # a variation selector chooses between two looks of a character; alone it is all there is
    text = _VARIATION.sub("", text) or text
    missing = fallbacks(set(text)).missing
    if missing:
        run = re.compile(f"[{re.escape(''.join(sorted(missing)))}]+")
        text = run.sub(lambda found: code_points(found[0]), text)
    return text if SETS_ANY_DIRECTION else turned(text)


def code_points(text: str) -> str:
    r"""A text as code points, the first ones of many.

    Example:
        >>> from sublim_mech.results.fonts import code_points
        >>> print(code_points("中文"))
        \u{4e2d 6587}
    """
    points = [f"{ord(character):x}" for character in text]
    if len(points) > 4:
        points[3:] = ["…"]
    return f"\\u{{{' '.join(points)}}}"


def turned(text: str) -> str:
    """A text whose runs of right-to-left letters stand in the order in which they are seen."""
    kinds = "".join(_KINDS.get(unicodedata.bidirectional(c), ".") for c in text)
    # marks belong to their letters, spaces to the run if it goes on behind them
    for run in re.finditer("R(?:[RMS]*[RM])?", kinds):
        start, end = run.span()
        text = text[:start] + text[start:end][::-1] + text[end:]
    return text


def text_families(*first: str) -> list[str]:
    """The given families, then the user's own."""
    return list(dict.fromkeys([*first, *_own_families()]))


def _own_families() -> list[str]:
    return list(matplotlib.rcParams["font.family"])


@lru_cache(maxsize=512)
def _search(lacking: frozenset[str], fonts: int) -> Fallbacks:
    """Which installed fonts have the characters, and which characters none has.

    Args:
        lacking: what is looked for.
        fonts: how many fonts are known; more may be added while the program runs.
    """
    missing, families = set(lacking), []
    for name, path in _candidates(fonts) if missing else ():
        try:
            font = FT2Font(path)
            found = {c for c in missing if _draws(font, c)}
        except (OSError, RuntimeError):  # a damaged file, or one that FreeType does not read
            continue
        if found:
            families.append(name)
            missing -= found
        if not missing:
            break
    return Fallbacks(tuple(families), frozenset(missing))


@lru_cache(maxsize=2)
def _candidates(fonts: int) -> list[tuple[str, str]]:
    """Name and file of every upright font of regular weight; plain ones first."""
    known: dict[str, str] = {}
    for entry in fontManager.ttflist:
        regular = entry.style == "normal" and entry.weight in (400, "normal", "regular", "book")
        first_face = getattr(entry, "index", 0) == 0
        if regular and first_face and not any(w in entry.name.lower() for w in _NOT_FOR_TEXT):
            known.setdefault(entry.name, entry.fname)
    return sorted(known.items(), key=lambda item: ("sans" not in item[0].lower(), item[0]))


def _draws(font: FT2Font, character: str) -> bool:
    """Whether a font has an outline for a character: pictures in colour are not drawn."""
    code = ord(character)
    if not font.get_char_index(code):
        return False
    if character.isspace() or unicodedata.category(character) in ("Mn", "Cf"):
        return True
    font.set_size(12, 72)
    font.load_char(code)
    return len(font.get_path()[0]) > 0
