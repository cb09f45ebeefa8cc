"""Hybrids: several students of one base, each with its weights at cells of its own.

With the differences of several students at one module (`pair.split("student")`), each under a gate
of its own, one model computes `f_base(x) + sum over s of g_s (f_s(x) - f_base(x))` (dynamic weight
grafting, arXiv 2506.20746). A hybrid gives every student the cells of its mask. Measured are the
hybrid, each of its parts by itself, and the hybrid without each of its parts, so that the
interaction,

    M(hybrid) - M(base) - sum over parts of (M(part alone) - M(base)),

is a number with an interval. There is one copy of the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import checked
from ..engine.cells import cells_of
from ..engine.pair import ModelPair
from ..hints import counted, renamed
from ..masks import AnswerMask, Mask, Where, as_mask
from ..metrics import Metric
from ..models.names import Module
from ..models.students import Student
from ..prompts import Trait
from ..prompts.prompt import Prompt
from ..results.hybrids import Hybrid
from .grafting import MEASURES
from .keeping import keep_folder
from .labelling import label
from .task import Advance, Cells, Ends, GatedRow, Keep, Part, Task, measure, prepare, walk

CHOSEN = "chosen tokens"
"""What cells are called that were given as positions, or as a function."""


@checked
def hybrid(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    parts: Mapping[str, Where],
    *,
    answer: str | Sequence[str] = (),
    allow: Literal["sum"] | None = None,
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Hybrid:
    """Two or more students of one base, each at its own cells (exact).

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        parts: student -> its cells: a mask, token positions, or a function from a prompt to them.
            Students are named as in `pair.students`, or by their own name (`Student.name`).
            `mask.scaled(2.0)` gives twice the difference.
        answer: the students, one or several, that compute the answer's own tokens, with the modules
            of their cells; the base computes them when none is named.
        allow: `sum` lets a cell belong to several students, whose differences add up there.
        keep: a folder in which finished prompts are stored, one file per prompt: the same call goes
            on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        The effects in the metric's unit of the hybrid, of each part by itself, of the hybrid
        without each part, and their interaction.

    Raises:
        ValueError: fewer than two students, or one the pair does not have; students of different
            bases; a cell of two students that both change; a student without a cell that it changes
            in a prompt; see `masks`.

    Example:
        >>> parts = {"student": sm.masks.role("system"), "cat": sm.masks.role("user")}
        >>> found = sm.instruments.hybrid(pair, prompts, trait, parts, progress=False)
        >>> found.table().index.tolist()[3:]
        ['cat alone', 'without cat', 'interaction']
    """
    folder = keep_folder(keep)
    whole, plan = planned(pair, parts, answer)
    joined = whole.student
    task = prepare(whole, prompts, trait)
    chosen = [part_gates(plan, task, i) for i in range(len(task.prompts))]
    refuse_empty(plan, chosen, task)
    if allow is None:
        refuse_overlap(plan, chosen, task)

    def cells(_: Student, part: Part, advance: Advance) -> Cells:
        return _hybrid(part.task, joined, [chosen[i] for i in part.numbers], advance)

    steps = [len(_subsets(len(plan.names)))] * len(task.prompts)
    kept = Keep(folder, lambda i: [chosen[i].numpy()])
    measured = walk(task, cells, title="hybrid", steps=steps, progress=progress, keep=kept)
    tokens = [
        (gates[:, : len(prompt)] != 0).any(2).sum(1)
        for gates, prompt in zip(chosen, task.prompts, strict=True)
    ]
    hashes = ", ".join(f"{student.name} {student.hash[:12]}" for student in plan.students)
    writers = tuple(n for n, writes in zip(plan.names, plan.answers, strict=True) if writes)
    scores = label(
        measured,
        "graft",
        ["prompt", "set", "measure"],
        coords={
            "set": np.array(list(plan.names)),
            "measure": np.array(MEASURES),
            "tokens": (("prompt", "set"), torch.stack(tokens).numpy()),
            "set_of": (("prompt", "set"), np.full((len(chosen), len(plan.sets)), "prompt")),
        },
        notes=[f"student: a hybrid of {hashes}: {_in_words(plan)}"],
        answer_gate=dict.fromkeys(MEASURES, float(any(plan.answers))),
        hybrid=", ".join(writers) or "the base",
    )
    lengths = np.array([len(prompt) for prompt in task.prompts])
    scores = replace(scores, data=scores.data.assign(prompt_tokens=("prompt", lengths)))
    return Hybrid(scores, writers, allow == "sum", tuple(mask.name for mask in plan.sets))


class Plan(NamedTuple):
    """What a hybrid is of.

    Attributes:
        names: of the students.
        students: those.
        sets: their cells.
        answers: of each, whether it computes the answer's own tokens.
        cells: what masks choose among.
    """

    names: tuple[str, ...]
    students: tuple[Student, ...]
    sets: tuple[Mask, ...]
    answers: tuple[bool, ...]
    cells: tuple[Module, ...]


def planned(
    pair: ModelPair, parts: Mapping[str, Where], answer: str | Sequence[str]
) -> tuple[ModelPair, Plan]:
    """The pair whose student is several of a pair's as one, and what each of them has there; the
    arguments are those of `hybrid`.

    Raises:
        ValueError: see `hybrid`.
    """
    students = [named(pair, name, "parts: student") for name in parts]
    if len(students) < 2:
        raise ValueError(
            f"parts: {counted(len(students), 'student')}; a hybrid is of two or more students, "
            "{'owl': mask, 'penguin': mask}. For one alone use graft."
        )
    if len({id(student) for student in students}) < len(students):
        raise ValueError(f"parts: {', '.join(parts)} name one student twice.")
    sets = [as_mask(where, CHOSEN) for where in parts.values()]
    for name, mask in zip(parts, sets, strict=True):
        refuse_answer_mask(name, mask)
    answering = answering_students(pair, students, answer)
    whole = pair.joined(students)
    plan = Plan(
        tuple(pair.part_names(students)),
        tuple(students),
        tuple(sets),
        tuple(any(one is student for one in answering) for student in students),
        tuple(cells_of(whole.sites, [whole.student])),
    )
    return whole, plan


def refuse_answer_mask(name: str, mask: Mask) -> None:
    """Cells of a hybrid are of the prompt."""
    if isinstance(mask, AnswerMask):
        raise ValueError(
            f"parts: the mask of {name!r} is of the answer's own tokens; give each student "
            f"cells of the prompt, and name who computes the answer: answer={name!r}."
        )


def answering_students(
    pair: ModelPair, students: Sequence[Student], answer: str | Sequence[str]
) -> list[Student]:
    """Those of a hybrid's students that compute the answer's own tokens."""
    writers = [answer] if isinstance(answer, str) else answer
    answering = [named(pair, name, "answer") for name in writers]
    strangers = [one.name for one in answering if all(one is not other for other in students)]
    if strangers:
        raise ValueError(f"answer: {', '.join(strangers)} has no part in this hybrid.")
    return answering


def named(pair: ModelPair, name: str, argument: str) -> Student:
    """A student by its name in the pair, or by its own, that an argument names."""
    with renamed({"model": argument}):
        return pair.named_student(name)


def _in_words(plan: Plan) -> str:
    return "; ".join(f"{n} at {mask.name}" for n, mask in zip(plan.names, plan.sets, strict=True))


def part_gates(plan: Plan, task: Task, prompt: int) -> Float[Tensor, "part slot cell"]:
    """The gates of each part in a prompt and at the nodes of its answers."""
    asked, nodes = task.prompts[prompt], len(task.answers[prompt].nodes)
    columns = [n for n, cell in enumerate(plan.cells) if cell.part.student is not None]
    whose = np.array([plan.cells[n].part.student for n in columns])
    rows = []
    for name, mask, answers in zip(plan.names, plan.sets, plan.answers, strict=True):
        chosen = mask.unscaled(asked, list(plan.cells))[:, columns] & (whose == name)
        of_answer = chosen.any(0) & answers
        gates = np.concatenate([chosen, np.tile(of_answer, (nodes, 1))])
        rows.append(torch.from_numpy(mask.scale * gates).float())
    return torch.stack(rows)


def refuse_empty(plan: Plan, chosen: Sequence[Tensor], task: Task) -> None:
    """A part that is nowhere would read as if its student did nothing."""
    for number, name in enumerate(plan.names):
        empty = [i for i, gates in enumerate(chosen) if not bool(gates[number].any())]
        if empty:
            raise ValueError(
                f"parts: {plan.sets[number].name!r} holds no cell that {name!r} changes, in "
                f"{counted(len(empty), 'prompt')}, first {task.prompts[empty[0]].question!r}; "
                "leave the student or the prompt out."
            )


def refuse_overlap(plan: Plan, chosen: Sequence[Tensor], task: Task) -> None:
    """Two students at one cell would be a model that is neither."""
    paths = [cell.path for cell in plan.cells if cell.part.student is not None]
    places = {path: n for n, path in enumerate(dict.fromkeys(paths))}
    modules = torch.tensor([places[path] for path in paths])
    for i, gates in enumerate(chosen):
        slots = gates.shape[1]
        on = torch.zeros(len(gates), slots, len(places))
        on = on.index_add(2, modules, (gates != 0).float()) > 0
        for one, other in combinations(range(len(gates)), 2):
            both = on[one] & on[other]
            if not bool(both.any()):
                continue
            slot, module = both.nonzero()[0].tolist()
            question = task.prompts[i].question
            tokens = task.prompts[i].tokens
            where = repr(tokens[slot]) if slot < len(tokens) else "the answer's own"
            raise ValueError(
                f"parts: {plan.names[one]!r} and {plan.names[other]!r} have "
                f"{counted(int(both.sum()), 'cell')} of prompt {question!r} in common, first "
                f"{list(places)[module]} at token {slot} ({where}); give each student cells of its "
                "own, or pass allow='sum' to add up their differences there."
            )


def _subsets(count: int) -> list[tuple[int, ...]]:
    """Which parts are on in what is measured: none, all, each alone, all but each; each once."""
    everything = tuple(range(count))
    alone = [(n,) for n in everything]
    without = [tuple(m for m in everything if m != n) for n in everything]
    return list(dict.fromkeys([(), everything, *alone, *without]))


def _hybrid(task: Task, joined: Student, chosen: Sequence[Tensor], advance: Advance) -> Cells:
    """Per prompt `(part, measure)`, and the ends: the base and the hybrid."""
    count = len(chosen[0])
    subsets = _subsets(count)
    rows = [
        GatedRow(i, gates[list(some)].sum(0) if some else 0.0)
        for i, gates in enumerate(chosen)
        for some in subsets
    ]
    values = measure(task, joined, rows, advance=advance).reshape(len(chosen), len(subsets))
    at: dict[Any, np.ndarray] = {some: values[:, n] for n, some in enumerate(subsets)}
    base, whole = at[()], at[tuple(range(count))]
    effects = np.empty((len(chosen), count, 2))
    for n in range(count):
        effects[:, n, 0] = at[(n,)] - base
        effects[:, n, 1] = whole - at[tuple(m for m in range(count) if m != n)]
    return Cells(list(effects), Ends(base, whole))
