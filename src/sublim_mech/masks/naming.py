"""Masks from their names: what a manifest or a plain configuration keeps of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

from ..arguments import checked
from ..models.names import GROUPS
from ..prompts import ANSWER, ROLES
from .components import layers, modules
from .mask import Mask
from .named import OF_TOKENS
from .occurrences import regex, text
from .parts import band, head
from .tokens import everything, positions, role, sharing, turn

_QUOTED = r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"'
_NUMBERS = r"-?\d+(?:-\d+)?(?:, -?\d+(?:-\d+)?)*"
_PART = r"(?:\d+|tail|rest|kv \d+)"
_TOKEN = re.compile(
    rf"\s*(?:(?P<sign>[&|()])|(?P<occurrence>(?:text|regex) (?:{_QUOTED})(?: \[[\w-]+\])?)"
    rf"|(?P<part>(?:band|head)s? {_PART}(?:, {_PART})*)"
    rf"|(?P<counted>(?:turn|position|layer)s? {_NUMBERS})|(?P<word>[\w.]+))"
)
_SHARED = OF_TOKENS["sharing"]
_WORDS = ("everything", ANSWER, *ROLES, *_SHARED)
_MISTYPED = 0.82
"""Likeness (difflib's ratio) from which a word is a mistyped one of `_WORDS`. Of the 3,300 names
that TransformerLens' adapters and transformers' models give to modules `aligner` and `bros` are as
near to one, which no decoder has."""

_NUMBERED = {
    "first": "position 0", "last": "position -1", "position": "position -1",
    "positions": "positions -2, -1", "turn": "turn -1", "turns": "turns 0, 1",
    "layer": "layer 3", "layers": "layers 0-9", "band": "band 0", "bands": "bands 0, 1",
    "heads": "heads 0, 1",
}  # fmt: skip
"""Words for which no module would be found (for `head` one is), and what is written instead."""


@checked
def from_name(name: str) -> Mask:
    """The mask that is called so: `masks.from_name(mask.name)` is `mask` again.

    For configurations and manifests, which hold texts. A mask made of a function or of positions
    (`as_mask`) is not in its name.

    Args:
        name: as masks write their names (but scaled ones, and those of students): `shared`,
            `not shared`, `system & layers 0-9`, `answer & mlp`,
            `everything & not (user | turn -1)`, `text 'owl' [last]`.

    Raises:
        ValueError: it is no such name, or a word that is one letter or two away from a role or a
            class of sharing. Any other word counts as that of modules, which are looked up when the
            mask is applied: which a model has is not known before.

    Example:
        >>> mask = sm.masks.role("system") & ~sm.masks.layers(range(2))
        >>> sm.masks.from_name(mask.name).name
        'system & not layers 0-1'
    """
    return _Reader(name).read()


class _Reader:
    """Reads `term | term`, a term being `factor & factor`, a factor `not`, brackets or a word."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[tuple[str, str]] = []
        at = 0
        while name[at:].strip():
            found = _TOKEN.match(name, at)
            if found is None:
                self._refuse(f"{name[at:].strip()[:40]!r} is not understood")
            kind = str(found.lastgroup)
            self.parts.append((kind, found[kind]))
            at = found.end()

    def read(self) -> Mask:
        mask = self._union()
        if self.parts:
            self._refuse(f"{self.parts[0][1]!r} stands where nothing is expected")
        return mask

    def _union(self) -> Mask:
        mask = self._both()
        while self._takes("|"):
            mask = mask | self._both()
        return mask

    def _both(self) -> Mask:
        mask = self._one()
        while self._takes("&"):
            mask = mask & self._one()
        return mask

    def _one(self) -> Mask:
        if self._takes("not"):
            return ~self._one()
        if self._takes("("):
            mask = self._union()
            if not self._takes(")"):
                self._refuse("a bracket is not closed")
            return mask
        if not self.parts or self.parts[0][0] == "sign":
            self._refuse("a word is missing")
        kind, word = self.parts.pop(0)
        if kind == "occurrence":
            return _occurrence(word)
        if kind == "counted":
            return self._counted(word)
        if kind == "part":
            noun, _, listed = word.partition(" ")
            labels = [int(one) if one.isdigit() else one for one in listed.split(", ")]
            return band(*labels) if noun.startswith("band") else head(*labels)
        if word == "everything":
            return everything()
        if word == ANSWER or word in ROLES:
            return role(word)
        if word in _SHARED:
            return sharing(word)
        if word in OF_TOKENS:
            shown = ", ".join(f"'{name}'" for name in OF_TOKENS[word])
            self._refuse(
                f"{word!r} is no mask but what tokens are told apart by; its masks are {shown}"
            )
        if word in _NUMBERED:
            self._refuse(f"{word!r} is no mask without its number, such as {_NUMBERED[word]!r}")
        near = get_close_matches(word, _WORDS, n=3, cutoff=_MISTYPED)
        if near and word not in GROUPS:
            meant = " or ".join(map(repr, near))
            self._refuse(f"{word!r} is no role and no class of sharing (did you mean {meant}?)")
        return modules(word)

    def _counted(self, word: str) -> Mask:
        noun, _, listed = word.partition(" ")
        makers: dict[str, Callable[..., Mask]] = {"turn": turn, "position": positions}
        numbers: list[int] = []
        for part in listed.split(", "):
            ends = re.fullmatch(r"(\d+)-(\d+)", part)
            numbers += range(int(ends[1]), int(ends[2]) + 1) if ends else [int(part)]
        make = makers.get(noun.removesuffix("s"))
        return layers(numbers) if make is None else make(*numbers)

    def _takes(self, word: str) -> bool:
        """Whether this comes next; then it is passed."""
        if self.parts and self.parts[0][1] == word:
            self.parts.pop(0)
            return True
        return False

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(
            f"from_name({self.name!r}): {why}; pass the name of a mask as masks write it, such as "
            "'shared', 'system & layers 0-9' or 'everything & not user'. Masks of functions and "
            "positions of your own (as_mask) have to be passed themselves."
        )


def _occurrence(word: str) -> Mask:
    """`text 'owl' [last]`."""
    function, _, rest = word.partition(" ")
    found = re.match(_QUOTED, rest)
    assert found is not None
    which: str | int | None = rest[found.end() :].strip(" []") or None
    if which not in (None, "all", "first", "last"):
        which = int(str(which))
    wanted = ast.literal_eval(found[0])
    return text(wanted, which=which) if function == "text" else regex(wanted, which=which)  # type: ignore[arg-type]
