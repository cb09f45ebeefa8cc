"""Which answer tokens the loss is taken at: a weight for each, or a choice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .batches import last_column
from .data import TrainingData


def token_weights(tokens: Sequence[Any], data: TrainingData) -> list[np.ndarray]:
    """Weights per row and answer token, from bools or numbers.

    Args:
        tokens: one array per row of the data, of a value per answer token.
        data: the rows.

    Raises:
        ValueError: of other rows or tokens than these; below 0 or no number.
    """
    if len(tokens) != len(data.completions):
        raise ValueError(
            f"tokens: {len(tokens)} arrays for {len(data.completions)} rows; give one per row of "
            "the data, in its order."
        )
    weights = []
    for row, (given, completion) in enumerate(zip(tokens, data.completions, strict=True)):
        of_row = np.asarray(given, dtype=np.float32)
        if of_row.shape != (len(completion),):
            raise ValueError(
                f"tokens[{row}] has shape {of_row.shape}, the answer of row {row} has "
                f"{len(completion)} tokens; give a value per token of the answer, end of turn "
                "included where the data have it."
            )
        if not (np.isfinite(of_row).all() and (of_row >= 0).all()):
            raise ValueError(f"tokens[{row}]: weights are numbers from 0 on, or True and False.")
        weights.append(of_row)
    return weights


def rows_with_labels(
    weights: Sequence[np.ndarray], data: TrainingData, trained: Sequence[int]
) -> list[int]:
    """The rows that have something to learn: a labelled token of a weight above 0.

    Raises:
        ValueError: no row has.
    """
    kept = [row for row in trained if last_column(data, row, weights[row]) >= 0]
    if not kept:
        raise ValueError(
            "tokens: no labelled token of any row that is trained on has a weight above 0: there "
            "is nothing to learn."
        )
    return kept


def selection_record(weights: Sequence[np.ndarray], trained: Sequence[int]) -> dict[str, Any]:
    """What a manifest keeps: how many tokens of how many, and a hash."""
    digest = hashlib.sha256()
    for row in trained:
        digest.update(np.ascontiguousarray(weights[row]).tobytes() + b"|")
    return {
        "chosen": int(sum((weights[row] > 0).sum() for row in trained)),
        "of": int(sum(len(weights[row]) for row in trained)),
        "hash": digest.hexdigest(),
    }
