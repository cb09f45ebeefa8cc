"""A mask, how masks combine, and masks of tokens or of modules alone."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..arguments import answer_of, checked, refuse_answer, shown
from ..models.names import Module
from ..prompts import Prompt
from ..prompts.places import positions_of

TokenRule = Callable[[Prompt], Sequence[int]]
"""From a prompt to token positions; negative ones count from its end."""

_EXAMPLE = "lambda prompt, modules: np.ones((len(prompt), 1), dtype=bool)"

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')


@checked
@dataclass(frozen=True)
class Mask:
    """A choice of (token, module) cells.

    Args:
        name: what results and errors call it.
        cells: from a prompt and a model's modules to a bool array that broadcasts to
            `(token, module)`: `(token, 1)` where it does not depend on the module, `(1, module)`
            where it does not depend on the token. It must bear an empty list of modules.

    Example:
        >>> mask = sm.masks.role("system") & sm.masks.layers(range(2))
        >>> mask.name
        'system & layers 0-1'
        >>> modules = list(pair.sites.modules.values())
        >>> mask(prompts[0], modules).shape == (len(prompts[0]), len(modules))
        True
    """

    name: str
    cells: Callable[[Prompt, Sequence[Module]], np.ndarray]

    def __and__(self, other: Mask) -> Mask:
        """The cells of both."""
        if not isinstance(other, Mask):
            self._refuse("&", other)

        def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
            return self._checked(prompt, modules) & other._checked(prompt, modules)

        parts = []
        for mask in (self, other):
            parts.append(f"({mask.name})" if "|" in _open_operators(mask.name) else mask.name)
        return Mask(" & ".join(parts), cells)

    def __or__(self, other: Mask) -> Mask:
        """The cells of either."""
        if not isinstance(other, Mask):
            self._refuse("|", other)

        def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
            return self._checked(prompt, modules) | other._checked(prompt, modules)

        return Mask(f"{self.name} | {other.name}", cells)

    def __invert__(self) -> Mask:
        """All other cells."""
        inner = f"({self.name})" if _open_operators(self.name) else self.name
        return Mask(f"not {inner}", lambda prompt, modules: ~self._checked(prompt, modules))

    def __rand__(self, other: Any) -> Mask:
        """Refused: the other is no mask."""
        self._refuse("&", other)

    def __ror__(self, other: Any) -> Mask:
        """Refused: the other is no mask."""
        self._refuse("|", other)

    def __add__(self, other: Any) -> Mask:
        """Refused: `|` is what is meant."""
        self._refuse("+", other)

    def __sub__(self, other: Any) -> Mask:
        """Refused: `a & ~b` is what is meant."""
        self._refuse("-", other)

    def __xor__(self, other: Any) -> Mask:
        """Refused: `(a | b) & ~(a & b)` is what is meant."""
        self._refuse("^", other)

    def __mul__(self, other: Any) -> Mask:
        """Refused: `&` is what is meant."""
        self._refuse("*", other)

    __radd__, __rsub__, __rxor__, __rmul__ = __add__, __sub__, __xor__, __mul__

    def __neg__(self) -> Mask:
        """Refused: `~` is what is meant."""
        raise TypeError(f"-mask {self.name!r}: all other cells are ~mask.")

    def _refuse(self, sign: str, other: Any) -> NoReturn:
        """Say how masks are combined."""
        if isinstance(other, Mask):
            raise TypeError(
                f"mask {self.name!r} {sign} mask {other.name!r}: masks combine with & (both), | "
                "(either), ~ (all others); a & ~b is a without b."
            )
        raise TypeError(
            f"mask {self.name!r} {sign} {shown(other)}: masks combine with masks only; of "
            "positions or a function make one, masks.as_mask(where, 'name')."
        )

    def __bool__(self) -> bool:
        # `a and b` would silently be b alone
        raise TypeError(
            f"mask {self.name!r} has no truth value; combine masks with & | ~ instead of and, or, "
            "not."
        )

    def __call__(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """The cells of a prompt.

        Args:
            prompt: a rendered prompt.
            modules: all modules of the model, `list(pair.sites.modules.values())`.

        Returns:
            `(token, module)` bool, a new array.

        Raises:
            ValueError: the prompt or the model does not have what the mask asks for, or `cells`
                gives another shape or type.
        """
        cells = self._checked(prompt, modules)
        return np.broadcast_to(cells, (len(prompt), len(modules))).copy()

    @checked
    def tokens(self, prompt: Prompt) -> list[int]:
        """The token positions of a mask that does not depend on modules.

        Raises:
            ValueError: it does; or the prompt does not have what the mask asks for.
        """
        cells = self._checked(prompt, ())
        if cells.shape[1] != 1:  # with no modules, what depends on them is (..., 0)
            raise ValueError(
                f"mask {self.name!r} depends on the module, tokens alone are needed; leave layers "
                "and modules out of it."
            )
        return np.flatnonzero(np.broadcast_to(cells[:, 0], len(prompt))).tolist()

    def _checked(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """What `cells` gives, refused where numpy would broadcast something else than meant."""
        given = answer_of(f"mask {self.name!r}", self.cells, prompt, modules, example=_EXAMPLE)
        cells = np.asarray(given)
        if cells.ndim == 0 or cells.dtype == object:
            of = f"the prompt {prompt.question[:60]!r}"
            wanted = f"a bool array (token, module) = {(len(prompt), len(modules))}"
            refuse_answer(f"mask {self.name!r}", self.cells, given, of=of, wanted=wanted)
        shape = (len(prompt), len(modules))
        fits = cells.ndim == 2 and all(
            given in (1, size) for given, size in zip(cells.shape, shape, strict=True)
        )
        if cells.dtype != bool or not fits:
            raise ValueError(
                f"mask {self.name!r}: cells gives {cells.dtype} of shape {cells.shape}; a bool "
                f"array is needed, (token, module) = {shape}, or 1 in place of either."
            )
        return cells


def mask_of_tokens(name: str, rule: TokenRule) -> Mask:
    """The mask `(token, 1)` of the positions that a rule gives."""

    def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        chosen = np.zeros((len(prompt), 1), dtype=bool)
        chosen[positions_of(repr(name), rule, prompt)] = True
        return chosen

    return Mask(name, cells)


def mask_of_modules(name: str, rule: Callable[[Sequence[Module]], list[bool]]) -> Mask:
    """The mask `(1, module)` of a rule that says of each module whether it is in."""

    def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        chosen = rule(modules) if modules else []  # no modules: nothing to look a name up in
        return np.array([chosen], dtype=bool)

    return Mask(name, cells)


def whole_number(value: object, argument: str) -> int:
    """A whole number; a bool is refused, because a list of them is no list of positions.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{argument}: {value!r} is not a whole number; pass an int.")


def _open_operators(name: str) -> set[str]:
    """Which of & and | stand in a name outside of quotes and brackets."""
    bare = _QUOTED.sub("", name)
    while True:
        without_innermost = re.sub(r"\([^()]*\)", "", bare)
        if without_innermost == bare:
            return set(re.findall(r" ([&|]) ", bare))
        bare = without_innermost
