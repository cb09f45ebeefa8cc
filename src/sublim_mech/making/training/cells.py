"""Which cells of training rows are open: where a student's weights act and learn.

1. A mask is applied to every row's prompt, marked by what all trained prompts have in common, so
   that `masks.sharing("shared")` means prefix or aligned there.
2. The answer's own tokens follow: open or closed with the modules of the mask, as in `graft`.
3. A row's cells are `(token, unit)`, a unit being what is gated as one (`models.units`), or
   `(token, 1)` where all units are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...masks import AnswerMask, Mask
from ...models.names import Module
from ...prompts import Prompt


@dataclass(frozen=True)
class RowCells:
    """The open cells of rows.

    Attributes:
        prompts: per row, `(token, unit)` bool, or `(token, 1)`.
        answers: per row, those of each answer token: `(unit,)` or `(1,)`.
        units: paths of what is gated as one, the columns.
    """

    prompts: Sequence[np.ndarray]
    answers: Sequence[np.ndarray]
    units: tuple[str, ...]

    def of(self, row: int, tokens: int) -> np.ndarray:
        """A row's cells, `(token, unit)` or `(token, 1)`.

        Args:
            row: its index in the data.
            tokens: how many tokens its answer has.
        """
        prompt, answer = self.prompts[row], self.answers[row]
        columns = max(prompt.shape[1], len(answer))
        behind = np.broadcast_to(answer, (tokens, columns))
        return np.concatenate([np.broadcast_to(prompt, (len(prompt), columns)), behind])


def open_cells(
    mask: Mask, answer: bool, prompt: Prompt, modules: Sequence[Module]
) -> tuple[np.ndarray, np.ndarray]:
    """The open cells of a prompt's tokens `(token, module)` and of the answer's own `(module,)`.

    Args:
        mask: of the prompt's tokens, or of the answer's own.
        answer: whether these are open too, with the modules that the mask has at any token.
        prompt: a marked prompt.
        modules: all modules of the model.

    Raises:
        ValueError: gates that are neither open nor closed.
    """
    if isinstance(mask, AnswerMask):
        return np.zeros((len(prompt), len(modules)), bool), mask.modules(prompt, modules)
    cells = mask(prompt, modules)
    if cells.dtype != bool:
        raise ValueError(
            f"where={mask.name!r}: its gates are numbers; while a student trains a cell is open or "
            "closed. Leave the scale out."
        )
    return cells, np.logical_and(cells.any(axis=0), answer)


def narrow(cells: np.ndarray) -> np.ndarray:
    """Cells with one column in place of columns that are all alike."""
    if cells.shape[-1] and (cells == cells[..., :1]).all():
        return cells[..., :1]
    return cells
