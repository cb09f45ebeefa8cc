"""Activation patching between base and student (exact): which activation, at which layer and token, carries the effect.

The donor's activation at one site, layer and token replaces the recipient's, on the same prompt (Zhang & Nanda, arXiv
2309.16042; between models: CMAP, Prakash et al., arXiv 2402.14811). *Denoising* puts the student's into the base, *noising* the
base's into the student. Stored is the metric's change towards the donor; over the total effect 0 is the recipient, 1 the donor.

One prompt's tokens are the rows of a batch, each patched at its own token; the blocks before the patch are skipped, because
there the run is the recipient's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .chat import Prompt
from .engine import Gates, forward, make_batch
from .measure import Task, make_scores, prepare
from .metrics import Metric, reader
from .models.pair import ModelPair
from .models.students import Student
from .scores import Scores
from .traits import Trait


def patch(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    site: str = "resid_pre",
    direction: Literal["denoising", "noising"] = "denoising",
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Scores:
    """Patch every layer x token of a site, one cell at a time.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts, of any lengths.
        trait: a trait or a metric.
        site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out` or `mlp_out` (TransformerLens' `blocks.{layer}.hook_<site>`).
        direction: `denoising` (student into base) or `noising` (base into student).
        layers: which layers; all when not given.
        batch_size: cells per forward.
        progress: show a progress bar.

    Returns:
        Scores of kind `patch`, `(model, prompt, layer, position)`, the metric's change towards the donor; the answer trie's nodes
        follow the prompt's tokens.

    Raises:
        ValueError: unknown site or direction; a layer out of range.
    """
    task = prepare(pair, prompts, trait)
    pair.sites.site(site)
    if direction not in ("denoising", "noising"):
        raise ValueError(f"direction={direction!r}: pass 'denoising' (student into base) or 'noising' (base into student).")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one cell per forward is needed.")
    depth = pair.sites.n_layers
    chosen = list(range(depth)) if layers is None else list(layers)
    if not chosen or any(not 0 <= layer < depth for layer in chosen):
        raise ValueError(f"layers={chosen}: give layers between 0 and {depth - 1}, at least one.")
    width = max(task.size(i) for i in range(len(prompts)))
    shape = len(pair.students), len(prompts)
    effects = np.full((*shape, len(chosen), width), np.nan)
    base, top = np.empty(shape), np.empty(shape)
    cells = sum(task.size(i) for i in range(len(prompts))) * len(chosen) * shape[0]
    with tqdm(total=cells, desc=f"patch {site}", disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            for i in range(len(prompts)):
                grid, (base[s, i], top[s, i]) = _patch_one(task, student, i, site, direction, chosen, batch_size, bar)
                effects[s, i, :, : grid.shape[1]] = grid
    hooks = np.array([pair.sites.hook_name(site, layer) for layer in chosen])
    return make_scores(
        task, "patch", (("prompt", "layer", "position"), effects), base, top,
        coords={"layer": np.array(chosen), "hook": ("layer", hooks)}, options={"site": site, "direction": direction},
    )  # fmt: skip


@torch.no_grad()
def _patch_one(
    task: Task, student: Student, i: int, site: str, direction: str, layers: list[int], batch_size: int, bar: Any
) -> tuple[np.ndarray, tuple[float, float]]:
    """One prompt's grid `(layer, position)`, and the metric of base and student."""
    model, sites = task.pair.base.model, task.pair.sites
    batch = make_batch(model, [task.prompts[i]], [task.answers[i]])
    size = batch.sizes[0]
    recipient, donor = (None, Gates(student)) if direction == "denoising" else (Gates(student), None)
    given = forward(model, sites, batch, gates=donor, record=[(site, layer) for layer in layers])
    clean = forward(model, sites, batch, gates=recipient, record=[("resid_pre", layer) for layer in layers])
    value = {n: reader(task.metric, [task.answers[i]] * n) for n in {1, size % batch_size, min(size, batch_size)} if n}
    ends = float(value[1](clean.logits)), float(value[1](given.logits))
    grid = np.empty((len(layers), size))
    for n, layer in enumerate(layers):
        for first in range(0, size, batch_size):
            tokens = torch.arange(first, min(first + batch_size, size), device=batch.ids.device)
            rows = len(tokens)
            patched = forward(
                model, sites, batch.expand(rows), gates=recipient,
                edits={(site, layer): _put(given.activations[site, layer][0], tokens)},
                start=(layer, clean.activations["resid_pre", layer].expand(rows, -1, -1)),
            )  # fmt: skip
            grid[n, first : first + rows] = value[rows](patched.logits).cpu().double().numpy()
            bar.update(rows)
    towards = 1 if direction == "denoising" else -1
    return towards * (grid - ends[0]), ends if direction == "denoising" else (ends[1], ends[0])


def _put(donor: Tensor, tokens: Tensor) -> Any:
    """Row r takes the donor's `(slot, d_model)` activation at its own token."""

    def edit(x: Tensor) -> Tensor:
        x = x.clone()
        x[torch.arange(len(tokens), device=x.device), tokens] = donor[tokens].to(x.dtype)
        return x

    return edit
