"""Activation patching between base and student (exact): which activation, at which layer, head and token, carries the effect.

The donor's activation at one site and layer replaces the recipient's (Zhang & Nanda, arXiv 2309.16042; between models: CMAP, Prakash
et al., arXiv 2402.14811). *Denoising* puts the student's into the base, *noising* the base's into the student. Stored is the metric's
change towards the donor; over the total effect 0 is the recipient, 1 the donor.

1. Run the donor once and keep its activations; run the recipient once and keep what branches need.
2. A *cell* is a set of recipient slots (one each, or a named set) and the donor slots they take from; a *position map* says which.
3. Cells (times heads) are the rows of a batch, each a branch that starts at its own layer and first slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..engine.branch import grow
from ..engine.forward import Gates, make_batch
from ..engine.pair import ModelPair
from ..masks import Mask, as_mask
from ..metrics import Metric, reader
from ..models.students import Student
from ..prompts.chat import Prompt
from ..prompts.traits import Trait
from ..results.scores import Scores
from .labelling import context_texts
from .task import Task, check_finite, make_scores, prepare

Pairs = Sequence[tuple[int, int]]
Map = Literal["identity", "aligned"] | Pairs | Callable[[Prompt, Prompt], Pairs]
DIRECTIONS = ("denoising", "noising")


@dataclass(frozen=True)
class Plan:
    """What is patched, for one prompt.

    Attributes:
        site: which activation.
        layers: which layers.
        heads: which heads; `(None,)` where the site is not per head.
        cells: per cell, (donor slot, recipient slot) pairs; a cell without pairs is left NaN.
    """

    site: str
    layers: tuple[int, ...]
    heads: tuple[int | None, ...]
    cells: tuple[tuple[tuple[int, int], ...], ...]


def patch(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    site: str = "resid_pre",
    direction: Literal["denoising", "noising", "both"] = "denoising",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    sets: Mapping[str, Mask | Callable[[Prompt], Sequence[int]] | Sequence[int]] | None = None,
    answer_in_sets: bool = False,
    donor_prompts: Sequence[Prompt] | None = None,
    position_map: Map = "identity",
    progress: bool = True,
) -> Scores:
    """Patch every layer (x head) x token of a site, one cell at a time; or every layer (x head) x token set.

    Args:
        pair: base, student, controls.
        prompts: prompts of the recipient, of any lengths.
        trait: a trait or a metric.
        site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, or per head `z`, `q`, `k`, `v` (projections before norm
            and rotation); TransformerLens' hook names (`hook_resid_pre`, `attn.hook_z`) serve as well.
        direction: `denoising` (student into base), `noising` (base into student) or `both`.
        layers: which layers; all when not given.
        heads: which heads of a per-head site; all when not given.
        sets: name -> mask of tokens, positions, or a function from a prompt to them: all tokens of a set are patched at once. Each
            token by itself when not given. `{"whole row": masks.everything()}` patches whole rows.
        answer_in_sets: whether the answer's own tokens belong to every set.
        donor_prompts: the donor's prompts where they are others (another context); one per prompt.
        position_map: which donor position each recipient position takes from: `identity`; `aligned` (equal
            tokens of equal role in equal order, difflib's matching blocks); (donor, recipient) pairs; or a function from donor and
            recipient prompt to such pairs. A donor may serve several recipients; recipients without one are left alone (NaN as cells).
        progress: show a progress bar.

    Returns:
        Scores of kind `patch`, `(model, prompt, [direction,] layer, [head,] position | set)`: the metric's change towards the donor;
        the answer trie's nodes follow the prompt's tokens. `base` and `student` are measured on the prompts each of them ran on.

    Raises:
        ValueError: unknown site or direction; layer or head out of range; an empty set; a map that is empty, leaves a prompt or gives
            a recipient two donors; both directions with donor prompts (their recipients would differ).

    Example:
        >>> scores = sm.patch(pair, prompts[:1], trait, site="z", layers=[1], sets={"system": sm.masks.role("system")}, progress=False)
        >>> scores.data["effect"].dims, scores.data["hook"].values.tolist()
        (('model', 'prompt', 'layer', 'head', 'set'), ['blocks.1.attn.hook_z'])
    """
    task = prepare(pair, prompts, trait)
    donors = task if donor_prompts is None else prepare(pair, donor_prompts, trait)
    site = pair.sites.site_name(site)
    if direction not in (*DIRECTIONS, "both"):
        raise ValueError(
            f"direction={direction!r}: pass 'denoising' (student into base), 'noising' (base into student) or 'both'."
        )
    if direction == "both" and donor_prompts is not None:
        raise ValueError("direction='both' with donor_prompts: the two directions have other recipients; call patch for each.")
    if len(donors.prompts) != len(task.prompts):
        raise ValueError(f"donor_prompts has {len(donors.prompts)} prompts for {len(task.prompts)}; give one per prompt.")
    chosen = _range("layers", layers, pair.sites.n_layers)
    per_head = pair.sites.n_heads(site)
    if heads is not None and not per_head:
        raise ValueError(f"heads={list(heads)}: site {site!r} has no heads; per-head sites are z, q, k, v.")
    head_axis: tuple[int | None, ...] = tuple(_range("heads", heads, per_head)) if per_head else (None,)
    chosen_sets = None if sets is None else {name: as_mask(where, name) for name, where in sets.items()}
    plans = [
        Plan(site, tuple(chosen), head_axis, _cells(donors, task, i, position_map, chosen_sets, answer_in_sets))
        for i in range(len(prompts))
    ]
    return _scores(task, donors, plans, direction, chosen_sets, progress)


def _scores(
    task: Task, donors: Task, plans: list[Plan], direction: str, sets: Mapping[str, Mask] | None, progress: bool
) -> Scores:
    pair, plan = task.pair, plans[0]
    ways = DIRECTIONS if direction == "both" else (direction,)
    width = max(len(p.cells) for p in plans)
    students, n = list(pair.students.values()), len(plans)
    effects = np.full((len(students), n, len(ways), len(plan.layers), len(plan.heads), width), np.nan)
    base, top = np.empty((len(students), n)), np.empty((len(students), n))
    cells = sum(len(p.cells) for p in plans) * len(plan.layers) * len(plan.heads) * len(ways) * len(students)
    with tqdm(total=cells, desc=f"patch {plan.site}", disable=not progress) as bar:
        for s, student in enumerate(students):
            for w, way in enumerate(ways):
                for i, p in enumerate(plans):
                    grid, (base[s, i], top[s, i]) = patch_one(task, donors, student, i, p, way, bar=bar)
                    effects[s, i, w, :, :, : grid.shape[2]] = grid
    hooks = np.array([pair.sites.hook_name(plan.site, layer) for layer in plan.layers])
    coords: dict[str, Any] = {"layer": np.array(plan.layers), "hook": ("layer", hooks)}
    dims = ["prompt", "direction", "layer", "head", "position" if sets is None else "set"]
    if direction == "both":
        coords["direction"] = np.array(ways)
    if plan.heads != (None,):
        coords["head"] = np.array(plan.heads)
    if sets is not None:
        coords["set"] = np.array(list(sets))
        coords["tokens"] = (("prompt", "set"), np.array([[len(c) for c in p.cells] for p in plans]))
    gone = [d for d in ("direction", "head") if d not in coords]
    kept = tuple(d for d in dims if d not in gone)
    effects = effects.squeeze(tuple(1 + dims.index(d) for d in gone))
    options: dict[str, Any] = {"site": plan.site, "direction": direction}
    if donors is not task:
        options["donor_contexts"] = context_texts(donors.prompts)
    return make_scores(task, "patch", (kept, effects), base, top, coords=coords, options=options)


@torch.no_grad()
def patch_one(
    task: Task, donors: Task, student: Student, i: int, plan: Plan, direction: str, *, bar: Any = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Carry out one prompt's plan.

    Args:
        task: prompts of the recipient.
        donors: prompts of the donor.
        student: whose weights.
        i: which prompt.
        plan: what is patched.
        direction: `denoising` or `noising`.
        bar: a progress bar to advance by cells.

    Returns:
        The metric's change towards the donor `(layer, head, cell)`, and the metric of base and student.
    """
    into_base = direction == "denoising"
    recipient, donor = (None, Gates(student)) if into_base else (Gates(student), None)
    record = [(plan.site, layer) for layer in plan.layers]
    batch = make_batch(task.pair.base.model, [donors.prompts[i]], [donors.answers[i]])
    given = task.pair.run(batch, gates=donor, record=record)
    trunk = grow(task.pair, task.prompts[i], task.answers[i], recipient)

    def value(logits: Tensor) -> np.ndarray:
        return reader(task.metric, [task.answers[i]] * len(logits))(logits).cpu().double().numpy()

    start, end = float(value(trunk.done.logits)[0]), float(reader(donors.metric, [donors.answers[i]])(given.logits))
    full = [c for c, pairs in enumerate(plan.cells) if pairs]
    rows = [(head, c) for c in full for head in plan.heads]
    firsts = [min(to for _, to in plan.cells[c]) for _, c in rows]
    grid = np.full((len(plan.layers), len(plan.heads), len(plan.cells)), np.nan)
    for n, layer in enumerate(plan.layers):
        source = given.activations[plan.site, layer][0]
        for first, chunk in trunk.chunks(firsts):
            picked = [rows[r] for r in chunk]
            edit = _put(source, [(r, head, plan.cells[c]) for r, (head, c) in enumerate(picked)], first)
            values = value(trunk.branch(layer, first, len(chunk), gates=recipient, edits={(plan.site, layer): edit}))
            for (head, c), found in zip(picked, values, strict=True):
                grid[n, plan.heads.index(head), c] = found
            if bar is not None:
                bar.update(len(chunk))
    check_finite(task, grid[:, :, full].reshape(1, -1), [i])
    towards = 1 if into_base else -1
    return towards * (grid - start), (start, end) if into_base else (end, start)


def _put(source: Tensor, rows: Sequence[tuple[int, int | None, Pairs]], first: int) -> Callable[[Tensor], Tensor]:
    """Row r takes the donor's activation `source (slot, [head,] d)` at its own head and slots; its slots begin with `first`."""
    index = [(r, to - first, at, head or 0) for r, head, pairs in rows for at, to in pairs]
    row, to, at, head = torch.tensor(index, device=source.device).T
    per_head = rows[0][1] is not None

    def edit(x: Tensor) -> Tensor:
        x = x.clone()
        if per_head:
            x[row, to, head] = source[at, head].to(x.dtype)
        else:
            x[row, to] = source[at].to(x.dtype)
        return x

    return edit


# --------------------------------------------------------------------------------------------------- cells and maps


def _cells(
    donors: Task, task: Task, i: int, position_map: Map, sets: Mapping[str, Mask] | None, answer_in_sets: bool
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Per cell, its (donor slot, recipient slot) pairs; the nodes of the answer tries are paired where the tries are the same."""
    prompt, donor = task.prompts[i], donors.prompts[i]
    at = {to: source for source, to in _pairs(donor, prompt, position_map)}
    mine, theirs = task.answers[i], donors.answers[i]
    if (mine.nodes, mine.parents) == (theirs.nodes, theirs.parents):
        at |= {len(prompt) + k: len(donor) + k for k in range(len(mine.nodes))}
    if sets is None:
        return tuple(((at[t], t),) if t in at else () for t in range(task.size(i)))
    nodes = range(len(prompt), task.size(i)) if answer_in_sets else ()
    cells = []
    for name, mask in sets.items():
        cell = tuple((at[t], t) for t in (*mask.tokens(prompt), *nodes) if t in at)
        if not cell:
            raise ValueError(f"sets: {name!r} holds no position with a donor in prompt {prompt.question[:60]!r}; leave it out.")
        cells.append(cell)
    return tuple(cells)


def _pairs(donor: Prompt, recipient: Prompt, position_map: Map) -> list[tuple[int, int]]:
    """(donor, recipient) positions, checked."""
    where = f"for prompt {recipient.question[:60]!r}"
    if position_map == "identity":
        if len(donor) != len(recipient):
            raise ValueError(
                f"position_map='identity': donor and recipient have {len(donor)} and {len(recipient)} tokens {where}; "
                "pass 'aligned' or pairs."
            )
        return [(t, t) for t in range(len(recipient))]
    if position_map == "aligned":
        keys = [list(zip(p.ids, p.roles, p.turn_roles, strict=True)) for p in (donor, recipient)]
        blocks = SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks()
        pairs = [(b.a + k, b.b + k) for b in blocks for k in range(b.size)]
    elif isinstance(position_map, str):
        raise ValueError(f"position_map={position_map!r}: pass 'identity', 'aligned', (donor, recipient) pairs or a function.")
    else:
        given = position_map(donor, recipient) if callable(position_map) else position_map
        pairs = [(int(a), int(b)) for a, b in given]
    if not pairs:
        raise ValueError(f"position_map is empty {where}; donor and recipient share no position.")
    for source, to in pairs:
        if not (0 <= source < len(donor) and 0 <= to < len(recipient)):
            raise ValueError(
                f"position_map: the pair {(source, to)} leaves the prompts {where} (donor {len(donor)}, recipient {len(recipient)} tokens)."
            )
    twice = [to for to, count in Counter(to for _, to in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"position_map gives recipient position {twice[0]} two donors {where}; one donor per recipient.")
    return pairs


def _range(name: str, wanted: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if wanted is None else list(wanted)
    if not chosen or any(not 0 <= k < count for k in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name}={chosen}: give {name} between 0 and {count - 1}, each once, at least one.")
    return chosen
