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
3. A student's modules are placed among those that any student changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from ..engine.forward import Gates
from ..models.names import Module, module_order
from ..models.students import Student
from ..results.scores import Scores
from .labelling import label
from .quadrature import Quadrature, gauss_legendre
from .task import Advance, Cells, Keep, Part, Task, ends, walk


class Axes(NamedTuple):
    """The layers and modules that any student changes, in the order of the computation."""

    layers: list[int]
    modules: list[str]


def graft_ig(task: Task, *, points: int, progress: bool, keep: Path | None = None) -> Scores:
    """Graft IG of a prepared task.

    Args:
        task: what is measured.
        points: of the quadrature.
        progress: show a progress bar.
        keep: the folder in which finished prompts are stored; None for nowhere.

    Returns:
        Scores of kind `attribution`, `(model, prompt, layer, module, position)`; modules that no
        student changes are absent.
    """
    axes = changed_axes(task)
    quadrature = gauss_legendre(points)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student, advance=advance)
        slopes = _integrate(part.task, student, quadrature, advance)
        return Cells([_place(part.task, student, axes, one) for one in slopes], both)

    steps = [points + 2] * len(task.prompts)
    kept = Keep(keep, lambda _: [points, *axes])
    measured = walk(task, cells, title="graft IG", steps=steps, progress=progress, keep=kept)
    measured.effect[:] = _fill(measured.effect)
    return label(
        measured,
        "attribution",
        ["prompt", "layer", "module", "position"],
        coords={"layer": np.array(axes.layers), "module": np.array(axes.modules)},
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
    return Axes(layers, list(dict.fromkeys(names)))


def _changed(task: Task, student: Student) -> list[Module]:
    """The modules that a student changes, in the order of its gates."""
    return [task.pair.sites.modules[path] for path in student.deltas]


def _integrate(
    task: Task, student: Student, quadrature: Quadrature, advance: Advance
) -> list[Float64[np.ndarray, "module _slot"]]:
    """Per prompt, the integral of each gate's slope."""
    sizes = task.sizes()
    modules = len(student.deltas)
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
    task: Task, student: Student, axes: Axes, values: Float64[np.ndarray, "module slot"]
) -> Float64[np.ndarray, "layer name slot"]:
    """A student's modules by layer and name; NaN where it changes nothing."""
    changed = _changed(task, student)
    cells = np.full((len(axes.layers), len(axes.modules), values.shape[1]), np.nan)
    rows: Sequence[int] = [axes.layers.index(module.layer) for module in changed]
    columns: Sequence[int] = [axes.modules.index(module.name) for module in changed]
    cells[rows, columns] = values
    return cells


def _fill(effect: np.ndarray) -> np.ndarray:
    """A module one student changes and another leaves alone has effect 0 in the latter; absent
    modules stay NaN in all.
    """
    somewhere = np.isfinite(effect).any(0, keepdims=True)
    return np.where(somewhere & np.isnan(effect), 0.0, effect)
