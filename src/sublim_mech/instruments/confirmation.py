"""Confirming estimates: exact values for the strongest cells and as many random ones.

Gradients screen all cells at once; whether they say what an intervention would is not known beforehand (on GPT-2-small attribution
patching of MLP outputs correlates 0.2 with patching). So the exact instrument runs on a sample, and the agreement goes with the scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..engine.pair import ModelPair
from ..metrics import Metric
from ..models.students import Student
from ..prompts.chat import Prompt
from ..prompts.traits import Trait
from ..results.record import Confirmation
from ..results.scores import Scores
from .patching import Plan, patch_one
from .task import Row, Task, ends, measure, prepare

POOR_BELOW = 0.8  # Pearson or share of equal signs below which the agreement is called poor


def confirm(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    scores: Scores,
    *,
    k: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """Compare attributions with exact values on the k strongest cells and k random others.

    The exact value of a `graft_ig` cell (a module at a token) is the mean of what the cell does alone, M(on only there) - M(base), and
    of what is lost without it, M(student) - M(off only there): the two ends of the path that IG averages over. The exact value of a
    cell of `attribution_patching` and `activation_ig` is `patch` at that cell. With controls, estimates and exact values are of the
    headline (student minus the mean of the controls).

    Args:
        pair: what the scores were made from.
        prompts: the same.
        trait: the same.
        scores: what `attribute` gave.
        k: how many of each.
        seed: of the random cells; cells whose estimate is exactly 0 are left out.
        progress: show a progress bar.

    Returns:
        The same scores with the comparison in their record: they print Pearson, Spearman and the share of equal signs,
        `scores.confirmation` is a table of the cells, and figures carry a warning where agreement is poor (Pearson or sign agreement
        below 0.8), which is also raised as a `UserWarning`.

    Raises:
        ValueError: no exact counterpart (`gradient_x_input`, exact scores); scores of other prompts, another metric or other models;
            k below 2 or above half the cells.

    Example:
        >>> scores = sm.attribute(pair, prompts, trait, method="activation_ig", points=4, progress=False)
        >>> scores = sm.confirm(pair, prompts, trait, scores, k=3, progress=False)
        >>> len(scores.confirmation)
        6
    """
    method = scores.record.method
    if method not in ("graft_ig", "attribution_patching", "activation_ig"):
        why = f"{method} has no exact counterpart" if method else f"{scores.kind} scores are exact already"
        raise ValueError(f"scores: {why}; confirm takes graft_ig, attribution_patching or activation_ig.")
    if scores.selected or scores.record.minus:
        raise ValueError("scores are a selection or a contrast; confirm the scores as attribute gave them, then select.")
    task = prepare(pair, prompts, trait)
    _check_same(task, scores)
    effect = scores.headline.transpose("prompt", "layer", ..., "position")
    values = effect.values
    finite = np.argwhere(np.isfinite(values) & (values != 0))  # where nothing differs both are 0, which proves nothing
    if not 2 <= k <= len(finite) // 2:
        raise ValueError(f"k={k}: give at least 2 and at most half of the {len(finite)} cells that are not 0.")
    order = np.argsort(-np.abs(values[tuple(finite.T)]), kind="stable")
    others = np.random.default_rng(seed).choice(order[k:], size=k, replace=False)
    chosen = finite[np.concatenate([order[:k], others])]
    names = effect.dims
    cells = [{str(d): effect[d].values[j].item() for d, j in zip(names, index, strict=True)} for index in chosen]
    exact = _exact(task, scores, cells, progress)
    estimate = values[tuple(chosen.T)]
    both = pd.DataFrame({"estimate": estimate, "exact": exact})
    agreement = {
        "pearson": float(both.corr("pearson").iloc[0, 1]),
        "spearman": float(both.corr("spearman").iloc[0, 1]),
        "sign": float((np.sign(estimate) == np.sign(exact)).mean()),
    }
    poor = not (agreement["pearson"] >= POOR_BELOW and agreement["sign"] >= POOR_BELOW)
    confirmation = Confirmation(
        k=k,
        seed=seed,
        **agreement,
        poor=poor,
        exact="mean of alone and left out" if method == "graft_ig" else "patch",
        cells=tuple(
            {**cell, "top": n < k, "estimate": float(e), "exact": float(x)}
            for n, (cell, e, x) in enumerate(zip(cells, estimate, exact, strict=True))
        ),
    )
    if poor:
        warnings.warn(
            f"{method} agrees poorly with exact values (Pearson {agreement['pearson']:.2f}, same sign {agreement['sign']:.0%} of "
            f"{2 * k} cells): use the exact instrument (patch, graft).",
            stacklevel=2,
        )
    return replace(scores, record=replace(scores.record, confirmation=confirmation))


def _check_same(task: Task, scores: Scores) -> None:
    hashes = {name: s.hash for name, s in task.pair.students.items()}
    stored = {name: s.hash for name, s in scores.record.students.items()}
    theirs = ["".join(row[: len(p)]) for p, row in zip(task.prompts, scores.data["token"].values, strict=False)]
    differs = {
        "prompts": theirs != ["".join(p.tokens) for p in task.prompts] or len(theirs) != scores.data.sizes["prompt"],
        "metric": task.metric.name != scores.record.metric,
        "base": task.pair.base.hash != scores.record.base.hash,
        "students": hashes != stored,
    }
    wrong = [what for what, other in differs.items() if other]
    if wrong:
        raise ValueError(f"scores were made from other {' and '.join(wrong)} than given; pass what attribute was called with.")


def _exact(task: Task, scores: Scores, cells: list[dict[str, Any]], progress: bool) -> np.ndarray:
    """Exact headline values of cells."""
    one = _grafts if scores.record.method == "graft_ig" else _patches
    students = list(task.pair.students.values())
    with tqdm(total=len(students) * len(cells), desc="confirm", disable=not progress) as bar:
        values = [one(task, student, scores, cells, bar) for student in students]
    return values[0] - np.mean(values[1:], 0) if len(values) > 1 else values[0]


def _grafts(task: Task, student: Student, scores: Scores, cells: list[dict[str, Any]], bar: Any) -> np.ndarray:
    where = [task.pair.sites.modules[path] for path in student.deltas]
    base, top = ends(task, student)
    rows: list[Row] = []
    for cell in cells:
        alone = torch.zeros(task.size(cell["prompt"]), len(where))
        alone[cell["position"], [m.layer == cell["layer"] and m.name == cell["module"] for m in where]] = 1
        rows += [(cell["prompt"], alone), (cell["prompt"], 1 - alone)]
    found = measure(task, student, rows).reshape(len(cells), 2)
    bar.update(len(cells))
    at = [cell["prompt"] for cell in cells]
    return (found[:, 0] - base[at] + top[at] - found[:, 1]) / 2


def _patches(task: Task, student: Student, scores: Scores, cells: list[dict[str, Any]], bar: Any) -> np.ndarray:
    site, direction = scores.record.site, scores.record.direction
    assert site is not None  # scores of activations have both
    assert direction is not None
    out = np.empty(len(cells))
    for i in sorted({cell["prompt"] for cell in cells}):
        for layer in sorted({cell["layer"] for cell in cells if cell["prompt"] == i}):
            mine = [n for n, cell in enumerate(cells) if (cell["prompt"], cell["layer"]) == (i, layer)]
            heads = tuple(dict.fromkeys(cells[n].get("head") for n in mine))
            tokens = tuple(dict.fromkeys(cells[n]["position"] for n in mine))
            plan = Plan(site, (layer,), heads, tuple(((t, t),) for t in tokens))
            grid, _ = patch_one(task, task, student, i, plan, direction)
            for n in mine:
                out[n] = grid[0, heads.index(cells[n].get("head")), tokens.index(cells[n]["position"])]
            bar.update(len(mine))
    return out
