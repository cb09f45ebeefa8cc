"""Rows as the trainer takes them: items of token ids and labels, padded into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.heads import pad
from .data import TrainingData

PAD = 16
"""Rows are padded to multiples of this: every new shape costs a kernel set-up."""


def item(data: TrainingData, row: int, weights: np.ndarray | None = None) -> dict[str, Any]:
    """One row as the trainer takes it.

    Args:
        data: the rows.
        row: which of them.
        weights: of each answer token's loss; tokens of weight 0 are left out.

    Returns:
        - `row`: its index in the data.
        - `ids`: token ids of prompt and answer.
        - `columns`: per labelled token, the position that predicts it.
        - `goal`: per labelled token, its label: the index of the right outcome `(token,)` of hard
          rows, log-probabilities `(token, outcome)` of soft labels.
        - `tokens`: `(token, k)` token ids, of top-k labels only.
        - `weight`: `(token,)`, where weights are given.
    """
    prompt, completion = data.prompts[row], data.completions[row]
    places = list(range(len(completion)))  # of labelled tokens in the answer
    labels: dict[str, Tensor] = {}
    if data.targets is not None:  # listed, top-k and full: log-probabilities at every token
        goal = np.array(data.targets[row][: len(completion)], np.float32)
        labels["goal"] = torch.from_numpy(goal)
        if data.tokens is not None:
            tokens = np.array(data.tokens[row][: len(completion)], np.int64)
            labels["tokens"] = torch.from_numpy(tokens)
    elif data.support is None:  # hard: the token itself
        labels["goal"] = torch.tensor(completion)
    else:  # hard on a support: its place there, and no label where it has none
        slots = {token: slot for slot, token in enumerate(data.support)}
        places = [place for place in places if completion[place] in slots]
        labels["goal"] = torch.tensor([slots[completion[place]] for place in places])

    if weights is not None:
        kept = [i for i, place in enumerate(places) if weights[place] > 0]
        places = [places[i] for i in kept]
        labels = {name: label[kept] for name, label in labels.items()}
        labels["weight"] = torch.from_numpy(np.asarray(weights, np.float32)[places])

    columns = [len(prompt) - 1 + place for place in places]
    return {"row": row, "ids": [*prompt.ids, *completion], "columns": columns, **labels}


def count_labels(data: TrainingData, row: int) -> int:
    """Number of labelled tokens of a row."""
    if data.label_kind == "hard" and data.support is not None:
        return sum(token in data.support for token in data.completions[row])
    return len(data.completions[row])


def last_column(data: TrainingData, row: int, weights: np.ndarray | None = None) -> int:
    """The last position of a row that predicts a labelled token; what follows reaches no loss."""
    prompt, completion = data.prompts[row], data.completions[row]
    places = [place for place in range(len(completion)) if weights is None or weights[place] > 0]
    if data.label_kind == "hard" and data.support is not None:
        places = [place for place in places if completion[place] in data.support]
    return len(prompt) - 1 + places[-1] if places else -1


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Batch items (`item`).

    Returns:
        - `ids`: `(row, position)` token ids, padded.
        - `row`, `column`: `(token,)` where in `ids` each labelled token is predicted.
        - `goal` and, of top-k labels, `tokens`: `(token, ...)` the labels.
        - `index`: `(row,)` which rows of the data these are.
        - `scale`: what the sum of losses is multiplied by, where the items have one (`Drawn`).
        - `weight`, `open`, `pulled`, `pull_scale`: where the items have them (`Lesson`, `Drawn`):
          `(token,)`, `(row, position, unit)` and `(row, position)`, closed in the padding.
    """
    of_row = [torch.full((len(one["columns"]),), i) for i, one in enumerate(items)]
    batch = {
        "ids": pad([one["ids"] for one in items], multiple=PAD),
        "row": torch.cat(of_row),
        "column": torch.tensor([column for one in items for column in one["columns"]]),
        "goal": torch.cat([one["goal"] for one in items]),
        "index": torch.tensor([one["row"] for one in items]),
    }
    if "tokens" in items[0]:
        batch["tokens"] = torch.cat([one["tokens"] for one in items])
    if "weight" in items[0]:
        batch["weight"] = torch.cat([one["weight"] for one in items])
    for name in ("scale", "pull_scale"):
        if name in items[0]:
            batch[name] = torch.tensor(items[0][name])  # all rows of a step have the same
    shape = batch["ids"].shape
    if "open" in items[0]:
        units = max(one["open"].shape[1] for one in items)
        batch["open"] = torch.zeros(*shape, units, dtype=torch.bool)
        for i, one in enumerate(items):
            batch["open"][i, : len(one["open"])] = one["open"]
    if "pulled" in items[0]:
        batch["pulled"] = torch.zeros(shape, dtype=torch.bool)
        for i, one in enumerate(items):
            batch["pulled"][i, : len(one["pulled"])] = one["pulled"]
    return batch
