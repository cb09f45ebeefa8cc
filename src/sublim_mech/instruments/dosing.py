"""Dose: the metric while the gate of a set of cells goes from 0 through 1 to 2 (exact).

Every module of the set computes, at the set's tokens, `f_base(x) + s * (f_student(x) - f_base(x))`:
s = 0 is the base, s = 1 the student (there), s = 2 a student whose weight change is twice as large.
Over all cells that is a model whose weights are base + s x change (an adapter scaled by s), for
every module that is linear in its weights; task arithmetic (arXiv 2212.04089) asks the same of
whole models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..engine.cells import columns_of
from ..engine.pair import ModelPair
from ..hints import counted
from ..masks import AnswerMask, Mask, Where, as_mask
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .keeping import keep_folder
from .labelling import cells_chosen, label
from .task import Advance, Cells, GatedRow, Keep, Part, Task, ends, measure, prepare, walk

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Gates that are tried where none are given."""


@checked
def dose(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    scales: Sequence[float] = SCALES,
    *,
    where: Where | None = None,
    answer: bool | None = None,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """The effect while the gate of a set of cells takes several values.

    Is it linear in the weights (`results.linearity`), does it saturate, does a student hide more
    than it shows?

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        scales: gates, any real numbers, each once: 0 is the base, 1 the student, 2 twice the
            change, -1 its opposite.
        where: the cells: a mask, token positions, or a function from a prompt to them; everything,
            the answer's own tokens too, when not given.
        answer: whether the answer's own tokens have the same gate, with the modules of the set;
            else the base computes them. When not given: yes where everything is scaled, no for a
            set of prompt tokens, as in `graft`.
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        Scores of kind `dose`, `(model, prompt, scale)`, scales in rising order: M(these cells at
        this gate, all others the base's) - M(base). `scores.curve()` is the curve with intervals.

    Raises:
        ValueError: no scales, one that is given twice, NaN or infinite; a set without cells in a
            prompt, or of modules that no student of the pair changes; a metric that is not finite
            at some scale.

    Source: dynamic weight grafting with real gates (arXiv 2506.20746); task arithmetic, arXiv
    2212.04089.

    Example:
        >>> scores = sm.instruments.dose(pair, prompts, trait, [0.0, 1.0, 2.0], progress=False)
        >>> one = scores.sel(model="student", scale=1.0)
        >>> bool(abs(one.headline - one.total).max() < 1e-4)
        True
    """
    chosen = _checked_scales(scales)
    folder = keep_folder(keep)
    task = prepare(pair, prompts, trait, keeps_gates=True)
    mask = None if where is None else as_mask(where, "chosen tokens")
    opened = mask is None or isinstance(mask, AnswerMask) if answer is None else answer
    sets = None
    if mask is not None:
        sets = [_chosen(mask, task, i, opened) for i in range(len(task.prompts))]
        _refuse_empty(mask, sets, task)
    elif not opened:
        sets = [_whole_prompt(task, i) for i in range(len(task.prompts))]

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student)
        rows = []
        for i, number in enumerate(part.numbers):
            gates = None if sets is None else sets[number].gates(student, task)
            for scale in chosen:
                rows.append(GatedRow(i, scale if gates is None else scale * gates))
        values = measure(part.task, student, rows, advance=advance)
        effects = values.reshape(len(part.numbers), len(chosen)) - both.base[:, None]
        return Cells(list(effects), both)

    def asked(i: int) -> list[object]:
        return ["dose", chosen, None if sets is None else [sets[i].prompt, sets[i].answer]]

    steps = [len(chosen)] * len(task.prompts)
    kept = Keep(folder, asked)
    measured = walk(task, cells, title="dose", steps=steps, progress=progress, keep=kept)
    return label(
        measured,
        "dose",
        ["prompt", "scale"],
        coords={"scale": np.array(chosen)},
        where="everything" if mask is None else mask.name,
        sets={} if mask is None else cells_chosen({mask.name: mask}, task),
        answer_gate={"dose": float(opened)},
    )


def _checked_scales(scales: Sequence[float]) -> list[float]:
    """Scales as numbers in rising order."""
    chosen = sorted(float(scale) for scale in scales if math.isfinite(scale))
    if len(chosen) < len(scales):
        raise ValueError(
            f"scales={list(scales)} hold NaN or infinity; a gate is a number, 0 the base and 1 the "
            "student."
        )
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"scales={list(scales)}: give at least one gate, each once.")
    return chosen


class Chosen(NamedTuple):
    """The cells of a set in one prompt, over all cells of the pair.

    Attributes:
        prompt: `(token, cell)` bool.
        answer: `(node, cell)` bool, of the answer's own tokens.
    """

    prompt: np.ndarray
    answer: np.ndarray

    def gates(self, student: Student, task: Task) -> Tensor:
        """`(slot, cell)`: 1 in the set, in the order of the student's cells."""
        columns = columns_of(task.pair.cells(), student)
        both = np.concatenate([self.prompt, self.answer])[:, columns]
        return torch.from_numpy(both).float()


def _chosen(mask: Mask, task: Task, prompt: int, answer: bool) -> Chosen:
    """The cells of a mask; the answer's tokens go with the modules of the set where they do."""
    asked, nodes = task.prompts[prompt], len(task.answers[prompt].nodes)
    modules = task.pair.cells()
    if mask.scale != 1:
        raise ValueError(
            f"where: {mask.name!r} is scaled; pass the mask as it is, and the gates as scales=."
        )
    if isinstance(mask, AnswerMask):
        of_prompt = np.zeros((len(asked), len(modules)), dtype=bool)
        with_answer = mask.modules(asked, modules)
    else:
        of_prompt = mask(asked, modules)
        with_answer = np.asarray(of_prompt.any(0))
    return Chosen(of_prompt, np.tile(with_answer & answer, (nodes, 1)))


def _whole_prompt(task: Task, prompt: int) -> Chosen:
    """All cells of a prompt, and none of its answers."""
    modules, nodes = len(task.pair.cells()), len(task.answers[prompt].nodes)
    whole = np.ones((len(task.prompts[prompt]), modules), dtype=bool)
    return Chosen(whole, np.zeros((nodes, modules), dtype=bool))


def _refuse_empty(mask: Mask, sets: Sequence[Chosen], task: Task) -> None:
    """A set that holds nothing would have an effect of 0 that reads like a finding."""
    paths = {path for student in task.pair.students.values() for path in student.deltas}
    changed = np.array([cell.path in paths or not paths for cell in task.pair.cells()])
    empty = [
        prompt
        for prompt, one in zip(task.prompts, sets, strict=True)
        if not (np.concatenate([one.prompt, one.answer]) & changed).any()
    ]
    if empty:
        raise ValueError(
            f"where: {mask.name!r} holds nothing that a student of this pair changes in "
            f"{counted(len(empty), 'prompt')}, first {empty[0].question[:60]!r}: its effect would "
            "be 0 at every dose; choose other cells, or leave the prompt out."
        )
