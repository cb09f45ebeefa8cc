"""A mask, how masks combine, and masks of tokens or of modules alone."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
            where it does not depend on the token. It must bear an empty list of modules. Of a pair
            that is split a module stands in the list once per part (`Module.part`).
        scale: the gate of the cells it holds (`scaled`).

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
    scale: float = 1.0

    @checked
    def scaled(self, scale: float) -> Mask:
        """The same cells with gates of this size: 1 is the student, 0 the base, 2 twice its
        difference, -1 its opposite.

        A scaled mask is a set for `graft`, `generate` and `pair.logits`; it does not combine with
        others, so scale last.

        Args:
            scale: any real number.

        Raises:
            ValueError: NaN or infinity.

        Example:
            >>> (sm.masks.role("system") & sm.masks.layers([0, 1])).scaled(2).name
            '2 x (system & layers 0-1)'
        """
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: a gate is a number, 0 closed and 1 open.")
        inner = f"({self.name})" if _open_operators(self.name) else self.name
        factor = self.scale * scale
        name = self.name if scale == 1 else f"{scale:g} x {inner}"
        return replace(self, name=name, scale=factor)

    @property
    def unscaled(self) -> Mask:
        """The same cells with gates of 1."""
        return replace(self, scale=1.0)

    def __and__(self, other: Mask) -> Mask:
        """The cells of both."""
        if not isinstance(other, Mask):
            self._refuse("&", other)
        _check_scales(self, other)

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
        _check_scales(self, other)

        def cells(prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
            return self._checked(prompt, modules) | other._checked(prompt, modules)

        return Mask(f"{self.name} | {other.name}", cells)

    def __invert__(self) -> Mask:
        """All other cells."""
        _check_scales(self)
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
            modules: all modules of the model, `list(pair.sites.modules.values())`; of a pair that
                is split its `pair.cells()`.

        Returns:
            `(token, module)` bool, a new array; of a scaled mask its gates, float64.

        Raises:
            ValueError: the prompt or the model does not have what the mask asks for, or `cells`
                gives another shape or type.
        """
        cells = self._checked(prompt, modules)
        chosen = np.broadcast_to(cells, (len(prompt), len(modules)))
        return chosen.copy() if self.scale == 1 else self.scale * chosen

    @checked
    def tokens(self, prompt: Prompt) -> list[int]:
        """The token positions of a mask that does not depend on modules.

        Raises:
            ValueError: it does; or the prompt does not have what the mask asks for; a scaled mask.
        """
        _check_scales(self)
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


def _check_scales(*masks: Mask) -> None:
    """A scale is of a whole set, so it comes last."""
    for mask in masks:
        if mask.scale != 1:
            raise ValueError(
                f"mask {mask.name!r} is scaled: it is a set for graft, generate or pair.logits and "
                "combines with nothing; combine first and scale last, (a & b).scaled(2)."
            )


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
