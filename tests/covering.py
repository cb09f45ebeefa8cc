"""Matrices of tests, of which the default run takes a sample and `make science` the rest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest


def covering(cells: Sequence[tuple[Any, ...]]) -> list[Any]:
    """All cells, in their order; marked `science` are those that the others stand for.

    What stays has every value of every column at least once: every architecture, every kind, but
    not each kind on each architecture. Which ones is drawn with a fixed seed.
    """
    drawn = random.Random(0).sample(cells, len(cells))
    seen: set[tuple[int, Any]] = set()
    kept: set[tuple[Any, ...]] = set()
    for cell in drawn:
        values = set(enumerate(cell))
        if not values <= seen:
            kept.add(cell)
            seen |= values
    return [
        cell if cell in kept else pytest.param(*cell, marks=pytest.mark.science) for cell in cells
    ]
