"""Attribution: all cells at once, from gradients.

*Graft IG* (`graft_ig`): integrated gradients (Sundararajan et al., arXiv 1703.01365) along the path of grafts from base to student.
With one gate g per layer, module and token, all set to a,

    score(cell) = integral over a from 0 to 1 of dM/dg(cell) at g = a,

so the cells add up to M(student) - M(base) up to the quadrature error (Gauss-Legendre), which is reported as the completeness
gap. The path stays on models between base and student; unlike a zero embedding it has no point where a norm divides by 0.

The other methods estimate activation patching of a site; with d = (donor - recipient) activation at a cell,

- `attribution_patching` (Nanda 2023; Syed et al., arXiv 2310.10348): d . dM/dx at the recipient, one gradient for all cells;
- `activation_ig` (after Hanna et al., arXiv 2403.17806): d . the mean of dM/dx while the layer's whole row goes from recipient to
  donor; within a layer the cells add up to the effect of patching the whole row;
- `gradient_x_input`: x . dM/dx at the token embeddings of the student, minus the same of the base.

Estimates can be far off (attribution patching above all on residual and MLP sites); `confirm` compares them with exact values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..engine.forward import Batch, Gates, make_batch
from ..engine.pair import ModelPair
from ..metrics import Metric, reader
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .task import Task, check_finite, ends, make_scores, prepare

METHODS = ("graft_ig", "attribution_patching", "activation_ig", "gradient_x_input")
Read = Callable[[Tensor], Tensor]


def attribute(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    method: Literal["graft_ig", "attribution_patching", "activation_ig", "gradient_x_input"] = "graft_ig",
    points: int = 8,
    site: str = "resid_pre",
    direction: Literal["denoising", "noising"] = "denoising",
    progress: bool = True,
) -> Scores:
    """Attribute the effect to cells.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        method: `graft_ig`, `attribution_patching`, `activation_ig` or `gradient_x_input` (see the module).
        points: Gauss-Legendre points of `graft_ig` and `activation_ig`.
        site: which activation, for `attribution_patching` and `activation_ig`, as in `patch`.
        direction: as in `patch`, for the same two.
        progress: show a progress bar.

    Returns:
        `graft_ig`: scores of kind `attribution`, `(model, prompt, layer, module, position)`. Modules that no student changes are absent;
        layer -1 holds the embeddings, the layer after the last one the final norm and the unembedding.
        Others: scores of kind `gradient`, `(model, prompt, layer, [head,] position)`, or `(model, prompt, position)` for
        `gradient_x_input`. They estimate what `patch` gives; they do not add up to the total effect.

    Raises:
        ValueError: unknown method, site or direction; fewer than one point.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, points=16, progress=False)
        >>> scores.data["effect"].dims
        ('model', 'prompt', 'layer', 'module', 'position')
        >>> scores.gap < 0.01
        True
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}.")
    if points < 1:
        raise ValueError(f"points={points}: at least one point is needed.")
    if direction not in ("denoising", "noising"):
        raise ValueError(f"direction={direction!r}: pass 'denoising' (student into base) or 'noising' (base into student).")
    task = prepare(pair, prompts, trait)
    if method == "graft_ig":
        return graft_ig(task, points=points, progress=progress)
    if method == "gradient_x_input":
        return _gradient_x_input(task, progress)
    return _activations(task, method, pair.sites.site_name(site), direction, points, progress)


# ------------------------------------------------------------------------------------------------------------ grafts


def graft_ig(task: Task, *, points: int, progress: bool) -> Scores:
    """Graft IG of a prepared task (see `attribute`)."""
    pair, n = task.pair, len(task.prompts)
    changed = [pair.sites.modules[path] for s in pair.students.values() for path in s.deltas]
    layers = sorted({m.layer for m in changed})
    modules = list(dict.fromkeys(m.name for m in sorted(changed, key=lambda m: _rank(m.name))))
    nodes, weights = _quadrature(points)
    sizes = [task.size(i) for i in range(n)]
    cells = np.full((len(pair.students), n, len(layers), len(modules), max(sizes)), np.nan)
    base, top = (np.empty((len(pair.students), n)) for _ in range(2))
    with tqdm(total=len(pair.students) * n * (points + 2), desc="graft IG", disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            base[s], top[s] = ends(task, student, bar=bar)
            where = [pair.sites.modules[path] for path in student.deltas]
            rows, columns = [layers.index(m.layer) for m in where], [modules.index(m.name) for m in where]
            for which, batch, read in _batches(task):
                total = torch.zeros(*batch.ids.shape, len(where), dtype=torch.float64)
                for node, weight in zip(nodes, weights, strict=True):
                    gates = torch.full((*batch.ids.shape, len(where)), float(node), device=batch.ids.device, requires_grad=True)
                    with torch.enable_grad():
                        value = read(pair.run(batch, gates=Gates(student, gates)).logits).sum()
                        (slope,) = torch.autograd.grad(value, gates)
                    total += weight * slope.cpu().double()
                    bar.update(len(which))
                for r, i in enumerate(which):
                    cells[s, i, rows, columns, : sizes[i]] = total[r, : sizes[i]].numpy().T
    return make_scores(
        task,
        "attribution",
        (("prompt", "layer", "module", "position"), _fill(cells)),
        base,
        top,
        coords={"layer": np.array(layers), "module": np.array(modules)},
        options={"method": "graft_ig", "points": points},
    )


def _batches(task: Task) -> list[tuple[list[int], Batch, Read]]:
    """Prompts in batches that leave room for a backward pass, longest first: (indices, batch, reader)."""
    out = []
    for which in task.pair.chunks([task.size(i) for i in range(len(task.prompts))], reads=task.reads, gradient=True):
        answers = [task.answers[i] for i in which]
        batch = make_batch(task.pair.base.model, [task.prompts[i] for i in which], answers)
        out.append((which, batch, reader(task.metric, answers)))
    return out


def _quadrature(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


def _fill(cells: np.ndarray) -> np.ndarray:
    """A module one student changes and another leaves alone has effect 0 in the latter; absent modules stay NaN in all."""
    somewhere = np.isfinite(cells).any(0, keepdims=True)
    return np.where(somewhere & np.isnan(cells), 0.0, cells)


def _rank(name: str) -> int:
    """Modules in the order of the computation."""
    order = ("embed", "pos_embed", "ln1", "attn", "ln1_post", "ln2", "mlp", "ln2_post", "ln_final", "unembed")
    return next((i for i, start in enumerate(order) if name == start or name.startswith(start + ".")), len(order))


# ------------------------------------------------------------------------------------------------------- activations


def _activations(task: Task, method: str, site: str, direction: str, points: int, progress: bool) -> Scores:
    pair, n = task.pair, len(task.prompts)
    layers = range(pair.sites.n_layers)
    heads = (pair.sites.n_heads(site),) if pair.sites.n_heads(site) else ()
    effects = np.full((len(pair.students), n, len(layers), *heads, max(task.size(i) for i in range(n))), np.nan)
    base, top = (np.empty((len(pair.students), n)) for _ in range(2))
    with tqdm(total=len(pair.students) * n * len(layers), desc=method.replace("_", " "), disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            base[s], top[s] = ends(task, student)
            for i in range(n):
                cells = _activations_one(task, student, i, method, site, direction, points, bar)
                check_finite(task, cells.reshape(1, -1), [i])
                effects[s, i, ..., : cells.shape[-1]] = cells
    coords: dict[str, Any] = {
        "layer": np.array(layers),
        "hook": ("layer", np.array([pair.sites.hook_name(site, layer) for layer in layers])),
    }
    if heads:
        coords["head"] = np.arange(*heads)
    dims = ("prompt", "layer", *(("head",) if heads else ()), "position")
    options = {"method": method, "site": site, "direction": direction}
    return make_scores(
        task, "gradient", (dims, effects), base, top, coords=coords,
        options=options | ({"points": points} if method == "activation_ig" else {}),
    )  # fmt: skip


def _activations_one(
    task: Task, student: Student, i: int, method: str, site: str, direction: str, points: int, bar: Any
) -> np.ndarray:
    """One prompt: `(layer, [head,] slot)`."""
    pair, depth = task.pair, task.pair.sites.n_layers
    batch = make_batch(pair.base.model, [task.prompts[i]], [task.answers[i]])
    recipient, donor = (None, Gates(student)) if direction == "denoising" else (Gates(student), None)
    keys = [(site, layer) for layer in range(depth)]
    starts = [("resid_pre", layer) for layer in range(depth)]
    with torch.no_grad():
        given = pair.run(batch, gates=donor, record=keys).activations
        clean = pair.run(batch, gates=recipient, record=[*keys, *starts]).activations
    change = {key: given[key] - clean[key] for key in keys}
    if method == "attribution_patching":
        bar.update(depth)
        slopes = _slopes(task, i, batch, recipient, {key: torch.zeros_like(clean[key]) for key in keys})
    else:
        nodes, weights = (torch.as_tensor(x, dtype=torch.float32, device=batch.ids.device) for x in _quadrature(points))
        fit = pair.rows(slots=batch.sizes[0], reads=batch.reads.shape[1], gradient=True)
        slopes = {}
        for (_, layer), key in zip(starts, keys, strict=True):
            slopes[key] = torch.zeros_like(change[key])
            for a, w in zip(nodes.split(fit), weights.split(fit), strict=True):
                column = a.reshape(-1, *[1] * (change[key].dim() - 1))
                start = layer, clean["resid_pre", layer].expand(len(a), -1, -1)
                found = _slopes(task, i, batch.expand(len(a)), recipient, {key: column * change[key]}, start)[key]
                slopes[key] += torch.tensordot(w, found, 1)[None]
            bar.update()
    cells = torch.stack([(change[key] * slopes[key]).sum(-1)[0] for key in keys])  # (layer, slot, [head])
    towards = 1 if direction == "denoising" else -1
    return towards * cells.movedim(1, -1).cpu().double().numpy()


def _slopes(
    task: Task,
    i: int,
    batch: Batch,
    gates: Gates | None,
    shifts: dict[tuple[str, int], Tensor],
    start: tuple[int, Tensor] | None = None,
) -> dict[tuple[str, int], Tensor]:
    """dM/dx at each key's activation x, in a run in which every x is shifted."""
    leaves = {key: shift.detach().clone().requires_grad_(True) for key, shift in shifts.items()}
    read = reader(task.metric, [task.answers[i]] * len(batch.sizes))
    with torch.enable_grad():
        edits = {key: (lambda x, leaf=leaf: x + leaf) for key, leaf in leaves.items()}
        value = read(task.pair.run(batch, gates=gates, edits=edits, start=start).logits).sum()
        slopes = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


# ---------------------------------------------------------------------------------------------------------- embeddings


def _gradient_x_input(task: Task, progress: bool) -> Scores:
    pair, n = task.pair, len(task.prompts)
    effects = np.full((len(pair.students), n, max(task.size(i) for i in range(n))), np.nan)
    base, top = (np.empty((len(pair.students), n)) for _ in range(2))
    key = ("embed", -1)
    with tqdm(total=2 * len(pair.students) * n, desc="gradient x input", disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            base[s], top[s] = ends(task, student)
            for i in range(n):
                batch = make_batch(pair.base.model, [task.prompts[i]], [task.answers[i]])
                products = []
                for gates in (None, Gates(student)):
                    with torch.no_grad():
                        x = pair.run(batch, gates=gates, record=[key]).activations[key]
                    slope = _slopes(task, i, batch, gates, {key: torch.zeros_like(x)})[key]
                    products.append((x * slope).sum(-1)[0].cpu().double().numpy())
                    bar.update()
                effects[s, i, : task.size(i)] = products[1] - products[0]
    return make_scores(task, "gradient", (("prompt", "position"), effects), base, top, options={"method": "gradient_x_input"})
