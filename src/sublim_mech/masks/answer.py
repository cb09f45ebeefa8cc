"""Masks of the answer's own tokens, which follow the prompt and are none of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from ..models.names import Module
from ..prompts import ANSWER, Prompt
from .mask import Mask


class AnswerMask(Mask):
    """The answer's own tokens, in all modules or in those of a mask of modules.

    They are fed after the prompt, all but the last token of each form, so an answer of one token
    has none. `&` takes masks of modules, `|` other masks of the answer; what would mix them with
    tokens of the prompt is refused, because `graft` sets a gate of their own for these.

    Args:
        name: what results and errors call it.
        cells: as for `Mask`; it must not depend on the token, `(1, module)` or `(1, 1)`.

    Example:
        >>> mask = sm.masks.role("answer") & sm.masks.modules("mlp")
        >>> mask.name
        'answer & mlp'
    """

    def __and__(self, other: Mask) -> Mask:
        """The answer's tokens in the modules of both."""
        return _of_answer(Mask.__and__(self, other))

    def __rand__(self, other: Mask) -> Mask:
        """The answer's tokens in the modules of both."""
        if not isinstance(other, Mask):
            self._refuse("&", other)
        return _of_answer(Mask.__and__(other, self))

    def __or__(self, other: Mask) -> Mask:
        """The answer's tokens in the modules of either; only with other masks of the answer."""
        if isinstance(other, Mask) and not isinstance(other, AnswerMask):
            _refuse_union(f"{self.name} | {other.name}")
        return _of_answer(Mask.__or__(self, other))

    def __ror__(self, other: Mask) -> Mask:
        """Refused: the other is a mask of the prompt, or none."""
        if not isinstance(other, Mask):
            self._refuse("|", other)
        _refuse_union(f"{other.name} | {self.name}")

    def __invert__(self) -> Mask:
        """Refused: what is not the answer's is the prompt's, whose masks have names."""
        raise ValueError(
            f"not {self.name}: a mask of the answer's own tokens has no complement; of all prompt "
            "tokens take masks.everything(), and say with answer_in_sufficiency and "
            "answer_in_necessity of graft who computes the answer."
        )

    def __call__(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """Refused: no token of the prompt is in it."""
        self._refuse_prompt()

    def tokens(self, prompt: Prompt) -> list[int]:
        """Refused: no token of the prompt is in it."""
        self._refuse_prompt()

    def modules(self, prompt: Prompt, modules: Sequence[Module]) -> np.ndarray:
        """The modules in which the answer's tokens are chosen, `(module,)` bool.

        Raises:
            ValueError: it was combined with a mask that depends on the token.
        """
        cells = self._checked(prompt, modules)
        if len(cells) != 1:
            raise ValueError(
                f"mask {self.name!r}: no token is the answer's own and the prompt's; combine the "
                "answer with masks of modules only (masks.layers, masks.modules)."
            )
        return np.broadcast_to(cells[0], len(modules)).copy()

    def _refuse_prompt(self) -> NoReturn:
        raise ValueError(
            f"mask {self.name!r}: the answer's own tokens follow the prompt and are none of its "
            "tokens; graft takes it as a set. In patch say answer_in_sets=True, in generate "
            "generated=... instead."
        )


def answer_mask() -> AnswerMask:
    """All modules at the answer's own tokens."""
    return AnswerMask(ANSWER, lambda prompt, modules: np.ones((1, 1), dtype=bool))


def _of_answer(combined: Mask) -> Mask:
    """A combination of masks of which one is of the answer."""
    return AnswerMask(combined.name, combined.cells)


def _refuse_union(name: str) -> NoReturn:
    raise ValueError(
        f"{name}: a set is of the prompt's tokens or of the answer's own. Who computes the answer "
        "while a set of prompt tokens is tested is said by answer_in_sufficiency=True and "
        "answer_in_necessity=False of graft."
    )
