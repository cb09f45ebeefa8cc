"""Rows as they are taught: with their labels, and what else a training asks of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import count_labels, item
from .cells import RowCells
from .data import TrainingData


@dataclass(frozen=True)
class Lesson:
    """Rows and what a training asks of them.

    Attributes:
        data: the rows with their labels.
        cells: where the student's weights act; everywhere when None.
        pulled: per row, the tokens of prompt and answer whose activations are held to the base's.
        weights: per row, the weight of each answer token's loss; all alike when None.
        rows: which of them are used.
    """

    data: TrainingData
    cells: RowCells | None = None
    pulled: Sequence[np.ndarray] | None = None
    weights: Sequence[np.ndarray] | None = None
    rows: Sequence[int] = ()

    def item(self, row: int) -> dict[str, Any]:
        """One row as the trainer takes it (`batches.item`), and where they are asked for:

        - `open`: `(token, unit)` or `(token, 1)`, the open cells.
        - `pulled`: `(token,)`, whose activations are held to the base's.
        """
        weights = None if self.weights is None else self.weights[row]
        one = item(self.data, row, weights)
        if self.cells is not None:
            cells = self.cells.of(row, len(self.data.completions[row]))
            one["open"] = torch.from_numpy(cells)
        if self.pulled is not None:
            one["pulled"] = torch.from_numpy(self.pulled[row])
        return one

    def labels(self, row: int) -> float:
        """Number of labelled tokens of a row, or the sum of their weights."""
        if self.weights is None:
            return count_labels(self.data, row)
        weight = item(self.data, row, self.weights[row])["weight"]
        return float(weight.double().sum())

    def pulls(self, row: int) -> int:
        """Number of tokens of a row that are held to the base's activations."""
        return 0 if self.pulled is None else int(self.pulled[row].sum())
