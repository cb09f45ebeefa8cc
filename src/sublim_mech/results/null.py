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


class Layout(NamedTuple):
    """Where the tokens of prompts stand on common columns.

    Attributes:
        tokens: `(prompt, position)` bool, the prompts' tokens.
        columns: of every prompt that has tokens, the column of each.
        width: how many columns there are.
    """

    tokens: np.ndarray
    columns: list[list[int]]
    width: int


def layout(scores: ScoreArrays) -> Layout:
    """The layout of the prompts that were scored, by turn and role of their tokens."""
    tokens = scores.of_prompt.values
    role = scores.data["role"].values
    turn = scores.data["turn"].values if "turn" in scores.data.coords else np.zeros_like(role)
    labels = []
    for turns, roles, chosen in zip(turn, role, tokens, strict=True):
        if chosen.any():
            pairs = zip(turns[chosen], roles[chosen], strict=True)
            labels.append([f"{number} {name}" for number, name in pairs])
    columns, width = common_columns(labels)
    return Layout(tokens, columns, width)


def elsewhere(laid: Layout, effect: np.ndarray, inside: np.ndarray) -> Shifts:
    """What the set has beyond its share of tokens, at its place and at every other.

    Args:
        laid: where tokens stand.
        effect: `(prompt, position)`, finite.
        inside: `(prompt, position)` the set, of the prompts' tokens.
    """
    has_tokens = laid.tokens.any(1)
    shape = len(laid.columns), laid.width
    effects, chosen, present = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, prompt in enumerate(np.flatnonzero(has_tokens)):
        tokens, columns = laid.tokens[prompt], laid.columns[row]
        effects[row, columns] = effect[prompt, tokens]
        chosen[row, columns] = inside[prompt, tokens]
        present[row, columns] = True
    return shifted(effects, chosen, present)


def too_few_places(places: int) -> str:
    """Why so few columns give no conclusion; empty where they are enough, or not known."""
    if not 0 < places < FEWEST_PLACES:
        return ""
    return (
        f"No conclusion: in prompts of {places} tokens the set can stand in {places} places, so no "
        f"p is below {1 / places:.2g}; prompts of {FEWEST_PLACES} tokens are needed."
    )
