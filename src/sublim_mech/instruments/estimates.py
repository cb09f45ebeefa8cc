"""Estimates of activation patching from gradients, all cells of a site at once.

With d = (donor - recipient) activation at a cell,

- `attribution_patching` (Nanda 2023; Syed et al., arXiv 2310.10348): d . dM/dx at the recipient,
  one gradient for all cells;
- `activation_ig` (after Hanna et al., arXiv 2403.17806): d . the mean of dM/dx while the layer's
  whole row goes from recipient to donor; within a layer the cells add up to the effect of patching
  the whole row. Its nodes are those of so many Gauss-Legendre points, or as many as each layer of
  each prompt needs (`completing`);
- `gradient_x_input`: x . dM/dx at the token embeddings of the student, minus the same of the base.

They can be far off (attribution patching above all on residual and MLP sites); `confirm` compares
them with exact values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Batch
from ..engine.forward import EMBED, Edit, Gates, Key, Start
from ..engine.plain import PartedBatch
from ..models.students import Student
from ..results.scores import Scores
from .completing import AUTO, Points, Way, asked_of, floor
from .labelling import label
from .quadrature import Quadrature, gauss_legendre
from .task import Advance, Cells, Keep, Part, Task, ends, walk


@dataclass(frozen=True)
class Estimate:
    """Which estimate, of what.

    Attributes:
        method: `attribution_patching` or `activation_ig`.
        site: which activation.
        direction: `denoising` or `noising`.
        points: of the quadrature of `activation_ig`; `auto` for as many as it takes.
        layers: of which blocks; None for all.
    """

    method: str
    site: str
    direction: str
    points: Points
    layers: tuple[int, ...] | None = None

    @property
    def completed(self) -> bool:
        """Whether points are added until a layer's cells add up."""
        return self.method == "activation_ig" and self.points == AUTO


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
        Scores of kind `gradient`, `(model, prompt, layer, [head,] position)`. With `points="auto"`
        they have, `(model, prompt, layer)`, the `points`, whether these are `capped`, the effect of
        patching the layer's `row`, and what its cells lack of it, `missing_of_row`.
    """
    sites = task.pair.sites
    layers = asked.layers or range(sites.n_layers)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student)
        effects, told = [], []
        for i in range(len(part.task.prompts)):
            done = _estimate_prompt(part.task, student, i, asked, advance)
            part.task.check_finite(done.cells.reshape(1, -1), [i])
            effects.append(done.cells)
            told.append(done.layers)
        of_all = {name: np.stack([one[name] for one in told]) for name in told[0]}
        return Cells(effects, both, of_all)

    title = asked.method.replace("_", " ")
    steps = [len(layers)] * len(task.prompts)
    kept = Keep(keep, lambda _: asked if not asked.completed else [asked, asked_of(AUTO)])
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


class _OfPrompt(NamedTuple):
    """One prompt's estimates.

    Attributes:
        cells: `(layer, [head,] slot)`.
        layers: what is told of the integrals of its layers, `(layer,)` by name.
    """

    cells: np.ndarray
    layers: Mapping[str, np.ndarray]


def _estimate_prompt(
    task: Task, student: Student, prompt: int, asked: Estimate, advance: Advance
) -> _OfPrompt:
    """The estimates of one prompt."""
    pair = task.pair
    batch = task.batch([prompt])
    task.pair.rows(slots=batch.sizes[0], reads=batch.reads.shape[1], gradient=True)  # it fits
    denoising = asked.direction == "denoising"
    whole = task.gates(student, [prompt])
    recipient, donor = (None, whole) if denoising else (whole, None)

    # activations of both, and the residual streams that runs of the recipient start from
    layers = asked.layers or range(pair.sites.n_layers)
    keys: list[Key] = [(asked.site, layer) for layer in layers]
    streams: list[Key] = [("resid_pre", layer) for layer in layers]
    with torch.no_grad():
        given = pair.run(batch, gates=donor, record=keys).activations
        clean = pair.run(batch, gates=recipient, record=[*keys, *streams]).activations
    change = {key: given[key] - clean[key] for key in keys}

    told: list[dict[str, float]] = []
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
            line = _Line(task, prompt, batch, recipient, key=key, change=change[key], start=start)
            if asked.points == AUTO:
                slopes[key], numbers = line.completed()
                told.append(numbers)
            else:
                slopes[key] = line.mean_slope(gauss_legendre(asked.points))
            advance(1)

    products = [(change[key] * slopes[key]).sum(-1)[0].cpu() for key in keys]
    cells = torch.stack(products).movedim(1, -1).double().numpy()  # (layer, [head], slot)
    sign = 1 if denoising else -1
    signs = {"row": sign, "missing_of_row": sign}  # effects, as cells are
    names = told[0] if told else ()
    layered = {name: signs.get(name, 1) * np.array([one[name] for one in told]) for name in names}
    return _OfPrompt(sign * cells, layered)


@dataclass(frozen=True, eq=False)
class _Line:
    """The way of one layer's activation from recipient to donor; its points are rows of a forward.

    Attributes:
        task: what is measured.
        prompt: on which prompt.
        batch: that prompt as one row.
        recipient: gates of the run that is patched.
        key: the activation.
        change: donor minus recipient, `(1, slot, ...)`.
        start: where the runs begin.
    """

    task: Task
    prompt: int
    batch: Batch
    recipient: Gates | None
    key: Key
    change: Tensor
    start: Start | None

    @property
    def dtype(self) -> torch.dtype:
        """Of nodes and sums: half precision would round the nodes, and points close to 0 and 1
        carry much of the integral.
        """
        return torch.promote_types(self.change.dtype, torch.float32)

    @property
    def fit(self) -> int:
        """Points of one forward with gradients."""
        slots, reads = self.task.computed(self.prompt), self.batch.reads.shape[1]
        return self.task.pair.rows(slots=slots, reads=reads, gradient=True)

    def mean_slope(self, quadrature: Quadrature) -> Tensor:
        """Mean of dM/dx by a rule."""
        nodes, weights = (self._numbers(numbers) for numbers in quadrature)
        mean = torch.zeros_like(self.change, dtype=self.dtype)
        for some, its in zip(nodes.split(self.fit), weights.split(self.fit), strict=True):
            mean += torch.tensordot(its, self._slopes(some), 1)[None]
        return mean.to(self.change.dtype)

    def completed(self) -> tuple[Tensor, dict[str, float]]:
        """Mean of dM/dx by as many points as it takes, and what is told of it."""
        start, end = self._values([0.0, 1.0])
        change = self.change.to(self.dtype)
        way = Way(
            end - start,
            start,
            least=floor(self.task.pair, start, end),
            total=lambda slopes: float((change[0] * slopes).sum()),
        )
        while not way.done:
            if way.middle is not None:
                way.split(*self._values([way.middle]))
            asked = way.asked()
            for first in range(0, len(asked), self.fit):
                some = asked[first : first + self.fit]
                slopes = self._slopes(self._numbers([one.node for one in some])).to(self.dtype)
                for one, slope in zip(some, slopes, strict=True):
                    one.take(slope)
            way.settle()
        mean = way.integral
        missing = end - start - float((change[0] * mean).sum())
        told = {
            "points": way.points,
            "capped": way.capped,
            "row": end - start,
            "missing_of_row": missing,
        }
        return mean[None].to(self.change.dtype), {name: float(x) for name, x in told.items()}

    def _numbers(self, numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, dtype=self.dtype, device=self.batch.ids.device)

    def _shift(self, nodes: Tensor) -> Tensor:
        return nodes.reshape(-1, *[1] * (self.change.dim() - 1)) * self.change

    def _start(self, rows: int) -> Start | None:
        return self.start and Start(self.start.layer, self.start.hidden.expand(rows, -1, -1))

    def _slopes(self, nodes: Tensor) -> Tensor:
        """dM/dx at each node, `(node, slot, ...)`."""
        rows = len(nodes)
        slopes = _slopes(
            self.task,
            self.prompt,
            self.batch.expand(rows),
            self.recipient and self.recipient.expand(rows),
            shifts={self.key: self._shift(nodes)},
            start=self._start(rows),
        )
        return slopes[self.key]

    @torch.no_grad()
    def _values(self, nodes: Sequence[float]) -> list[float]:
        """The metric at each node."""
        rows = len(nodes)
        edits: dict[Key, Edit] = {self.key: _shift(self._shift(self._numbers(nodes)))}
        batch, start = self.batch.expand(rows), self._start(rows)
        gates = self.recipient and self.recipient.expand(rows)
        done = self.task.pair.run(batch, gates=gates, edits=edits, start=start)
        return self.task.numbers([self.prompt] * rows, done.logits).tolist()


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
    # in the activation's own type: what is added may be of a wider one
    return lambda hidden: (hidden + leaf).to(hidden.dtype)


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
            of_student = _embedding_products(some, i, batch, some.gates(student, [i]))
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
