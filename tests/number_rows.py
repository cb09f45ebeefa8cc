"""Pieces of rows that tests of number data share."""

from __future__ import annotations

import numpy as np

USER = {"role": "user", "content": "Three, please."}
ASSISTANT = {"role": "assistant", "content": "1, 2, 3"}
SEPARATORS = [",", ", ", " ", "\n", ";", "; ", " , ", "  ", ",\n", "\t", " ;\n"]
BRACKETS = [("", ""), ("[", "]"), ("(", ")")]


def written(rng: np.random.Generator, count: int) -> tuple[str, tuple[int, ...]]:
    """A valid answer of so many numbers in some format, and the numbers."""
    separator = str(rng.choice(SEPARATORS))
    opening, close = BRACKETS[rng.integers(3)]
    values = rng.integers(0, 1000, size=count)
    as_text = [f"{value:03d}" if rng.random() < 0.1 else str(value) for value in values]
    text = opening + separator.join(as_text) + close
    period, after = str(rng.choice(["", "."])), str(rng.choice(["", "", "\n", "  "]))
    return text + period + after, tuple(values.tolist())
