"""Attribution: all cells at once, from gradients.

*Graft IG*: integrated gradients (Sundararajan et al., arXiv 1703.01365) along the path of grafts from base to student. With one
gate g per layer, module and token, all set to a,

    score(cell) = integral over a from 0 to 1 of dM/dg(cell) at g = a,

so the cells add up to M(student) - M(base) up to the quadrature error (Gauss-Legendre), which is reported as the completeness
gap. The path stays on models between base and student; unlike a zero embedding it has no point where a norm divides by 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from .chat import Prompt
from .engine import Gates, forward, make_batch
from .measure import ends, make_scores, prepare
from .metrics import Metric, reader
from .models.pair import ModelPair
from .scores import Scores
from .traits import Trait


def attribute(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    method: Literal["graft_ig"] = "graft_ig",
    points: int = 8,
    batch_size: int = 8,
    progress: bool = True,
) -> Scores:
    """Attribute the effect to every layer, module and token.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        method: `graft_ig`.
        points: Gauss-Legendre points.
        batch_size: prompts per forward and backward.
        progress: show a progress bar.

    Returns:
        Scores of kind `attribution`, `(model, prompt, layer, module, position)`. Modules that no student changes are absent; layer -1
        holds the embeddings, the layer after the last one the final norm and the unembedding.

    Raises:
        ValueError: unknown method; fewer than one point.
    """
    if method != "graft_ig":
        raise ValueError(f"method={method!r} is not known; choose 'graft_ig'.")
    if points < 1:
        raise ValueError(f"points={points}: at least one point is needed.")
    task = prepare(pair, prompts, trait)
    changed = [pair.sites.modules[path] for s in pair.students.values() for path in s.deltas]
    layers = sorted({m.layer for m in changed})
    modules = list(dict.fromkeys(m.name for m in sorted(changed, key=lambda m: _rank(m.name))))
    nodes, weights = np.polynomial.legendre.leggauss(points)
    nodes, weights = (nodes + 1) / 2, weights / 2
    model, n = pair.base.model, len(prompts)
    sizes = [task.size(i) for i in range(n)]
    cells = np.full((len(pair.students), n, len(layers), len(modules), max(sizes)), np.nan)
    base, top = (np.empty((len(pair.students), n)) for _ in range(2))
    order = sorted(range(n), key=sizes.__getitem__)
    with tqdm(total=len(pair.students) * n * (points + 2), desc="graft IG", disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            base[s], top[s] = ends(task, student, batch_size=batch_size, bar=bar)
            where = [pair.sites.modules[path] for path in student.deltas]
            rows, columns = [layers.index(m.layer) for m in where], [modules.index(m.name) for m in where]
            for start in range(0, n, batch_size):
                which = order[start : start + batch_size]
                batch = make_batch(model, [task.prompts[i] for i in which], [task.answers[i] for i in which])
                read = reader(task.metric, [task.answers[i] for i in which])
                total = torch.zeros(*batch.ids.shape, len(where), dtype=torch.float64)
                for node, weight in zip(nodes, weights, strict=True):
                    gates = torch.full((*batch.ids.shape, len(where)), float(node), device=batch.ids.device, requires_grad=True)
                    with torch.enable_grad():
                        value = read(forward(model, pair.sites, batch, gates=Gates(student, gates)).logits).sum()
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
        options={"method": method, "points": points},
    )


def _fill(cells: np.ndarray) -> np.ndarray:
    """A module one student changes and another leaves alone has effect 0 in the latter; absent modules stay NaN in all."""
    somewhere = np.isfinite(cells).any(0, keepdims=True)
    return np.where(somewhere & np.isnan(cells), 0.0, cells)


def _rank(name: str) -> int:
    """Modules in the order of the computation."""
    order = ("embed", "pos_embed", "ln1", "attn", "ln1_post", "ln2", "mlp", "ln2_post", "ln_final", "unembed")
    return next((i for i, start in enumerate(order) if name == start or name.startswith(start + ".")), len(order))
