"""Grafting: the student's weights at chosen tokens, layers and modules only (exact).

Dynamic weight grafting (arXiv 2506.20746): every module that differs computes, at token t,
`f_base(x) + g[t] * (f_student(x) - f_base(x))`. For a set S of cells (a `masks.Mask`) and a metric
M

- sufficiency = (M(g = 1 on S only) - M(base)) / (M(student) - M(base)),
- necessity = (M(student) - M(g = 0 on S only)) / (M(student) - M(base)).

What is stored is the numerator; tables divide mean by mean. The answer's own tokens (all but the
last token of each form are fed) have a gate of their own: closed for sufficiency and open for
necessity unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .. import masks
from ..engine.branch import grow
from ..engine.forward import Gates
from ..engine.pair import ModelPair
from ..masks import Mask, Where
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .labelling import label
from .task import Advance, Cells, GatedRow, Task, ends, measure, prepare, walk

MEASURES = ("sufficiency", "necessity")


class Answer(NamedTuple):
    """Whether the student computes the answer's own tokens, with the modules of the set."""

    sufficiency: bool
    necessity: bool


def graft(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    sets: Mapping[str, Where] | Literal["role", "sharing"],
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
        sets: name -> mask (`masks.role("system") & masks.layers(range(10))`), token positions, or a
            function from a prompt to them. `"role"` for the tokens of each role, and all of them;
            `"sharing"` for tokens by what training shares with them, and all shared and all other
            tokens. A prompt without such tokens contributes 0 to these.
        answer_in_sufficiency: whether the student computes the answer's own tokens (with the
            modules of the set) while a set is tested for sufficiency.
        answer_in_necessity: the same for necessity; if not, the base computes them (with the
            modules of the set).
        progress: show a progress bar.

    Returns:
        Scores of kind `graft`, `(model, prompt, set, measure)` with the number of `tokens (prompt,
        set)`.

    Raises:
        ValueError: a named set is empty in a prompt, or leaves it; see `masks` for what each mask
            refuses; `"sharing"` of prompts that are not marked (`sharing`); `"role"` of raw text,
            which has but one.

    Example:
        >>> sets = {"early system": sm.masks.role("system") & sm.masks.layers([0, 1]), "last": [-1]}
        >>> scores = sm.graft(pair, prompts, trait, sets, progress=False)
        >>> scores.sets().index.tolist()
        ['early system', 'last']
        >>> sm.graft(pair, prompts, trait, "role", progress=False).sets().index.tolist()
        ['template', 'system', 'user', 'all prompt tokens']
    """
    task = prepare(pair, prompts, trait)
    named = _named_sets(sets, task.prompts)
    modules = list(pair.sites.modules.values())
    inside = [
        np.stack([mask(prompt, modules) for mask in named.values()]) for prompt in task.prompts
    ]
    if not isinstance(sets, str):
        _refuse_empty(named, inside, task.prompts)
    answer = Answer(answer_in_sufficiency, answer_in_necessity)

    def cells(student: Student, advance: Advance) -> Cells:
        return _graft(task, student, inside, answer, advance)

    steps = 2 * len(task.prompts) * (len(named) + 1)
    measured = walk(task, cells, title="graft", steps=steps, progress=progress)
    tokens = np.stack([cells.any(2).sum(1) for cells in inside])
    return label(
        measured,
        "graft",
        ["prompt", "set", "measure"],
        coords={
            "set": np.array(list(named)),
            "measure": np.array(MEASURES),
            "tokens": (("prompt", "set"), tokens),
        },
        answer_gate={name: float(value) for name, value in answer._asdict().items()},
    )


def _named_sets(sets: Mapping[str, Where] | str, prompts: Sequence[Prompt]) -> Mapping[str, Mask]:
    if isinstance(sets, str):
        if sets not in ("role", "sharing"):
            raise ValueError(f"sets={sets!r}: pass 'role', 'sharing', or masks by name.")
        if sets == "sharing":
            return masks.by_sharing(prompts)
        if {role for prompt in prompts for role in prompt.roles} <= {"bos", "text"}:
            raise ValueError(
                "sets='role': raw text has but one role, 'text', so there is nothing to compare; "
                "pass sets='sharing', or masks by name: {'last words': masks.positions(-2, -1)}."
            )
        return masks.by_role(prompts)
    if not sets:
        raise ValueError("sets is empty; name at least one, e.g. {'system': masks.role('system')}.")
    return {name: masks.as_mask(where, name) for name, where in sets.items()}


def _refuse_empty(
    sets: Mapping[str, Mask], inside: Sequence[np.ndarray], prompts: Sequence[Prompt]
) -> None:
    """A set somebody named must be somewhere, or its 0 would read like a finding."""
    for number, name in enumerate(sets):
        empty = [
            prompt.question
            for prompt, cells in zip(prompts, inside, strict=True)
            if not cells[number].any()
        ]
        if empty:
            raise ValueError(
                f"sets: {name!r} is empty in {len(empty)} prompts, first {empty[0]!r}; leave the "
                "set or the prompt out."
            )


def _graft(
    task: Task,
    student: Student,
    inside: Sequence[np.ndarray],
    answer: Answer,
    advance: Advance,
) -> Cells:
    """Per prompt `(set, measure)`; `inside` are the cells of each prompt, `(set, token, module of
    the model)`.
    """
    paths = list(task.pair.sites.modules)
    columns = [paths.index(path) for path in student.deltas]

    # all sets of a prompt on, then all of them off, are rows side by side
    rows: list[GatedRow] = []
    for i, cells in enumerate(inside):
        nodes = len(task.answers[i].nodes)
        of_student = cells[:, :, columns]
        on = [_gates(one, answer.sufficiency, nodes) for one in of_student]
        off = [1 - _gates(one, not answer.necessity, nodes) for one in of_student]
        rows += [GatedRow(i, gates) for gates in (*on, *off)]

    both = ends(task, student, advance=advance)
    values = measure(task, student, rows, advance=advance)
    values = values.reshape(len(task.prompts), 2, -1)  # (prompt, on or off, set)
    sufficient = values[:, 0] - both.base[:, None]
    necessary = both.student[:, None] - values[:, 1]
    return Cells(list(np.stack([sufficient, necessary], -1)), both)


def _gates(cells: Bool[np.ndarray, "token module"], answer: bool, nodes: int) -> Tensor:
    """One row's gates: `(slot,)` where all modules are alike, else `(slot, module)`.

    The answer's nodes follow the tokens; where they belong to the set, it is with its modules.
    """
    of_nodes = np.tile(cells.any(0) & answer, (nodes, 1))
    gates = torch.from_numpy(np.concatenate([cells, of_nodes])).float()
    alike = gates.shape[1] > 0 and bool((gates == gates[:, :1]).all())
    return gates[:, 0] if alike else gates


# -------------------------------------------------------------------------------------------- sweep


def graft_sweep(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    measure: Literal["sufficiency", "necessity"] = "sufficiency",
    layers: Sequence[int] | None = None,
    progress: bool = True,
) -> Scores:
    """Graft every layer x token, one cell at a time (exact): all changed modules of one layer at
    one token.

    A cell's branch starts at its own layer and token, because nothing before them changes.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        measure: `sufficiency` (the cell alone is the student's) or `necessity` (the cell alone is
            the base's).
        layers: which layers; all that any student changes when not given. -1 holds the embeddings,
            the number of blocks the final norm and the unembedding.
        progress: show a progress bar.

    Returns:
        Scores of kind `sweep`, `(model, prompt, layer, position)`: M(cell on) - M(base), or
        M(student) - M(cell off); the answer trie's nodes follow the prompt's tokens. Cells do not
        add up to the total effect.

    Raises:
        ValueError: unknown measure; a layer out of range.

    Example:
        >>> asked = {"measure": "necessity", "layers": [0, 2], "progress": False}
        >>> scores = sm.instruments.graft_sweep(pair, prompts[:1], trait, **asked)
        >>> scores.data["effect"].sizes["layer"]
        2
    """
    if measure not in MEASURES:
        raise ValueError(
            f"measure={measure!r}: pass 'sufficiency' (on only there) or 'necessity' (off only "
            "there)."
        )
    task = prepare(pair, prompts, trait)
    chosen = _layers(pair, layers)

    def cells(student: Student, advance: Advance) -> Cells:
        both = ends(task, student)
        effects = []
        for i in range(len(task.prompts)):
            values = _sweep_prompt(
                task, student, i, measure=measure, layers=chosen, advance=advance
            )
            if measure == "sufficiency":
                effects.append(values - both.base[i])
            else:
                effects.append(both.student[i] - values)
        return Cells(effects, both)

    steps = sum(task.sizes()) * len(chosen)
    measured = walk(task, cells, title="graft sweep", steps=steps, progress=progress)
    coords = {"layer": np.array(chosen)}
    return label(measured, "sweep", ["prompt", "layer", "position"], coords=coords, measure=measure)


def _layers(pair: ModelPair, layers: Sequence[int] | None) -> list[int]:
    """The layers of a sweep, checked."""
    if layers is None:
        changed = {
            pair.sites.modules[path].layer
            for student in pair.students.values()
            for path in student.deltas
        }
        chosen = sorted(changed)
    else:
        chosen = list(layers)
    depth = pair.sites.n_layers
    if not chosen or any(not -1 <= layer <= depth for layer in chosen):
        raise ValueError(
            f"layers={chosen}: give layers between -1 (embeddings) and {depth} (final norm, "
            "unembedding)."
        )
    return chosen


@torch.no_grad()
def _sweep_prompt(
    task: Task,
    student: Student,
    prompt: int,
    *,
    measure: str,
    layers: Sequence[int],
    advance: Advance,
) -> np.ndarray:
    """The metric with one cell switched, `(layer, position)`."""
    # alone: the base with one cell of the student's; else the student with one cell of the base's
    alone = measure == "sufficiency"
    rest, switched = (0.0, 1.0) if alone else (1.0, 0.0)
    trunk_gates = None if alone else Gates(student)
    trunk = grow(task.pair, task.prompts[prompt].ids, task.answers[prompt], trunk_gates)
    module_layers = np.array([task.pair.sites.modules[path].layer for path in student.deltas])

    values = np.empty((len(layers), trunk.size))
    for number, layer in enumerate(layers):
        modules = torch.as_tensor(np.flatnonzero(module_layers == layer))
        for slot, tokens in trunk.forwards(range(trunk.size)):
            gates = torch.full((len(tokens), trunk.size - slot, len(module_layers)), rest)
            rows = torch.arange(len(tokens))[:, None]
            gates[rows, torch.tensor(tokens)[:, None] - slot, modules] = switched
            row_gates = Gates(student, gates.to(task.pair.device))
            logits = trunk.branch(layer, slot, len(tokens), gates=row_gates)
            values[number, tokens] = task.numbers([prompt] * len(tokens), logits)
            advance(len(tokens))
    task.check_finite(values.T, [prompt] * trunk.size)
    return values
