"""Estimates of activation patching from gradients, all cells of a site at once.

With d = (donor - recipient) activation at a cell,

- `attribution_patching` (Nanda 2023; Syed et al., arXiv 2310.10348): d . dM/dx at the recipient,
  one gradient for all cells;
- `activation_ig` (after Hanna et al., arXiv 2403.17806): d . the mean of dM/dx while the layer's
  whole row goes from recipient to donor; within a layer the cells add up to the effect of patching
  the whole row;
- `gradient_x_input`: x . dM/dx at the token embeddings of the student, minus the same of the base.

They can be far off (attribution patching above all on residual and MLP sites); `confirm` compares
them with exact values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Batch
from ..engine.forward import EMBED, Edit, Gates, Key, Start
from ..engine.plain import PartedBatch
from ..models.students import Student
from ..results.scores import Scores
from .labelling import label
from .quadrature import gauss_legendre
from .task import Advance, Cells, Keep, Part, Task, ends, walk


@dataclass(frozen=True)
class Estimate:
    """Which estimate, of what.

    Attributes:
        method: `attribution_patching` or `activation_ig`.
        site: which activation.
        direction: `denoising` or `noising`.
        points: of the quadrature of `activation_ig`.
        layers: of which blocks; None for all.
    """

    method: str
    site: str
    direction: str
    points: int
    layers: tuple[int, ...] | None = None


def estimate_patching(
    task: Task,
    asked: Estimate,
    *,
    notes: Sequence[str] = (),
    progress: bool,
    keep: Path | None = None,
) -> Scores:
    """An estimate of patching every layer (x head) x token of a site.

    Args:
        task: what is measured.
        asked: which estimate.
        notes: what to know of the scores.
        progress: show a progress bar.
        keep: the folder in which finished prompts are stored; None for nowhere.

    Returns:
        Scores of kind `gradient`, `(model, prompt, layer, [head,] position)`.
    """
    sites = task.pair.sites
    layers = asked.layers or range(sites.n_layers)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student)
        effects = []
        for i in range(len(part.task.prompts)):
            effects.append(_estimate_prompt(part.task, student, i, asked, advance))
            part.task.check_finite(effects[-1].reshape(1, -1), [i])
        return Cells(effects, both)

    title = asked.method.replace("_", " ")
    steps = [len(layers)] * len(task.prompts)
    kept = Keep(keep, lambda _: asked)
    measured = walk(task, cells, title=title, steps=steps, progress=progress, keep=kept)

    hooks = np.array([sites.hook_name(asked.site, layer) for layer in layers])
    coords: dict[str, Any] = {"layer": np.array(layers), "hook": ("layer", hooks)}
    dims = ["prompt", "layer", "position"]
    n_heads = sites.n_heads(asked.site)
    if n_heads:
        coords["head"] = np.arange(n_heads)
        dims.insert(2, "head")
    points = {"points": asked.points} if asked.method == "activation_ig" else {}
    return label(
        measured,
        "gradient",
        dims,
        coords=coords,
        notes=notes,
        method=asked.method,
        site=asked.site,
        direction=asked.direction,
        **points,
    )


def _estimate_prompt(
    task: Task, student: Student, prompt: int, asked: Estimate, advance: Advance
) -> np.ndarray:
    """One prompt: `(layer, [head,] slot)`."""
    pair = task.pair
    batch = task.batch([prompt])
    task.pair.rows(slots=batch.sizes[0], reads=batch.reads.shape[1], gradient=True)  # it fits
    denoising = asked.direction == "denoising"
    recipient, donor = (None, Gates(student)) if denoising else (Gates(student), None)

    # activations of both, and the residual streams that runs of the recipient start from
    layers = asked.layers or range(pair.sites.n_layers)
    keys: list[Key] = [(asked.site, layer) for layer in layers]
    streams: list[Key] = [("resid_pre", layer) for layer in layers]
    with torch.no_grad():
        given = pair.run(batch, gates=donor, record=keys).activations
        clean = pair.run(batch, gates=recipient, record=[*keys, *streams]).activations
    change = {key: given[key] - clean[key] for key in keys}

    if asked.method == "attribution_patching":
        nothing = {key: torch.zeros_like(clean[key]) for key in keys}
        slopes = _slopes(task, prompt, batch, recipient, shifts=nothing)
        advance(len(keys))
    else:
        slopes = {}
        for key, stream in zip(keys, streams, strict=True):
            # a batch in parts is whole forwards
            parted = isinstance(batch, PartedBatch)
            start = None if parted else Start(key[1], clean[stream])
            slopes[key] = _mean_slope(
                task,
                prompt,
                batch,
                recipient,
                key=key,
                change=change[key],
                start=start,
                points=asked.points,
            )
            advance(1)

    products = [(change[key] * slopes[key]).sum(-1)[0].cpu() for key in keys]
    cells = torch.stack(products).movedim(1, -1).double().numpy()  # (layer, [head], slot)
    return cells if denoising else -cells


def _mean_slope(
    task: Task,
    prompt: int,
    batch: Batch,
    recipient: Gates | None,
    *,
    key: Key,
    change: Tensor,
    start: Start | None,
    points: int,
) -> Tensor:
    """Mean of dM/dx at one layer's activation while it goes from recipient to donor; points are
    rows of a forward.
    """
    # half precision would round the nodes, and points close to 0 and 1 carry much of the integral
    dtype = torch.promote_types(change.dtype, torch.float32)
    nodes, weights = (
        torch.as_tensor(numbers, dtype=dtype, device=batch.ids.device)
        for numbers in gauss_legendre(points)
    )
    computed = task.computed(prompt)
    fit = task.pair.rows(slots=computed, reads=batch.reads.shape[1], gradient=True)
    mean = torch.zeros_like(change)
    for some, some_weights in zip(nodes.split(fit), weights.split(fit), strict=True):
        rows = len(some)
        column = some.reshape(-1, *[1] * (change.dim() - 1))
        starts = start and Start(start.layer, start.hidden.expand(rows, -1, -1))
        slopes = _slopes(
            task, prompt, batch.expand(rows), recipient, shifts={key: column * change}, start=starts
        )
        mean += torch.tensordot(some_weights, slopes[key], 1)[None]
    return mean


def _slopes(
    task: Task,
    prompt: int,
    batch: Batch,
    gates: Gates | None,
    *,
    shifts: Mapping[Key, Tensor],
    start: Start | None = None,
) -> dict[Key, Tensor]:
    """dM/dx at each key's activation x, in a run in which every x is shifted."""
    leaves = {key: shift.detach().clone().requires_grad_(True) for key, shift in shifts.items()}
    edits: dict[Key, Edit] = {key: _shift(leaf) for key, leaf in leaves.items()}
    with torch.enable_grad():
        logits = task.pair.run(batch, gates=gates, edits=edits, start=start).logits
        value = task.value([prompt] * len(batch.sizes), logits).sum()
        slopes = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


def _shift(leaf: Tensor) -> Edit:
    return lambda hidden: hidden + leaf


# --------------------------------------------------------------------------------------- embeddings


def gradient_x_input(task: Task, *, progress: bool, keep: Path | None = None) -> Scores:
    """Gradient times input at the token embeddings, the student's minus the base's.

    Returns:
        Scores of kind `gradient`, `(model, prompt, position)`.
    """

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        some = part.task
        both = ends(some, student)
        effects = []
        for i in range(len(some.prompts)):
            batch = some.batch([i])
            some.pair.rows(slots=batch.sizes[0], reads=batch.reads.shape[1], gradient=True)  # fits
            of_base = _embedding_products(some, i, batch, None)
            of_student = _embedding_products(some, i, batch, Gates(student))
            effects.append(of_student - of_base)
            advance(2)
        return Cells(effects, both)

    steps = [2] * len(task.prompts)
    kept = Keep(keep, lambda _: ())
    title = "gradient x input"
    measured = walk(task, cells, title=title, steps=steps, progress=progress, keep=kept)
    return label(measured, "gradient", ["prompt", "position"], method="gradient_x_input")


def _embedding_products(task: Task, prompt: int, batch: Batch, gates: Gates | None) -> np.ndarray:
    """Activation times slope per token, `(slot,)`."""
    with torch.no_grad():
        embedded = task.pair.run(batch, gates=gates, record=[EMBED]).activations[EMBED]
    nothing = {EMBED: torch.zeros_like(embedded)}
    slope = _slopes(task, prompt, batch, gates, shifts=nothing)[EMBED]
    return (embedded * slope).sum(-1)[0].cpu().double().numpy()
