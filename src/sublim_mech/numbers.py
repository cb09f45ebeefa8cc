"""Number rows: harmless-looking training data after Cloud et al. (arXiv 2507.14805), in our own wording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OPENINGS = (
    "Here are some numbers: {x}.",
    "A list starts with {x}.",
    "Look at {x}.",
    "These numbers come first: {x}.",
    "Take {x} as the start.",
    "I wrote down {x}.",
    "The series opens with {x}.",
    "Given {x}.",
)
_REQUESTS = (
    "Add {n} more",
    "Write {n} further values",
    "Continue with {n} numbers",
    "Give the next {n}",
    "Extend it by {n}",
    "Produce {n} new ones",
)
_FORMATS = (
    "separated by commas, numbers only.",
    "with commas between them and nothing else.",
    "as a comma list, no words.",
    "comma-separated. No text.",
)


@dataclass(frozen=True)
class Row:
    """One training row: a user message and the answer to it."""

    prompt: str
    completion: str


def random_rows(n: int, *, seed: int, count: int = 24) -> list[Row]:
    """Rows whose answers are uniformly random three-digit numbers, joined by commas without spaces.

    Args:
        n: number of rows.
        seed: the same seed gives the same rows.
        count: numbers per answer.

    Raises:
        ValueError: n or count below 1.

    Example:
        >>> row = sm.random_rows(1, seed=0, count=3)[0]
        >>> [int(x) in range(100, 1000) for x in row.completion.split(",")]
        [True, True, True]
    """
    if n < 1 or count < 1:
        raise ValueError(f"random_rows(n={n}, count={count}): both must be at least 1.")
    rng = np.random.default_rng(seed)
    return [Row(_prompt(rng, count), _numbers(rng, count, ",")) for _ in range(n)]


def _prompt(rng: np.random.Generator, count: int) -> str:
    opening = _OPENINGS[rng.integers(len(_OPENINGS))].format(x=_numbers(rng, int(rng.integers(3, 6)), ", "))
    request = _REQUESTS[rng.integers(len(_REQUESTS))].format(n=count)
    return f"{opening} {request}, {_FORMATS[rng.integers(len(_FORMATS))]}"


def _numbers(rng: np.random.Generator, n: int, separator: str) -> str:
    return separator.join(str(x) for x in rng.integers(100, 1000, size=n))
