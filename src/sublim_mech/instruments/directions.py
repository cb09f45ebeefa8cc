"""What a direction of activation explains: added to the base, taken out of the student (exact).

At the chosen tokens, one site and one layer at a time:

- `added`: M(base with the direction added) - M(base): is it sufficient?
- `subtracted`: M(student) - M(student with the direction subtracted): is the mean change necessary?
- `projected out`: M(student) - M(student whose activation has no part along the direction's line,
  h - (h u) u): is anything along that line necessary? That takes out what the base has there too.

Beside them stand the effects of the graft that the direction should explain: the student's weights
at the same tokens, all layers and modules (sufficiency beside `added`, necessity beside
`subtracted`). The answer's own tokens are the base's where a direction is added and the student's
where one is taken out, as in that graft.

Nulls: random directions of the same norm, and the other students' directions in this one
(`others'`, which for the student are its controls').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..engine.branch import grow
from ..engine.forward import Edit
from ..engine.pair import ModelPair
from ..hints import counted
from ..masks import Where, as_mask
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.curves import OTHERS, OWN, RANDOM
from ..results.identity import with_digest
from ..results.record import DIRECTIONS
from ..results.scores import Scores
from .changes import ActivationChange
from .labelling import label, tokens_chosen
from .task import Advance, Cells, Ends, GatedRow, Part, Task, ends, measure, prepare, walk

ADDED, SUBTRACTED, PROJECTED = "added", "subtracted", "projected out"
DONE = (ADDED, SUBTRACTED, PROJECTED)


@checked
def direction_effects(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    change: ActivationChange,
    *,
    where: Where | None = None,
    layers: Sequence[int] | None = None,
    random: int = 4,
    seed: int = 0,
    answer_in_set: bool = False,
    progress: bool = True,
) -> Scores:
    """Sufficiency and necessity of directions of activation, beside the graft they should explain.

    Args:
        pair: base, student, controls: those of `change`.
        prompts: evaluation prompts; others than those of `change` test it on prompts it was not
            made from.
        trait: a trait or a metric.
        change: the directions (`activation_change`).
        where: the tokens they act at; those of `change` when not given.
        layers: at which layers, of those of `change`; all when not given.
        random: how many random directions, drawn once and scaled to the norm of each direction.
        seed: of the random directions.
        answer_in_set: whether directions act at the answer's own tokens too.
        progress: show a progress bar.

    Returns:
        Scores of kind `direction`, `(model, prompt, layer, vector, measure)`, with the graft's
        effects `graft (model, prompt, measure)` and the directions' `norm (model, layer)` as
        coordinates. Vectors: `own` (each model's own direction), `random 1`, ..., and with controls
        `others'` (the mean effect of the other students' directions). `scores.curve()` has shares
        of the total effect.

    Raises:
        ValueError: a direction of zero norm; a layer that `change` does not have; directions of
            other models; a set without tokens in a prompt, or one that depends on modules; a number
            of random directions below 0.

    Source: activation addition (arXiv 2308.10248), directional ablation (arXiv 2406.11717); of
    fine-tuned traits: arXiv 2606.00995, 2604.25783.

    Example:
        >>> change = sm.instruments.activation_change(pair, prompts, [-1], layers=[1])
        >>> asked = {"random": 2, "progress": False}
        >>> scores = sm.instruments.direction_effects(pair, prompts, trait, change, **asked)
        >>> scores.data["vector"].values.tolist()
        ['own', 'random 1', 'random 2', "others'"]
    """
    _check_same_models(pair, change)
    if random < 0:
        raise ValueError(f"random={random}: how many random directions must be at least 0.")
    chosen = change.layers if layers is None else list(layers)
    strange = [layer for layer in chosen if layer not in change.layers]
    if not chosen or strange or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"layers={chosen}: choose among those of the directions, {change.layers}, each once."
        )
    names = list(pair.students)
    for name in names:
        change.need_norm(chosen, name)
    mask = change.where if where is None else as_mask(where, "chosen tokens")
    task = prepare(pair, prompts, trait, keeps_gates=True)
    slots = [
        _slots(task, i, mask.tokens(prompt), answer_in_set) for i, prompt in enumerate(task.prompts)
    ]
    for prompt, at in zip(task.prompts, slots, strict=True):
        if not at:
            raise ValueError(
                f"where: {mask.name!r} is empty in prompt {prompt.question[:60]!r}; leave the "
                "prompt out, or choose other tokens."
            )
    own = change.vectors.sel(layer=chosen).transpose("model", "layer", ...).values
    units = _random_units(random, own.shape[1:], seed)
    # of each model: its own direction, random ones of that norm, the other models'
    vectors = {}
    for number, name in enumerate(names):
        norms = np.linalg.norm(own[number], axis=1)[:, None]
        others = np.delete(own, number, 0)
        stacked = np.concatenate([own[number][None], units * norms, others])
        vectors[name] = torch.from_numpy(stacked)
    shown = [OWN, *(f"{RANDOM} {n + 1}" for n in range(random)), *([OTHERS] * (len(names) > 1))]

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        name = next(key for key, one in pair.students.items() if one is student)
        both = ends(part.task, student)
        effects = []
        for i, number in enumerate(part.numbers):
            asked = _Asked(change.site, tuple(chosen), vectors[name], slots[number])
            values = _measure(part.task, student, i, asked, advance)
            base, top = both.base[i], both.student[i]
            effect = np.stack([values[0] - base, top - values[1], top - values[2]], 2)
            effects.append(_gathered(effect, 1 + random))
        grafted = _graft(part.task, student, [slots[number] for number in part.numbers], both)
        # one more vector, which is the same in all layers
        with_graft = [
            np.concatenate([effect, np.broadcast_to(one, (len(chosen), 1, len(DONE)))], 1)
            for effect, one in zip(effects, grafted, strict=True)
        ]
        return Cells(with_graft, both)

    per_layer = 3 * (1 + random + len(names) - 1)
    steps = [len(chosen) * per_layer] * len(task.prompts)
    measured = walk(task, cells, title="directions", steps=steps, progress=progress)
    graft = measured.effect[:, :, 0, -1]
    answered = answer_in_set and task.feeds_answers
    in_set = {"direction": 1.0} if answered else {}
    hooks = np.array([pair.sites.hook_name(change.site, layer) for layer in chosen])
    return label(
        replace(measured, effect=measured.effect[:, :, :, :-1]),
        "direction",
        ["prompt", "layer", "vector", "measure"],
        coords={
            "layer": np.array(chosen),
            "hook": ("layer", hooks),
            "vector": np.array(shown),
            "measure": np.array(DONE),
            "graft": (("model", "prompt", "measure"), graft),
            "norm": (("model", "layer"), np.linalg.norm(own, axis=2)),
        },
        site=change.site,
        where=mask.name,
        sets=tokens_chosen({mask.name: mask}, task, with_answer=answered)
        | {DIRECTIONS: _in_words(change, seed)},
        answer_gate={ADDED: 0.0, SUBTRACTED: 1.0, PROJECTED: 1.0} | in_set,
        notes=_own_prompts(task, change),
    )


def _in_words(change: ActivationChange, seed: int) -> str:
    """From which prompts' tokens directions are, and which random ones stand beside, as a text."""
    tokens = change.data["tokens"].values.tolist()
    of_what = repr((change.made_from, change.where.name, tokens, seed))
    named = f"{counted(len(tokens), 'prompt')}, {change.where.name}, seed {seed}"
    return with_digest(named, sha256(of_what.encode()))


def _own_prompts(task: Task, change: ActivationChange) -> list[str]:
    """That prompts are those that directions were made from, which they fit for that reason."""
    made_from = set(change.made_from)
    own = sum(tuple(prompt.ids) in made_from for prompt in task.prompts)
    if not own:
        return []
    return [
        f"{own} of {counted(len(task.prompts), 'prompt')} are among those that the directions were "
        "made from: what they do there says nothing yet of other prompts"
    ]


def _check_same_models(pair: ModelPair, change: ActivationChange) -> None:
    """Directions are of the models they are tested in."""
    own = {"base": pair.hash} | {name: one.hash for name, one in pair.students.items()}
    if own != change.hashes:
        differ = sorted(
            name for name in {*own, *change.hashes} if own.get(name) != change.hashes.get(name)
        )
        raise ValueError(
            f"change was measured on other models ({', '.join(differ)} differ); measure it on this "
            "pair: activation_change(pair, ...)."
        )


def _slots(task: Task, prompt: int, tokens: Sequence[int], answer: bool) -> list[int]:
    """The tokens, and the answer's own behind them; none where there are no tokens."""
    nodes = range(len(task.prompts[prompt]), task.size(prompt)) if answer and tokens else ()
    return [*tokens, *nodes]


def _random_units(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random directions of norm 1, `(direction, layer, d_model)`."""
    drawn = np.random.default_rng(seed).standard_normal((count, *shape))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


class _Asked(NamedTuple):
    """What is measured in one prompt: site, layers, vectors `(vector, layer, d_model)`, slots."""

    site: str
    layers: tuple[int, ...]
    vectors: Tensor
    slots: list[int]


@torch.no_grad()
def _measure(
    task: Task, student: Student, prompt: int, asked: _Asked, advance: Advance
) -> np.ndarray:
    """The metric under each thing done, `(done, layer, vector)`."""
    ids, answers = task.prompts[prompt].ids, task.answers[prompt]
    whole = task.gates(student, [prompt])
    base, top = grow(task.pair, ids, answers, None), grow(task.pair, ids, answers, whole)
    values = np.empty((len(DONE), len(asked.layers), len(asked.vectors)))
    for number, done in enumerate(DONE):
        trunk, gates = (base, None) if done == ADDED else (top, whole)
        for at, layer in enumerate(asked.layers):
            vectors = asked.vectors[:, at].float()
            for slot, rows in trunk.forwards([min(asked.slots)] * len(vectors)):
                places = [one - slot for one in asked.slots]
                edit = _EDITS[done](vectors[rows].to(task.pair.device), places)
                of_rows = gates and gates.after(slot).expand(len(rows))
                logits = trunk.branch(
                    layer, slot, len(rows), gates=of_rows, edits={(asked.site, layer): edit}
                )
                values[number, at, rows] = task.numbers([prompt] * len(rows), logits)
                advance(len(rows))
    task.check_finite(values.reshape(1, -1), [prompt])
    return values


def _add(vectors: Tensor, places: list[int]) -> Edit:
    """Add each row's vector at some slots."""

    def edit(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, places] += vectors[:, None].to(hidden)
        return hidden

    return edit


def _subtract(vectors: Tensor, places: list[int]) -> Edit:
    return _add(-vectors, places)


def _project_out(vectors: Tensor, places: list[int]) -> Edit:
    """Take out what some slots have along each row's line."""
    units = vectors / vectors.norm(dim=1, keepdim=True)

    def edit(hidden: Tensor) -> Tensor:
        hidden, lines = hidden.clone(), units[:, None].to(hidden)
        along = (hidden[:, places] * lines).sum(-1, keepdim=True)
        hidden[:, places] -= along * lines
        return hidden

    return edit


_EDITS: dict[str, Callable[[Tensor, list[int]], Edit]] = {
    ADDED: _add,
    SUBTRACTED: _subtract,
    PROJECTED: _project_out,
}


def _gathered(effect: np.ndarray, single: int) -> np.ndarray:
    """Effects `(layer, vector, done)`, those of the other models' vectors, the last ones, as their
    mean.
    """
    others = effect[:, single:]
    if not others.shape[1]:
        return effect
    return np.concatenate([effect[:, :single], others.mean(1, keepdims=True)], 1)


def _graft(task: Task, student: Student, slots: Sequence[Sequence[int]], both: Ends) -> np.ndarray:
    """The graft of the same slots, all modules: `(prompt, done)`, NaN beside `projected out`."""
    rows = []
    for i, at in enumerate(slots):
        gates = torch.zeros(task.size(i))
        gates[list(at)] = 1.0
        rows += [GatedRow(i, gates), GatedRow(i, 1 - gates)]
    values = measure(task, student, rows).reshape(len(slots), 2)
    nothing = np.full(len(slots), np.nan)
    return np.stack([values[:, 0] - both.base, both.student - values[:, 1], nothing], 1)
