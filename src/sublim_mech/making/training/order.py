"""Which rows are trained on, in which order, and which are kept out.

1. `divide` keeps rows out for measuring, and draws a subsample of the others.
2. `draw_order` gives every step its rows: one seeded permutation after the other.
3. `shares` cuts a step's rows into forwards and processes.
4. `Drawn` is the result as a dataset. Each row comes with its step's scale, so that however a step
   is cut its gradient is that of the mean over all its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import count_labels, item
from .data import TrainingData
from .processes import Processes
from .settings import Settings


@dataclass(frozen=True)
class Division:
    """What is trained on and what is measured on.

    Attributes:
        trained: rows of the data to train on.
        held_data: the data that is measured on.
        held_rows: its rows.
        subsampled: whether rows were left out by chance.
    """

    trained: list[int]
    held_data: TrainingData
    held_rows: list[int]
    subsampled: bool


def divide(
    data: TrainingData, held_out: int | TrainingData, *, subsample: int | None, seed: int
) -> Division:
    """Rows to train on and rows to measure on.

    Args:
        data: the rows.
        held_out: how many of the last rows are kept out, or other data to measure on.
        subsample: train on so many of the others only.
        seed: of the subsample.

    Raises:
        ValueError: nothing would be left to train or to measure on.
    """
    total = len(data.prompts)
    if isinstance(held_out, TrainingData):
        trained = list(range(total))
        held_data, held_rows = held_out, list(range(len(held_out.prompts)))
    elif 0 < held_out < total:
        trained = list(range(total - held_out))
        held_data, held_rows = data, list(range(total - held_out, total))
    else:
        raise ValueError(
            f"held_out={held_out}: must be between 1 and {total - 1}, "
            "the number of rows less one, or other data."
        )

    available = len(trained)
    if subsample is not None:
        if not 0 < subsample <= available:
            raise ValueError(
                f"subsample={subsample}: must be between 1 and {available}, the rows not held out."
            )
        rng = np.random.default_rng(seed)
        trained = sorted(rng.choice(trained, subsample, replace=False).tolist())
    return Division(trained, held_data, held_rows, subsampled=len(trained) < available)


def draw_order(
    lengths: Sequence[int], *, steps: int, batch_size: int, seed: int, bucket: int
) -> list[list[int]]:
    """Which rows each optimiser step takes.

    The declared order is one permutation of all rows after the other. Within windows of `bucket`
    steps of it the rows are regrouped into batches of like lengths, the batches in random order;
    with `bucket=1` every step has exactly the rows that the order gives it. Inside a step rows
    stand by falling length, which moves no gradient.
    """
    rng = np.random.default_rng(seed)
    rows, draws = len(lengths), steps * batch_size
    epochs = -(-draws // rows)
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])[:draws]

    batches: list[np.ndarray] = []
    for start in range(0, draws, bucket * batch_size):
        window = order[start : start + bucket * batch_size]
        if bucket > 1:
            by_length = np.argsort(-np.asarray(lengths)[window], kind="stable")
            of_like_lengths = window[by_length].reshape(-1, batch_size)
            batches += list(of_like_lengths[rng.permutation(len(of_like_lengths))])
        else:
            batches.append(window)
    return [sorted(batch.tolist(), key=lambda row: -lengths[row]) for batch in batches]


def order_words(bucket: int) -> str:
    """The order in words, for the manifest."""
    words = "one seeded permutation of the rows after the other"
    if bucket == 1:
        return words
    return f"{words}; regrouped into batches of like lengths within windows of {bucket} steps"


def shares(batch: Sequence[int], *, accumulate: int, processes: int) -> list[list[int]]:
    """One step's rows, cut up: each forward's part of each process, parts of like lengths.

    Returns:
        (forward 0 of process 0, forward 0 of process 1, ..., forward 1 of process 0, ...).
    """
    size = len(batch) // accumulate
    # rows stand by falling length: neighbours go to different processes, so that none waits long
    forwards = [batch[i * size : (i + 1) * size] for i in range(accumulate)]
    return [list(rows[process::processes]) for rows in forwards for process in range(processes)]


@dataclass(frozen=True)
class Drawn(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows in the order they are trained on, each with the share of its tokens in its step's mean.

    Attributes:
        data: where rows are looked up.
        rows: row indices.
        scale: per draw, processes / number of labelled tokens in the whole step: what the sum of
            token losses is multiplied by, so that a step's gradient is that of the mean over all
            its tokens, however it is cut into forwards and processes.
    """

    data: TrainingData
    rows: Sequence[int]
    scale: Sequence[float]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return item(self.data, self.rows[i]) | {"scale": self.scale[i]}


def draw(
    data: TrainingData, trained: Sequence[int], settings: Settings, processes: Processes
) -> Drawn:
    """The rows of all steps, of those that are trained on."""
    lengths = data.lengths
    label_counts = {row: count_labels(data, row) for row in trained}
    order = draw_order(
        [lengths[row] for row in trained],
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.order_seed,
        bucket=settings.bucket,
    )
    rows: list[int] = []
    scale: list[float] = []
    for batch in order:
        chosen = [trained[i] for i in batch]
        parts = shares(chosen, accumulate=settings.accumulate, processes=processes.count)
        rows += [row for part in parts for row in part]
        step_labels = sum(label_counts[row] for row in chosen)
        scale += [processes.count / step_labels] * len(chosen)
    return Drawn(data, rows, scale)
