"""Grafting: the student's weights at chosen tokens only (exact).

Dynamic weight grafting (arXiv 2606.00831): every module that differs computes, at token t,
`f_base(x) + g[t] * (f_student(x) - f_base(x))`. For a set S of tokens and a metric M

- sufficiency = (M(g = 1 on S only) - M(base)) / (M(student) - M(base)),
- necessity = (M(student) - M(g = 0 on S only)) / (M(student) - M(base)).

What is stored is the numerator; tables divide mean by mean. The answer's own tokens (all but the last token of each form are fed)
have a gate of their own: closed for sufficiency and open for necessity unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from .chat import ROLES, Prompt
from .measure import Row, Task, ends, make_scores, measure, prepare
from .metrics import Metric
from .models.pair import ModelPair
from .scores import Scores
from .sharing import CLASSES, SHARED
from .traits import Trait

Where = Callable[[Prompt], Sequence[int]]
ALL = "all prompt tokens"


def effect(
    pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, batch_size: int = 16, progress: bool = True
) -> Scores:
    """How much of the trait is there: M(student) - M(base) of the student, of each control, and their difference.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait (log-probability, forms summed) or a metric.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        Scores of kind `effect`, `(model, prompt)`.
    """
    task = prepare(pair, prompts, trait)
    with tqdm(total=2 * len(prompts) * len(pair.students), desc="effect", disable=not progress) as bar:
        pairs = [ends(task, s, batch_size=batch_size, bar=bar) for s in pair.students.values()]
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
    batch_size: int = 16,
    progress: bool = True,
) -> Scores:
    """Sufficiency and necessity of token sets.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        sets: name -> function from a prompt to the token positions of the set.
        answer_in_sufficiency: whether the student computes the answer's own tokens while a set is tested for sufficiency.
        answer_in_necessity: the same for necessity.
        batch_size: rows per forward.
        progress: show a progress bar.

    Returns:
        Scores of kind `graft`, `(model, prompt, set, measure)` with the number of `tokens (prompt, set)`.

    Raises:
        ValueError: a set is empty in a prompt, or leaves it.
    """
    task = prepare(pair, prompts, trait)
    inside = _inside(task, sets)
    for s, name in enumerate(sets):
        empty = [p.question for p, masks in zip(task.prompts, inside, strict=True) if not masks[s].any()]
        if empty:
            raise ValueError(
                f"sets: {name!r} is empty in {len(empty)} prompts, first {empty[0]!r}; leave the set or the prompt out."
            )
    return _graft(task, list(sets), inside, answer_in_sufficiency, answer_in_necessity, batch_size, progress)


def graft_by_role(
    pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, batch_size: int = 16, progress: bool = True
) -> Scores:
    """Sufficiency and necessity of each role's tokens (`graft`); a prompt without a role contributes 0 to it."""
    present = {role for p in prompts for role in p.roles}
    sets: dict[str, Where] = {r: (lambda p, r=r: _positions(p.roles, (r,))) for r in ROLES if r in present}  # type: ignore[misc]
    task = prepare(pair, prompts, trait)
    sets[ALL] = lambda p: range(len(p))
    return _graft(task, list(sets), _inside(task, sets), False, True, batch_size, progress)


def graft_by_sharing(
    pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, batch_size: int = 16, progress: bool = True
) -> Scores:
    """Sufficiency and necessity of tokens by what training shares with them, and of all shared and all other tokens (`graft`).

    Raises:
        ValueError: the prompts are not marked (`sharing`).
    """
    task = prepare(pair, prompts, trait)
    unmarked = [p.question for p in prompts if p.sharing is None]
    if unmarked:
        raise ValueError(
            f"prompts: {unmarked[0]!r} is not marked; prompts = sharing(prompts, trained_on=pair.training_prompts)."
        )
    present = {c for p in prompts for c in p.sharing or ()}
    groups: dict[str, tuple[str, ...]] = {c: (c,) for c in CLASSES if c in present}
    groups |= {"shared": SHARED, "not shared": tuple(c for c in CLASSES if c not in SHARED)}
    sets: dict[str, Where] = {n: (lambda p, g=g: _positions(p.sharing or (), g)) for n, g in groups.items()}  # type: ignore[misc]
    return _graft(task, list(sets), _inside(task, sets), False, True, batch_size, progress)


def _positions(labels: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [i for i, label in enumerate(labels) if label in wanted]


def _inside(task: Task, sets: Mapping[str, Where]) -> list[torch.Tensor]:
    """Per prompt, `(set, token)` bool."""
    out = []
    for prompt in task.prompts:
        masks = torch.zeros(len(sets), len(prompt), dtype=torch.bool)
        for s, (name, where) in enumerate(sets.items()):
            positions = list(where(prompt))
            if any(not 0 <= t < len(prompt) for t in positions):
                raise ValueError(f"sets: {name!r} gives positions {positions} for a prompt of {len(prompt)} tokens.")
            masks[s, positions] = True
        out.append(masks)
    return out


def _graft(
    task: Task, names: list[str], inside: list[torch.Tensor], in_sufficiency: bool, in_necessity: bool, batch_size: int, progress: bool
) -> Scores:  # fmt: skip
    rows: list[Row] = []
    for i, masks in enumerate(inside):
        nodes = torch.ones(len(names), len(task.answers[i].nodes))
        only = torch.cat([masks.float(), nodes * in_sufficiency], 1)
        without = torch.cat([1 - masks.float(), nodes * in_necessity], 1)
        rows += [(i, gate) for gate in (*only, *without)]
    students = task.pair.students.values()
    effects, bases, tops = [], [], []
    with tqdm(total=(len(rows) + 2 * len(task.prompts)) * len(students), desc="graft", disable=not progress) as bar:
        for student in students:
            base, top = ends(task, student, batch_size=batch_size, bar=bar)
            values = measure(task, student, rows, batch_size=batch_size, bar=bar).reshape(len(task.prompts), 2, len(names))
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
            "tokens": (("prompt", "set"), np.stack([m.sum(1).numpy() for m in inside])),
        },
        options={"answer_gate": {"sufficiency": float(in_sufficiency), "necessity": float(in_necessity)}},
    )
