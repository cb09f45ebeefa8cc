"""The null of `concentration`: what the set would have, stood it elsewhere in all prompts alike.

Prompts are laid on common columns by turn and role, so that the system block and the template's
tokens of all of them meet, however long the questions between them are. The set is then shifted
through all columns (`stats.shifted`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..stats import Shifts, shifted
from ..stats.shifts import common_columns
from .arrays import ScoreArrays

FEWEST_PLACES = 21
"""Columns that prompts need: of 20 no place is rarer than 1 in 20, which is not below 5 %."""


class Columns(NamedTuple):
    """Where the tokens of prompts lie on columns that all of them have in common.

    Attributes:
        real: `(prompt, position)` the prompts' tokens.
        places: per prompt that has tokens, the column of each of them.
        width: how many columns there are.
    """

    real: np.ndarray
    places: list[list[int]]
    width: int

    def elsewhere(self, effect: np.ndarray, inside: np.ndarray) -> Shifts:
        """What a set has beyond its share of tokens, at its place and at every other.

        Args:
            effect: `(prompt, position)`, finite.
            inside: `(prompt, position)` the set, of the prompt's tokens.
        """
        has_tokens = self.real.any(1)
        shape = int(has_tokens.sum()), self.width
        laid = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
        rows = zip(
            effect[has_tokens],
            inside[has_tokens],
            self.real[has_tokens],
            self.places,
            strict=True,
        )
        for row, (values, chosen, tokens, columns) in enumerate(rows):
            laid[0][row, columns], laid[1][row, columns] = values[tokens], chosen[tokens]
            laid[2][row, columns] = True
        return shifted(*laid)


def columns_of(scores: ScoreArrays) -> Columns:
    """Lay prompts on common columns by the turn and role of their tokens."""
    real = scores.of_prompt.values
    role = scores.data["role"].values
    turn = scores.data["turn"].values if "turn" in scores.data.coords else np.zeros_like(role)
    labels = [
        [f"{t} {r}" for t, r in zip(turns[tokens], roles[tokens], strict=True)]
        for turns, roles, tokens in zip(turn, role, real, strict=True)
    ]
    places, width = common_columns([row for row in labels if row])
    return Columns(real, places, width)


def too_few_places(places: int) -> str:
    """Why so few columns give no conclusion; empty where they are enough, or not known."""
    if not 0 < places < FEWEST_PLACES:
        return ""
    return (
        f"No conclusion: in prompts of {places} tokens the set can stand in {places} places, so no "
        f"p is below {1 / places:.2g}; prompts of {FEWEST_PLACES} tokens are needed."
    )
