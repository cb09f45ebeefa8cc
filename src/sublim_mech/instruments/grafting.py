"""Grafting: the student's weights at chosen tokens, layers and modules only (exact).

Dynamic weight grafting (arXiv 2606.00831): every module that differs computes, at token t,
`f_base(x) + g[t] * (f_student(x) - f_base(x))`. For a set S of cells (a `masks.Mask`) and a metric M

- sufficiency = (M(g = 1 on S only) - M(base)) / (M(student) - M(base)),
- necessity = (M(student) - M(g = 0 on S only)) / (M(student) - M(base)).

What is stored is the numerator; tables divide mean by mean. The answer's own tokens (all but the last token of each form are fed)
have a gate of their own: closed for sufficiency and open for necessity unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import masks
from ..engine.branch import grow
from ..engine.forward import Gates
from ..engine.pair import ModelPair
from ..masks import Mask
from ..metrics import Metric, reader
from ..models.students import Student
from ..prompts import CLASSES, ROLES, Prompt, Trait
from ..results.scores import Scores
from .task import Row, Task, check_finite, ends, make_scores, measure, prepare

Where = Mask | Callable[[Prompt], Sequence[int]] | Sequence[int]
ALL = "all prompt tokens"


def effect(pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, progress: bool = True) -> Scores:
    """How much of the trait is there: M(student) - M(base) of the student, of each control, and their difference.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait (log-probability, forms summed) or a metric.
        progress: show a progress bar.

    Returns:
        Scores of kind `effect`, `(model, prompt)`.

    Example:
        >>> sm.effect(pair, prompts, trait, progress=False).headline_name
        'student - controls'
    """
    task = prepare(pair, prompts, trait)
    with tqdm(total=2 * len(prompts) * len(pair.students), desc="effect", disable=not progress) as bar:
        pairs = [ends(task, s, bar=bar) for s in pair.students.values()]
    base, student = (np.stack(x) for x in zip(*pairs, strict=True))
    return make_scores(task, "effect", (("prompt",), student - base), base, student)


def graft(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    sets: Mapping[str, Where],
    *,
    answer_in_sufficiency: bool = False,
    answer_in_necessity: bool = True,
    progress: bool = True,
) -> Scores:
    """Sufficiency and necessity of sets of cells.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        sets: name -> mask (`masks.role("system") & masks.layers(range(10))`), token positions, or a function from a prompt to them.
        answer_in_sufficiency: whether the student computes the answer's own tokens (with the modules of the set) while a set is
            tested for sufficiency.
        answer_in_necessity: the same for necessity; if not, the base computes them (with the modules of the set).
        progress: show a progress bar.

    Returns:
        Scores of kind `graft`, `(model, prompt, set, measure)` with the number of `tokens (prompt, set)`.

    Raises:
        ValueError: a set is empty in a prompt, or leaves it; see `masks` for what each mask refuses.

    Example:
        >>> sets = {"early system": sm.masks.role("system") & sm.masks.layers([0, 1]), "last": [-1]}
        >>> scores = sm.graft(pair, prompts, trait, sets, progress=False)
        >>> scores.sets().index.tolist()
        ['early system', 'last']
    """
    if not sets:
        raise ValueError("sets is empty; name at least one, e.g. {'system': masks.role('system')}.")
    task = prepare(pair, prompts, trait)
    inside = _inside(task, {name: masks.as_mask(where, name) for name, where in sets.items()})
    for s, name in enumerate(sets):
        empty = [p.question for p, cells in zip(task.prompts, inside, strict=True) if not cells[s].any()]
        if empty:
            raise ValueError(
                f"sets: {name!r} is empty in {len(empty)} prompts, first {empty[0]!r}; leave the set or the prompt out."
            )
    return _graft(task, list(sets), inside, answer_in_sufficiency, answer_in_necessity, progress)


def graft_by_role(pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, progress: bool = True) -> Scores:
    """Sufficiency and necessity of each role's tokens (`graft`); a prompt without a role contributes 0 to it.

    Example:
        >>> sm.graft_by_role(pair, prompts, trait, progress=False).sets().index.tolist()
        ['template', 'system', 'user', 'all prompt tokens']
    """
    task = prepare(pair, prompts, trait)
    present = {role for p in prompts for role in p.roles}
    sets = {r: masks.role(r) for r in ROLES if r in present} | {ALL: masks.everything()}
    return _graft(task, list(sets), _inside(task, sets), False, True, progress)


def graft_by_sharing(pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, progress: bool = True) -> Scores:
    """Sufficiency and necessity of tokens by what training shares with them, and of all shared and all other tokens (`graft`).

    Raises:
        ValueError: the prompts are not marked (`sharing`).

    Example:
        >>> scores = sm.graft_by_sharing(pair, prompts, trait, progress=False)
        >>> bool((scores.sets().loc[["shared", "not shared"], "tokens"] > 0).all())
        True
    """
    task = prepare(pair, prompts, trait)
    present = {c for p in prompts for c in p.sharing or CLASSES}
    sets = {name: masks.sharing(name) for name in (*(c for c in CLASSES if c in present), "shared", "not shared")}
    return _graft(task, list(sets), _inside(task, sets), False, True, progress)


def graft_sweep(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    measure: Literal["sufficiency", "necessity"] = "sufficiency",
    layers: Sequence[int] | None = None,
    progress: bool = True,
) -> Scores:
    """Graft every layer x token, one cell at a time (exact): all changed modules of one layer at one token.

    A cell's branch starts at its own layer and token, because nothing before them changes.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        measure: `sufficiency` (the cell alone is the student's) or `necessity` (the cell alone is the base's).
        layers: which layers; all that any student changes when not given. -1 holds the embeddings, the number of blocks the final
            norm and the unembedding.
        progress: show a progress bar.

    Returns:
        Scores of kind `sweep`, `(model, prompt, layer, position)`: M(cell on) - M(base), or M(student) - M(cell off); the answer
        trie's nodes follow the prompt's tokens. Cells do not add up to the total effect.

    Raises:
        ValueError: unknown measure; a layer out of range.

    Example:
        >>> scores = sm.graft_sweep(pair, prompts[:1], trait, measure="necessity", layers=[0, 2], progress=False)
        >>> scores.data["effect"].sizes["layer"]
        2
    """
    if measure not in ("sufficiency", "necessity"):
        raise ValueError(f"measure={measure!r}: pass 'sufficiency' (on only there) or 'necessity' (off only there).")
    task = prepare(pair, prompts, trait)
    changed = sorted({pair.sites.modules[path].layer for s in pair.students.values() for path in s.deltas})
    chosen = changed if layers is None else list(layers)
    depth = pair.sites.n_layers
    if not chosen or any(not -1 <= layer <= depth for layer in chosen):
        raise ValueError(f"layers={chosen}: give layers between -1 (embeddings) and {depth} (final norm, unembedding).")
    width = max(task.size(i) for i in range(len(prompts)))
    shape = len(pair.students), len(prompts)
    effects, base, top = np.full((*shape, len(chosen), width), np.nan), np.empty(shape), np.empty(shape)
    cells = sum(task.size(i) for i in range(len(prompts))) * len(chosen) * shape[0]
    with tqdm(total=cells, desc="graft sweep", disable=not progress) as bar:
        for s, student in enumerate(pair.students.values()):
            base[s], top[s] = ends(task, student)
            for i in range(len(prompts)):
                grid = _sweep_one(task, student, i, measure, chosen, bar)
                effects[s, i, :, : grid.shape[1]] = grid - base[s, i] if measure == "sufficiency" else top[s, i] - grid
    return make_scores(
        task, "sweep", (("prompt", "layer", "position"), effects), base, top,
        coords={"layer": np.array(chosen)}, options={"measure": measure},
    )  # fmt: skip


@torch.no_grad()
def _sweep_one(task: Task, student: Student, i: int, measure: str, layers: Sequence[int], bar: tqdm[None]) -> np.ndarray:
    """The metric with one cell switched, `(layer, position)`."""
    alone = measure == "sufficiency"
    trunk = grow(task.pair, task.prompts[i], task.answers[i], None if alone else Gates(student))
    where = np.array([task.pair.sites.modules[path].layer for path in student.deltas])
    grid = np.empty((len(layers), trunk.size))
    for n, layer in enumerate(layers):
        components = torch.as_tensor(np.flatnonzero(where == layer))
        for first, tokens in trunk.chunks(range(trunk.size)):
            gates = torch.full((len(tokens), trunk.size - first, len(where)), 0.0 if alone else 1.0)
            rows = torch.arange(len(tokens))
            gates[rows[:, None], torch.tensor(tokens)[:, None] - first, components] = 1.0 if alone else 0.0
            switched = Gates(student, gates.to(trunk.batch.ids.device))
            logits = trunk.branch(layer, first, len(tokens), gates=switched)
            grid[n, tokens] = reader(task.metric, [task.answers[i]] * len(tokens))(logits).cpu().double().numpy()
            bar.update(len(tokens))
    check_finite(task, grid.T, [i] * trunk.size)
    return grid


def _inside(task: Task, sets: Mapping[str, Mask]) -> list[np.ndarray]:
    """Per prompt, `(set, token, module)` bool over all modules of the model."""
    modules = list(task.pair.sites.modules.values())
    return [np.stack([mask(prompt, modules) for mask in sets.values()]) for prompt in task.prompts]


def _graft(
    task: Task, names: list[str], inside: list[np.ndarray], in_sufficiency: bool, in_necessity: bool, progress: bool
) -> Scores:
    students = task.pair.students.values()
    paths = list(task.pair.sites.modules)
    effects, bases, tops = [], [], []
    total = 2 * len(task.prompts) * (len(names) + 1) * len(students)
    with tqdm(total=total, desc="graft", disable=not progress) as bar:
        for student in students:
            columns = [paths.index(path) for path in student.deltas]
            rows: list[Row] = []
            for i, cells in enumerate(inside):
                m = len(task.answers[i].nodes)
                rows += [(i, _gate(c, columns, m, in_sufficiency)) for c in cells]
                rows += [(i, 1 - _gate(c, columns, m, not in_necessity)) for c in cells]
            base, top = ends(task, student, bar=bar)
            values = measure(task, student, rows, bar=bar).reshape(len(task.prompts), 2, len(names))
            effects.append(np.stack([values[:, 0] - base[:, None], top[:, None] - values[:, 1]], -1))
            bases.append(base)
            tops.append(top)
    return make_scores(
        task,
        "graft",
        (("prompt", "set", "measure"), np.stack(effects)),
        np.stack(bases),
        np.stack(tops),
        coords={
            "set": np.array(names),
            "measure": np.array(["sufficiency", "necessity"]),
            "tokens": (("prompt", "set"), np.stack([cells.any(2).sum(1) for cells in inside])),
        },
        options={"answer_gate": {"sufficiency": float(in_sufficiency), "necessity": float(in_necessity)}},
    )


def _gate(cells: np.ndarray, columns: list[int], nodes: int, answer: bool) -> Tensor:
    """One row's gates from `(token, module)` cells: `(slot,)` where all modules are alike, else `(slot, component)`."""
    own = torch.from_numpy(np.concatenate([cells, np.tile(cells.any(0) & answer, (nodes, 1))])[:, columns]).float()
    alike = own.shape[1] > 0 and bool((own == own[:, :1]).all())
    return own[:, 0] if alike else own
