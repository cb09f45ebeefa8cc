"""Graft IG: integrated gradients (Sundararajan et al., arXiv 1703.01365) along the path of grafts
from base to student.

With one gate g per layer, module and token (dynamic weight grafting, arXiv 2506.20746), all set to
a,

    score(cell) = integral over a from 0 to 1 of dM/dg(cell) at g = a,

so the cells add up to M(student) - M(base) up to the quadrature error, which is reported as the
completeness gap. The path stays on models between base and student; unlike a zero embedding it has
no point where a norm divides by 0.

1. Prompts go in batches that leave room for a backward pass.
2. At every node of the quadrature one forward and one backward pass give the slopes of all cells of
   a batch.
3. The nodes are those of so many Gauss-Legendre points, or as many as each student and prompt needs
   (`completing`).
4. A student's modules are placed among those that any student changes. Where the pair is split
   (`pair.split`) each part of a difference has a gate and a cell of its own; the cells of a module,
   added up, are those it has unsplit, at the same nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..models.names import Module, module_order, part_order
from ..models.students import Student
from ..results.scores import Scores
from .completing import AUTO, Points, Reached, Way, asked_of, first_points, floor
from .labelling import label
from .quadrature import gauss_legendre
from .task import Advance, Cells, Ends, GatedRow, Keep, Part, Task, ends, measure, walk

AXES = {"band": "band", "head": "head", "student": "whose"}
"""What a split pair's parts are an axis of; `student` names an array of all scores."""


class Axes(NamedTuple):
    """The layers and modules that any student changes, in the order of the computation.

    Attributes:
        layers, modules: these.
        split_by: what the students are split by; empty where they are not.
        parts: the labels of their parts; none where they are not.
    """

    layers: list[int]
    modules: list[str]
    split_by: str = ""
    parts: tuple[int | str, ...] = ()

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of cells before their tokens."""
        return ("layer", "module", *([AXES[self.split_by]] if self.split_by else []))


def graft_ig(task: Task, *, points: Points, progress: bool, keep: Path | None = None) -> Scores:
    """Graft IG of a prepared task.

    Args:
        task: what is measured.
        points: of the quadrature; `auto` for as many as each student and prompt needs.
        progress: show a progress bar.
        keep: the folder in which finished prompts are stored; None for nowhere.

    Returns:
        Scores of kind `attribution`, `(model, prompt, layer, module, position)`; modules that no
        student changes are absent. Of a split pair with an axis `band`, `head` or `whose` (of
        several students) before the position. With `points="auto"` they have the `points` and
        whether these are `capped`, `(model, prompt)`.
    """
    axes = changed_axes(task)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student, advance=advance)
        if points == AUTO:
            done = _complete(part.task, student, both, advance)
        else:
            done = _integrate(part.task, student, points, advance)
        placed = [_place(part.task, student, axes, one) for one in done.slopes]
        return Cells(placed, both, done.reached)

    steps = [first_points(points) + 2] * len(task.prompts)
    # where a unit's cells stand; those of pairs that are not split are named as before
    placed_on = [axes.layers, axes.modules, *([axes.parts] if axes.split_by else [])]
    kept = Keep(keep, lambda _: [asked_of(points), *placed_on])
    measured = walk(task, cells, title="graft IG", steps=steps, progress=progress, keep=kept)
    measured.effect[:] = _fill(measured.effect)
    return label(
        measured,
        "attribution",
        ["prompt", *axes.dims, "position"],
        coords={
            "layer": np.array(axes.layers),
            "module": np.array(axes.modules),
            # words stand among the numbers: `tail`, `rest`
            **(
                {AXES[axes.split_by]: np.array(list(map(str, axes.parts)))} if axes.split_by else {}
            ),
        },
        method="graft_ig",
        points=points,
    )


def changed_axes(task: Task) -> Axes:
    """Layers and modules of the cells."""
    modules = [
        module for student in task.pair.students.values() for module in _changed(task, student)
    ]
    layers = sorted({module.layer for module in modules})
    names = [module.name for module in sorted(modules, key=lambda m: module_order(m.name))]
    split_by = task.pair.student.split_by
    parts = [
        getattr(name, split_by)
        for student in task.pair.students.values()
        for _, name in (student.cells if split_by else ())
    ]
    return Axes(
        layers,
        list(dict.fromkeys(names)),
        split_by,
        tuple(sorted(dict.fromkeys(parts), key=part_order)),
    )


def _changed(task: Task, student: Student) -> list[Module]:
    """The modules that a student changes, in the order of its gates."""
    return [task.pair.sites.modules[path] for path in student.deltas]


class _Integrals(NamedTuple):
    """What a quadrature gave.

    Attributes:
        slopes: per prompt, the integral of each gate's slope.
        reached: how many points it took (`completing`); empty where they were given.
    """

    slopes: list[Float64[np.ndarray, "cell _slot"]]
    reached: Reached


def _integrate(task: Task, student: Student, points: int, advance: Advance) -> _Integrals:
    """By so many Gauss-Legendre points."""
    quadrature = gauss_legendre(points)
    sizes = task.sizes()
    integrals: list[np.ndarray] = [np.empty(0)] * len(sizes)
    for prompts in _chunks(task, range(len(sizes))):
        total = torch.zeros((), dtype=torch.float64)
        for node, weight in zip(*quadrature, strict=True):
            slopes = _slopes(task, student, prompts, [float(node)] * len(prompts))
            total = total + weight * slopes
            advance(len(prompts))
        for row, i in enumerate(prompts):
            integrals[i] = total[row, : sizes[i]].numpy().T
    return _Integrals(integrals, {})


def _complete(task: Task, student: Student, both: Ends, advance: Advance) -> _Integrals:
    """By as many points as each prompt needs."""
    sizes = task.sizes()
    integrals: list[np.ndarray] = [np.empty(0)] * len(sizes)
    points, capped = np.zeros(len(sizes)), np.zeros(len(sizes))
    for prompts in _chunks(task, range(len(sizes))):
        ways = {i: _way(task, both, i) for i in prompts}
        # all prompts have the same first nodes: one forward for each of them
        asked = [ways[i].asked() for i in prompts]
        for of_node in zip(*asked, strict=True):
            slopes = _slopes(task, student, prompts, [one.node for one in of_node])
            for row, (i, one) in enumerate(zip(prompts, of_node, strict=True)):
                one.take(slopes[row, : sizes[i]])
            advance(len(prompts))
        _refine(task, student, ways, advance)
        for i, way in ways.items():
            integrals[i] = way.integral.numpy().T
            points[i], capped[i] = way.points, way.capped
    return _Integrals(integrals, {"points": points, "capped": capped})


def _way(task: Task, both: Ends, prompt: int) -> Way:
    start, end = float(both.base[prompt]), float(both.student[prompt])
    least = floor(task.pair, start, end)
    return Way(end - start, start, least=least, total=lambda slopes: float(slopes.sum()))


def _refine(task: Task, student: Student, ways: Mapping[int, Way], advance: Advance) -> None:
    """Go on until every prompt's cells add up."""
    while True:
        for way in ways.values():
            if not way.done:
                way.settle()
        unfinished = {i: way for i, way in ways.items() if not way.done}
        if not unfinished:
            return
        halved = {i: way.middle for i, way in unfinished.items() if way.middle is not None}
        rows = [GatedRow(i, torch.full((task.size(i),), middle)) for i, middle in halved.items()]
        values = measure(task, student, rows) if rows else ()
        for i, value in zip(halved, values, strict=True):
            unfinished[i].split(float(value))
        wanted = [(i, one) for i, way in unfinished.items() for one in way.asked()]
        for chunk in _chunks(task, [i for i, _ in wanted]):
            some = [wanted[number] for number in chunk]
            prompts = [i for i, _ in some]
            slopes = _slopes(task, student, prompts, [one.node for _, one in some])
            for row, (i, one) in enumerate(some):
                one.take(slopes[row, : task.size(i)])
            advance(len(some))


def _chunks(task: Task, prompts: Sequence[int]) -> Iterator[list[int]]:
    """Cut rows, each of a prompt, into forwards that leave room for a backward pass."""
    computed = [task.computed(i) for i in prompts]
    return task.pair.chunks(computed, reads=task.reads, gradient=True)


def _slopes(
    task: Task, student: Student, prompts: Sequence[int], nodes: Sequence[float]
) -> Float64[Tensor, "row slot cell"]:
    """The slope of every gate at one node per row, each row a prompt."""
    batch = task.batch(prompts)
    if not student.width:  # it is its base, and no gate of it does anything
        return torch.zeros(*batch.ids.shape, 0, dtype=torch.float64)
    column = torch.tensor(nodes, device=batch.ids.device).reshape(-1, 1, 1)
    gates = column.repeat(1, batch.ids.shape[1], student.width).requires_grad_(True)
    with torch.enable_grad():
        within = task.gates(student, prompts, gates)
        logits = task.pair.run(batch, gates=within).logits
        value = task.value(prompts, logits).sum()
        # never backward(): it would fill the gradients of the caller's parameters
        (slope,) = torch.autograd.grad(value, gates)
    return slope.cpu().double()


def _place(
    task: Task, student: Student, axes: Axes, values: Float64[np.ndarray, "cell slot"]
) -> Float64[np.ndarray, "layer name *part slot"]:
    """A student's cells by layer and name, and part where it is split; NaN where it changes
    nothing.
    """
    changed = [task.pair.sites.modules[path] for path, _ in student.cells]
    rows: Sequence[int] = [axes.layers.index(module.layer) for module in changed]
    columns: Sequence[int] = [axes.modules.index(module.name) for module in changed]
    shape = len(axes.layers), len(axes.modules)
    if not axes.split_by:
        cells = np.full((*shape, values.shape[1]), np.nan)
        cells[rows, columns] = values
        return cells
    cells = np.full((*shape, len(axes.parts), values.shape[1]), np.nan)
    parts = [axes.parts.index(getattr(name, axes.split_by)) for _, name in student.cells]
    cells[rows, columns, parts] = values
    return cells


def _fill(effect: np.ndarray) -> np.ndarray:
    """A module one student changes and another leaves alone has effect 0 in the latter; absent
    modules stay NaN in all.
    """
    somewhere = np.isfinite(effect).any(0, keepdims=True)
    return np.where(somewhere & np.isnan(effect), 0.0, effect)
