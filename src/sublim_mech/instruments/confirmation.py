"""Confirming estimates: exact values for the strongest cells and as many random ones.

Gradients screen all cells at once; whether they say what an intervention would is not known
beforehand (on GPT-2-small attribution patching of MLP outputs correlates 0.2 with patching). So the
exact instrument runs on a sample, and the agreement goes with the scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..arguments import checked
from ..engine.pair import ModelPair
from ..hints import outside
from ..metrics import Metric, TraitMetric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.confirming import compared
from ..results.identity import content, first_difference
from ..results.record import Record
from ..results.scores import Scores
from . import keeping
from .graft_ig import AXES
from .patching import Patch, patch_prompt
from .position_maps import Link
from .task import Advance, GatedRow, Task, ends, measure, prepare

CONFIRMED = ("graft_ig", "attribution_patching", "activation_ig")
"""The methods whose cells an exact instrument has a value for."""


class Cell(NamedTuple):
    """A cell whose exact value is measured: a module, a part of its difference, or an activation at
    a token of the task's prompt of this number.
    """

    prompt: int
    layer: int
    position: int
    module: str | None = None
    head: Any = None
    band: str | None = None
    whose: str | None = None

    def labels(self, prompts: Sequence[int]) -> dict[str, int | str]:
        """The axes it has, by name; of prompts their labels in the scores."""
        given = {axis: label for axis, label in self._asdict().items() if label is not None}
        return given | {"prompt": int(prompts[self.prompt])}


@checked
def confirm(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    scores: Scores,
    *,
    k: int = 20,
    seed: int = 0,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Compare attributions with exact values on the k strongest cells and k random others.

    The exact value of a `graft_ig` cell (a module at a token) is the mean of what the cell does
    alone, M(on only there) - M(base), and of what is lost without it, M(student) - M(off only
    there): the two ends of the path that IG averages over. The exact value of a cell of
    `attribution_patching` and `activation_ig` is `patch` at that cell. With controls, estimates and
    exact values are of the headline (student minus the mean of the controls).

    Args:
        pair: what the scores were made from.
        prompts: the same.
        trait: the same.
        scores: what `attribute` gave.
        k: how many of each.
        seed: of the random cells; cells whose estimate is exactly 0 are left out.
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        The same scores with the comparison in their record: they print Pearson, Spearman and
            the share of equal signs (of cells above 1 % of the largest one),
        `scores.confirmation` is a table of the cells, and figures carry a warning where agreement
        is poor (Pearson or sign agreement below 0.8), which is also raised as a `UserWarning`.

    Raises:
        ValueError: no exact counterpart (`gradient_x_input`, exact scores); scores of other
            prompts, another metric or other models; k below 2 or above half the cells.

    Example:
        >>> asked = {"method": "activation_ig", "points": 4, "progress": False}
        >>> scores = sm.attribute(pair, prompts, trait, **asked)
        >>> scores = sm.confirm(pair, prompts, trait, scores, k=3, progress=False)
        >>> len(scores.confirmation)
        6
    """
    method = scores.record.method
    if method not in CONFIRMED:
        exact_already = f"{scores.kind} scores are exact already"
        why = f"{method} has no exact counterpart" if method else exact_already
        raise ValueError(
            f"scores: {why}; confirm takes graft_ig, attribution_patching or activation_ig."
        )
    models = scores.data["model"].values.tolist()
    if scores.selected or scores.record.minus or models != list(scores.record.students):
        raise ValueError(
            "scores are a selection or a contrast; confirm the scores as attribute gave them, then "
            "select."
        )
    folder = keeping.keep_folder(keep)
    task = prepare(pair, prompts, trait, keeps_gates=True)
    _check_same(task, scores)

    # the strongest cells, and random ones of the rest; where nothing differs both values are 0,
    # which proves nothing
    effect = scores.headline.transpose("prompt", "layer", ..., "position")
    values = effect.values
    candidates = np.argwhere(np.isfinite(values) & (values != 0))
    if not 2 <= k <= len(candidates) // 2:
        raise ValueError(
            f"k={k}: give at least 2 and at most half of the {len(candidates)} cells that are not "
            "0."
        )
    order = np.argsort(-np.abs(values[tuple(candidates.T)]), kind="stable")
    random = np.random.default_rng(seed).choice(order[k:], size=k, replace=False)
    chosen = candidates[np.concatenate([order[:k], random])]
    estimates = values[tuple(chosen.T)]
    axes = [str(axis) for axis in effect.dims]
    labels = {axis: effect[axis].values.tolist() for axis in axes}
    places = labels | {"prompt": list(range(len(task.prompts)))}
    cells = []
    for index in chosen:
        place = zip(axes, index, strict=True)
        cells.append(Cell(**{axis: places[axis][i] for axis, i in place}))

    exact = _exact(task, scores, cells, progress=progress, keep=folder)
    what = "mean of alone and left out" if method == "graft_ig" else "patch"
    rows = [cell.labels(labels["prompt"]) for cell in cells]
    told = zip(rows, estimates.tolist(), exact.tolist(), strict=True)
    compared_cells = [
        {**cell, "top": number < k, "estimate": estimate, "exact": value}
        for number, (cell, estimate, value) in enumerate(told)
    ]
    confirmation = compared(compared_cells, seed=seed, exact=what)
    if confirmation.poor:
        warnings.warn(
            f"{method} agrees poorly with exact values (Pearson {confirmation.pearson:z.2f}, "
            f"{confirmation.told_sign()}): use the exact instrument (patch, graft).",
            stacklevel=outside(),
        )
    return replace(scores, record=replace(scores.record, confirmation=confirmation))


def _check_same(task: Task, scores: Scores) -> None:
    """Raise ValueError where the scores were made from something else."""
    students = {name: student.hash for name, student in task.pair.students.items()}
    scored = {name: source.hash for name, source in scores.record.students.items()}
    texts = ["".join(prompt.tokens) for prompt in task.prompts]
    tokens = scores.data["token"].values
    # as far as there are prompts of both; the counts are compared below
    scored_texts = [
        "".join(row[: len(prompt)]) for prompt, row in zip(task.prompts, tokens, strict=False)
    ]
    # of older files nobody knows more than the metric's name
    measured, scored_metric = content(task.metric), scores.record.measured
    if not scored_metric:
        measured, scored_metric = task.metric.name, scores.record.metric
    differs = {
        "prompts": scored_texts != texts or len(texts) != scores.data.sizes["prompt"],
        "metric": measured != scored_metric,
        "base": task.pair.hash != scores.record.base.hash,
        "students": students != scored,
    }
    wrong = [name for name, other in differs.items() if other]
    if wrong:
        what = []
        if differs["metric"]:
            what.append(_of_metrics(scores.record, task.metric, measured))
        if differs["students"]:
            what.append(_of_students(students, scored))
        told = "".join(f" ({one})" for one in what if one)
        raise ValueError(
            f"scores were made from other {' and '.join(wrong)} than given{told}; pass what "
            "attribute was called with."
        )


def _of_metrics(record: Record, metric: Metric, given: str) -> str:
    """How the scored metric differs from the given one: by name, by forms, or where their contents
    part.
    """
    if record.metric != metric.name:
        return f"scored: {record.metric}; given: {metric.name}"
    scored = {one.trait: set(one.forms) for one in record.forms}
    traits = metric.traits if isinstance(metric, TraitMetric) else ()
    forms = {trait.name: set(trait.forms) for trait in traits}
    for name in scored.keys() & forms.keys():
        told = [
            f"{', '.join(sorted(more))} {where}"
            for more, where in (
                (scored[name] - forms[name], "scored alone"),
                (forms[name] - scored[name], "given alone"),
            )
            if more
        ]
        if told:
            return f"{metric.name}, forms of {name}: {'; '.join(told)}"
    one, other = first_difference(record.measured, given)
    return f"{metric.name}: scored {one}; given {other}"


def _of_students(given: Mapping[str, str], scored: Mapping[str, str]) -> str:
    """Which students differ, by what scores call them."""
    told = {
        "not scored": [name for name in given if name not in scored],
        "not given": [name for name in scored if name not in given],
        "of other weights": [n for n in given if n in scored and given[n] != scored[n]],
    }
    return "; ".join(f"{', '.join(names)} {how}" for how, names in told.items() if names)


# ------------------------------------------------------------------------------------- exact values


def _exact(
    task: Task, scores: Scores, cells: Sequence[Cell], *, progress: bool, keep: Path | None
) -> np.ndarray:
    """Exact headline values of cells, `(cell,)`."""
    students = list(task.pair.students.values())
    exact_cells: Callable[[Task, Student, Sequence[Cell], Advance], np.ndarray] = _graft_cells
    if scores.record.method != "graft_ig":
        site, direction = scores.record.site, scores.record.direction
        assert site is not None  # scores of activations have both
        assert direction is not None
        exact_cells = partial(_patch_cells, Patch(site, (), (), (), direction))
    if keep is not None:
        method = str(scores.record.method)
        exact_cells = partial(_kept_cells, folder=keep, exact_cells=exact_cells, method=method)
    total = len(students) * len(cells)
    with tqdm(total=total, desc="confirm", disable=not progress) as bar:
        values = [exact_cells(task, student, cells, bar.update) for student in students]
    student, *controls = values
    return student - np.mean(controls, 0) if controls else student


def _kept_cells(
    task: Task,
    student: Student,
    cells: Sequence[Cell],
    advance: Advance,
    *,
    folder: Path,
    exact_cells: Callable[[Task, Student, Sequence[Cell], Advance], np.ndarray],
    method: str,
) -> np.ndarray:
    """Exact values prompt by prompt; those of a prompt are a unit (`keeping`)."""
    values = np.empty(len(cells))
    for prompt in sorted({cell.prompt for cell in cells}):
        numbers = [n for n, cell in enumerate(cells) if cell.prompt == prompt]
        some = [cells[n]._replace(prompt=0) for n in numbers]
        part = task.only([prompt])
        asked, answers = part.prompts[0], part.answers[0]
        how = exact_cells.args if isinstance(exact_cells, partial) else ()
        options = ["confirm", method, how, some]
        name = keeping.unit_name(task.pair, student, task.metric, (asked, answers), options)
        found = keeping.find(folder, name, asked.question)
        if found is None:
            found = {"exact": exact_cells(part, student, some, advance)}
            told = {"instrument": f"confirm {method}", "model": student.name}
            keeping.store(folder, name, found, **told, prompt=asked.question)
        else:
            keeping.check_unchanged(task.pair, student)
            advance(len(some))
        values[numbers] = found["exact"]
    return values


def _graft_cells(
    task: Task, student: Student, cells: Sequence[Cell], advance: Advance
) -> np.ndarray:
    """Grafts of single modules at single tokens: the mean of what each does alone and of what is
    lost without it.
    """
    split_by = student.split_by
    labels = []
    for path, name in student.cells:
        module = task.pair.sites.modules[path]
        part = str(getattr(name, split_by)) if split_by else None
        labels.append((module.layer, module.name, part))
    both = ends(task, student)
    rows = []
    for cell in cells:
        alone = torch.zeros(task.size(cell.prompt), len(labels))
        wanted = cell.layer, cell.module, getattr(cell, AXES[split_by]) if split_by else None
        is_cell = [label == wanted for label in labels]
        alone[cell.position, is_cell] = 1
        rows += [GatedRow(cell.prompt, alone), GatedRow(cell.prompt, 1 - alone)]
    values = measure(task, student, rows).reshape(len(cells), 2)
    advance(len(cells))
    prompts = [cell.prompt for cell in cells]
    gained = values[:, 0] - both.base[prompts]
    lost = both.student[prompts] - values[:, 1]
    return (gained + lost) / 2


def _patch_cells(
    blank: Patch, task: Task, student: Student, cells: Sequence[Cell], advance: Advance
) -> np.ndarray:
    """Patches of single activations; those of one prompt and layer go together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault((cell.prompt, cell.layer), []).append(number)
    values = np.empty(len(cells))
    for (prompt, layer), numbers in sorted(groups.items()):
        # every head is patched at every token; the cells are looked up among those
        heads = tuple(dict.fromkeys(cells[number].head for number in numbers))
        tokens = tuple(dict.fromkeys(cells[number].position for number in numbers))
        links = tuple((Link(token, token),) for token in tokens)
        plan = replace(blank, layers=(layer,), heads=heads, cells=links)
        effect = patch_prompt(task, task, student, prompt, plan).effect
        for number in numbers:
            cell = cells[number]
            values[number] = effect[0, heads.index(cell.head), tokens.index(cell.position)]
        advance(len(numbers))
    return values
