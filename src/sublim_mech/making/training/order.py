"""Which rows are trained on, in which order, and which are kept out.

1. `divide` draws rows that are kept out for measuring, and a subsample of the others. No row is
   trained on and measured on.
2. `draw_order` gives every step its rows: one seeded permutation after the other.
3. `shares` cuts a step's rows into forwards and processes.
4. `Drawn` is the result as a dataset. Each row comes with its step's scale, so that however a step
   is cut its gradient is that of the mean over all its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...hints import check_choice, counted
from .data import TrainingData
from .lesson import Lesson
from .processes import Processes
from .settings import Settings

HELD_OUT = 48
"""Rows that are kept out where nobody says how many."""

HELD_BY = ("row", "prompt")
"""What held-out rows are drawn by."""

HELD_STREAM = 1
"""Beside its seed, what the draw of held-out rows is seeded with: a stream of its own."""


@dataclass(frozen=True)
class Division:
    """What is trained on and what is measured on.

    Attributes:
        trained: rows of the data to train on.
        held_data: the data that is measured on.
        held_rows: its rows.
        subsampled: whether rows were left out by chance.
        held_seed: of the draw of the held-out rows; None where none were drawn.
        same_prompt: how many of the held-out rows have a prompt that is trained on, with another
            answer.
        held_by: what they were drawn by.
    """

    trained: list[int]
    held_data: TrainingData
    held_rows: list[int]
    subsampled: bool
    held_seed: int | None = None
    same_prompt: int = 0
    held_by: str = "row"


FULL_WINDOWS = 0.75
"""Rows over those of a window of `bucket` steps from which on next to no step repeats one."""


def repeats_rows(rows: int, batch_size: int, bucket: int) -> str | None:
    """What to say where rows are sorted by length in windows that hold them several times, so that
    a step of rows of one length has the same ones; None where they are not.

    Args:
        rows: how many are trained on.
        batch_size: rows of a step.
        bucket: steps of a window.
    """
    window = bucket * batch_size
    if bucket == 1 or rows >= FULL_WINDOWS * window:
        return None
    fewer = max(1, rows // batch_size)
    return (
        f"bucket={bucket}: windows of {window} rows are sorted by length, and "
        f"{counted(rows, 'row')} are trained on, so that steps have rows several times; pass "
        f"bucket={fewer}, or more rows."
    )


def divide(
    data: TrainingData,
    held_out: int | TrainingData,
    *,
    held_out_seed: int | None,
    subsample: int | None,
    seed: int,
    held_out_by: str = "row",
) -> Division:
    """Rows to train on and rows to measure on.

    Args:
        data: the rows.
        held_out: how many different rows are kept out, each with all its copies and with rows of
            whose answers one begins with the other's, or other data to measure on.
        held_out_seed: of the draw of these; None for the last rows.
        subsample: train on so many of the others only.
        seed: of the subsample.
        held_out_by: `row`, or `prompt`: of so many different prompts all rows are kept out.

    Raises:
        ValueError: nothing would be left to train or to measure on; rows that are measured on
            would be trained on.
    """
    check_choice("held_out_by", held_out_by, HELD_BY)
    if held_out_by == "prompt" and (isinstance(held_out, TrainingData) or held_out_seed is None):
        most = len({prompt.ids for prompt in data.prompts}) - 1
        draw = f"pass held_out={min(HELD_OUT, most)} (different prompts) and held_out_seed=0, or "
        raise ValueError(
            "held_out_by='prompt' is a way to draw rows: "
            f"{draw if most else 'these rows have but one prompt; '}leave held_out_by out."
        )
    total = len(data.prompts)
    held_seed = None
    if isinstance(held_out, TrainingData):
        trained = list(range(total))
        held_data, held_rows = held_out, list(range(len(held_out.prompts)))
    elif held_out_seed is None:
        _check_count(held_out, total, "rows")
        trained = list(range(total - held_out))
        held_data, held_rows = data, list(range(total - held_out, total))
    else:
        if held_out_seed < 0:
            raise ValueError(
                f"held_out_seed={held_out_seed}: must be at least 0, or None for the last rows."
            )
        held_data, held_seed = data, held_out_seed
        trained, held_rows = _drawn(data, held_out, held_out_seed, held_out_by)

    available = len(trained)
    if subsample is not None:
        if not 0 < subsample <= available:
            raise ValueError(
                f"subsample={subsample}: must be between 1 and {available}, the rows not held out."
            )
        rng = np.random.default_rng(seed)
        trained = sorted(rng.choice(trained, subsample, replace=False).tolist())
    division = Division(trained, held_data, held_rows, len(trained) < available, held_seed)
    if held_seed is None:
        _check_apart(data, division, given=isinstance(held_out, TrainingData))
    known = {data.prompts[row].ids for row in trained}
    both = sum(held_data.prompts[row].ids in known for row in held_rows)
    return replace(division, same_prompt=both, held_by=held_out_by)


def _check_count(held_out: int, most: int, what: str) -> None:
    if 0 < held_out < most:
        return
    if most < 2:
        raise ValueError(
            f"held_out={held_out}: of {counted(most, what.removesuffix('s'))} none is left to "
            "measure on; give more, or pass other data as held_out."
        )
    usual = " (what it is if not given)" if held_out == HELD_OUT else ""
    raise ValueError(
        f"held_out={held_out}{usual}: must be between 1 and {most - 1}, "
        f"the number of {what} less one, or other data."
    )


def _drawn(data: TrainingData, held_out: int, seed: int, by: str) -> tuple[list[int], list[int]]:
    """(rows to train on, the first of each different row that was drawn), in their own order."""
    keys = _same_rows(data)
    drawn: list[Any] = keys if by == "row" else [prompt.ids for prompt in data.prompts]
    different = list(dict.fromkeys(drawn))
    what = f"{by}s" if len(different) == len(data.prompts) else f"different {by}s"
    _check_count(held_out, len(different), what)
    order = np.random.default_rng([seed, HELD_STREAM]).permutation(len(different))
    chosen = {different[i] for i in order[:held_out].tolist()}
    trained = [row for row, key in enumerate(drawn) if key not in chosen]
    firsts: dict[Any, int] = {}
    for row, key in enumerate(keys):
        if drawn[row] in chosen:
            firsts.setdefault(key, row)
    return trained, sorted(firsts.values())


def _same_rows(data: TrainingData) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What each row is one of: its prompt, and the shortest answer to it that its own begins with.

    Rows are the same where one answer begins with the other, as `_check_apart` has it.
    """
    keys = data.keys
    first: dict[Any, Any] = {}
    last = None
    for key in sorted(set(keys)):
        # an answer stands in front of all that begin with it
        prompt, answer = key
        if last is None or last[0] != prompt or answer[: len(last[1])] != last[1]:
            last = key
        first[key] = last
    return [first[key] for key in keys]


def _check_apart(data: TrainingData, division: Division, *, given: bool) -> None:
    """Raise ValueError where rows that are measured on are trained on.

    They are the same where one answer begins with the other: hard rows have the end of the turn
    behind it, labelled ones have not, and either may be cut. `given`: what is measured on is data
    that the user gave.
    """
    trained: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row in division.trained:
        trained.setdefault(data.prompts[row].ids, []).append(data.completions[row])
    held_data, held_rows = division.held_data, division.held_rows
    both = []
    for row in held_rows:
        answer = held_data.completions[row]
        answers = trained.get(held_data.prompts[row].ids, [])
        if any(one[: len(answer)] == answer[: len(one)] for one in answers):
            both.append(row)
    if not both:
        return

    rows = ", ".join(map(str, both[:5])) + (", ..." if len(both) > 5 else "")
    which = "row" if len(both) == 1 else "rows"
    fix = "pass held_out_seed=0, which keeps the copies of a row together"
    if given:
        few = max(1, min(HELD_OUT, len(division.trained) // 5))  # as many as there can be
        fix = (
            f"pass rows of their own (numbers.split(rows, {few}, seed=0)), or how many rows to "
            f"keep out, held_out={few}"
        )
    raise ValueError(
        f"held_out: {len(both)} of its {counted(len(held_rows), 'row')} "
        f"{'is' if len(both) == 1 else 'are'} trained on as well ({which} {rows}): "
        f"the same prompt, the same answer. A loss on them would be no held-out loss; {fix}."
    )


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
        lesson: where rows are looked up.
        rows: row indices.
        scale: per draw, processes / number of labelled tokens in the whole step (the sum of their
            weights): what the sum of token losses is multiplied by, so that a step's gradient is
            that of the mean over all its tokens, however it is cut into forwards and processes.
        pull_scale: per draw, the same of the tokens that are held to the base's activations; 0 in a
            step without any.
    """

    lesson: Lesson
    rows: Sequence[int]
    scale: Sequence[float]
    pull_scale: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        one = self.lesson.item(self.rows[i]) | {"scale": self.scale[i]}
        return one | {"pull_scale": self.pull_scale[i]} if self.pull_scale else one


def draw(lesson: Lesson, trained: Sequence[int], settings: Settings, processes: Processes) -> Drawn:
    """The rows of all steps, of those that are trained on."""
    lengths = lesson.data.lengths
    label_counts = {row: lesson.labels(row) for row in trained}
    order = draw_order(
        [lengths[row] for row in trained],
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.order_seed,
        bucket=settings.bucket,
    )
    rows: list[int] = []
    scale: list[float] = []
    pull_scale: list[float] = []
    for batch in order:
        chosen = [trained[i] for i in batch]
        parts = shares(chosen, accumulate=settings.accumulate, processes=processes.count)
        rows += [row for part in parts for row in part]
        step_labels = sum(label_counts[row] for row in chosen)
        scale += [processes.count / step_labels] * len(chosen)
        if lesson.pulled is not None:
            pulls = sum(lesson.pulls(row) for row in chosen)
            pull_scale += [processes.count / max(pulls, 1)] * len(chosen)
    return Drawn(lesson, rows, scale, pull_scale)
