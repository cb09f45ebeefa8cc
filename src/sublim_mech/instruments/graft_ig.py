"""Graft IG: integrated gradients (Sundararajan et al., arXiv 1703.01365) along the path of grafts
from base to student.

With one gate g per layer, module and token (dynamic weight grafting, arXiv 2506.20746), all set to
a,

    score(cell) = integral over a from 0 to 1 of dM/dg(cell) at g = a,

so the cells add up to M(student) - M(base) up to the quadrature error (Gauss-Legendre), which is
reported as the completeness gap. The path stays on models between base and student; unlike a zero
embedding it has no point where a norm divides by 0.

1. Prompts go in batches that leave room for a backward pass.
2. At every node of the quadrature one forward and one backward pass give the slopes of all cells of
   a batch.
3. A student's modules are placed among those that any student changes. Where the pair is split
   (`pair.split`) each part of a difference has a gate and a cell of its own; the cells of a module,
   added up, are those it has unsplit, at the same nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from ..engine.forward import Gates
from ..models.names import Module, module_order, part_order
from ..models.students import Student
from ..results.scores import Scores
from .labelling import label
from .quadrature import Quadrature, gauss_legendre
from .task import Advance, Cells, Keep, Part, Task, ends, walk

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


def graft_ig(task: Task, *, points: int, progress: bool, keep: Path | None = None) -> Scores:
    """Graft IG of a prepared task.

    Args:
        task: what is measured.
        points: of the quadrature.
        progress: show a progress bar.
        keep: the folder in which finished prompts are stored; None for nowhere.

    Returns:
        Scores of kind `attribution`, `(model, prompt, layer, module, position)`; modules that no
        student changes are absent. Of a split pair with an axis `band`, `head` or `whose` (of
        several students) before the position.
    """
    axes = changed_axes(task)
    quadrature = gauss_legendre(points)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student, advance=advance)
        slopes = _integrate(part.task, student, quadrature, advance)
        return Cells([_place(part.task, student, axes, one) for one in slopes], both)

    steps = [points + 2] * len(task.prompts)
    kept = Keep(keep, lambda _: [points, axes.layers, axes.modules])
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


def _integrate(
    task: Task, student: Student, quadrature: Quadrature, advance: Advance
) -> list[Float64[np.ndarray, "cell _slot"]]:
    """Per prompt, the integral of each gate's slope."""
    sizes = task.sizes()
    modules = student.width
    integrals: list[np.ndarray] = [np.empty(0)] * len(sizes)
    computed = [task.computed(i) for i in range(len(sizes))]
    for prompts in task.pair.chunks(computed, reads=task.reads, gradient=True):
        batch = task.batch(prompts)
        shape = (*batch.ids.shape, modules)
        total = torch.zeros(shape, dtype=torch.float64)
        for node, weight in zip(*quadrature, strict=True):
            gates = torch.full(shape, float(node), device=batch.ids.device, requires_grad=True)
            with torch.enable_grad():
                logits = task.pair.run(batch, gates=Gates(student, gates)).logits
                value = task.value(prompts, logits).sum()
                # never backward(): it would fill the gradients of the caller's parameters
                (slope,) = torch.autograd.grad(value, gates)
            total += weight * slope.cpu().double()
            advance(len(prompts))
        for row, i in enumerate(prompts):
            integrals[i] = total[row, : sizes[i]].numpy().T
    return integrals


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
