"""Labels read row by row, as they are stored or computed from what is stored.

They lie in memory or in memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open


class RowLabels(Protocol):
    """What labels are read through, row by row.

    An array `(row, position, token)`, or a view of labels larger than memory. A row may have fewer
    positions than `shape` says, but not fewer than its answer has tokens.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """`(row, position, token)`, positions of the longest answer."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, row: int, /) -> Any:
        """One row's `(position, token)`."""


@dataclass(frozen=True)
class View:
    """Labels of all rows, each computed when it is asked for.

    Attributes:
        shape: `(row, position, token)`; a row has as many positions as its answer has tokens, the
            longest as many as stand here.
        row: gives a row's `(position, token)`.
    """

    shape: tuple[int, int, int]
    row: Callable[[int], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} labelled; give 0 to {len(self) - 1}.")
        return self.row(row % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.row, range(len(self)))


class Shard(Protocol):
    """Labels of some rows by one teacher."""

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of `logits` or `tokens`, `(token, width)`."""


@dataclass(frozen=True)
class InMemory:
    """A shard that is not stored."""

    arrays: Mapping[str, np.ndarray]

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Shard`."""
        return self.arrays[name][start:stop]


@dataclass(frozen=True)
class Stored:
    """A shard file.

    It is opened for each reading: mapping it costs microseconds, and nothing is held open in the
    meantime.
    """

    path: Path

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """See `Shard`; only the pages asked for are read."""
        with _opened(self.path) as handle:
            values: np.ndarray = handle.get_slice(name)[start:stop]
        return values


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="np")
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"labels: {path} is damaged or missing ({error}); copy it again or label again "
            "in another folder."
        ) from error
