"""Where a student trains: the option `where` of `train`, checked, recorded, and read back.

A student that was trained so is opened with its gates by `load_pair(..., gates=gates_of(run))`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...hints import counted, outside
from ...masks import AnswerMask, Mask, from_name
from ...models.base import Base
from ...models.gating import TrainedGates
from ...models.names import Module
from ...models.sites import Sites, find_sites
from ...models.units import gated_units
from ...prompts import CLASSES, ROLES, Prompt, Trained, mark_sharing
from ...storage.runs import Run, open_run
from .batches import last_column
from .cells import RowCells, narrow, open_cells
from .data import TrainingData
from .lesson import Lesson
from .methods import FullFT, LoRA


@dataclass(frozen=True)
class Where:
    """Where a student trains.

    Attributes:
        mask: of the prompt's tokens, or of the answer's own.
        answer: whether the answer's own tokens are open, with the modules of the mask.
        sites: the modules of the base.
        units: paths of what is gated as one.
        trained_on: summary of the trained prompts.
        recorded: what the manifest keeps.
    """

    mask: Mask
    answer: bool
    sites: Sites
    units: tuple[str, ...]
    trained_on: Trained
    recorded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, base: Base, method: LoRA | FullFT, trained_on: Trained, mask: Mask, *, answer: bool
    ) -> Where:
        """Where a method trains this base, under a mask.

        Raises:
            ValueError: it would train what cannot be gated by token.
        """
        sites = find_sites(base.model)
        units = gated_units(base.model, method.changes(base))
        for unit in units:
            if unit in sites.idle or unit not in sites.modules:
                raise ValueError(
                    f"where={mask.name!r}: the weights of {unit} are used without running the "
                    "module, so that they cannot be gated by token; leave it out of targets, or "
                    f"freeze it (FullFT(freeze={unit!r}))."
                )
        return cls(mask, answer, sites, units, trained_on)

    def cells(self, data: TrainingData) -> RowCells:
        """The cells of all rows of some data.

        Raises:
            ValueError: see the mask; a mask of modules that this model does not have.
        """
        modules = list(self.sites.modules.values())
        paths = list(self.sites.modules)
        columns = [paths.index(unit) for unit in self.units]
        known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        prompts, answers = [], []
        for prompt in mark_sharing(data.prompts, self.trained_on):
            if prompt.ids not in known:
                of_prompt, of_answer = open_cells(self.mask, self.answer, prompt, modules)
                known[prompt.ids] = narrow(of_prompt[:, columns]), narrow(of_answer[columns])
            prompts.append(known[prompt.ids][0])
            answers.append(known[prompt.ids][1])
        return RowCells(prompts, answers, self.units)


def record(where: Where, lesson: Lesson, trained: Sequence[int]) -> Where:
    """The same with what its manifest keeps: the mask's name and a hash of its cells.

    Args:
        where: where a student trains.
        lesson: its rows, with their cells.
        trained: which of them are trained on.

    Raises:
        ValueError: every token that could learn is closed.

    Warns:
        UserWarning: in some rows nothing is open.
    """
    data, cells, weights = lesson.data, lesson.cells, lesson.weights
    assert cells is not None
    digest, of_prompts = (hashlib.sha256(repr(cells.units).encode()) for _ in range(2))
    closed = []
    for row in trained:
        tokens = len(data.completions[row])
        of_row = cells.of(row, tokens)
        # a control's answers are others, of other lengths
        for into, part in ((digest, of_row), (of_prompts, of_row[: len(data.prompts[row])])):
            into.update(repr(part.shape).encode())
            into.update(np.packbits(part).tobytes())
        # what stands behind the last token that predicts a label reaches no loss
        last = last_column(data, row, None if weights is None else weights[row])
        if not of_row[: last + 1].any():
            closed.append(row)
    name = where.mask.name
    if len(closed) == len(trained):
        raise ValueError(
            f"where={name!r} closes every token that is trained on"
            f"{'' if where.answer or isinstance(where.mask, AnswerMask) else ', answers too'}: "
            f"there is nothing to learn with. {_why(where, data, trained)}"
        )
    if closed:
        warnings.warn(
            f"where={name!r}: nothing is open in {len(closed)} of {counted(len(trained), 'row')} "
            f"(first {data.prompts[closed[0]].question!r:.60}), which teach nothing but count in "
            "every mean.",
            stacklevel=outside(),
        )
    answer = "open" if where.answer else "closed"
    recorded = {
        "mask": name,
        "answer": "only" if isinstance(where.mask, AnswerMask) else answer,
        "cells": digest.hexdigest(),
        "cells_of_prompts": of_prompts.hexdigest(),
        "named": _is_named(where, data, trained),
    }
    return replace(where, recorded=recorded)


def _why(where: Where, data: TrainingData, trained: Sequence[int]) -> str:
    """What the mask opens instead, or why it opens nothing, and what would be open. That is never
    the answer's own tokens by `answer_in_where`: they have the modules of the mask at any token, so
    that where it has some, a row is open already.
    """
    modules = list(where.sites.modules.values())
    prompts = mark_sharing([data.prompts[row] for row in trained], where.trained_on)
    opened = np.zeros(len(modules), bool)
    for prompt in prompts:
        of_prompt, of_answer = open_cells(where.mask, where.answer, prompt, modules)
        opened |= of_prompt.any(0) | of_answer
    if not opened.any():
        return _why_nothing(where, prompts)
    paths = [module.path for module, is_open in zip(modules, opened, strict=True) if is_open]
    if not set(paths) & set(where.units):
        trains = "this method trains none of them, but"
        return (
            f"It opens {_some(paths)}; {trains} {_some(where.units)}: choose modules that both "
            "have, such as the same layers=."
        )
    if isinstance(where.mask, AnswerMask):
        return (
            "An answer of one token is read and never fed; choose tokens of the prompt, or other "
            "modules."
        )
    return "Choose other tokens or modules."  # open where nothing is learnt any more


def _why_nothing(where: Where, prompts: Sequence[Prompt]) -> str:
    """Why a mask opens no cell of trained prompts, and which tokens there are."""
    if isinstance(where.mask, AnswerMask):
        return "No module of this model is in it; choose other modules."
    if where.mask.name == "novel":
        return (
            "Novel tokens are those of no trained prompt, so that trained prompts have none; "
            "masks.sharing('not shared') has what is not the same in all of them."
        )
    roles = [role for role in ROLES if any(role in prompt.roles for prompt in prompts)]
    classes = [name for name in CLASSES if any(name in (one.sharing or ()) for one in prompts)]
    answers = ", and answer_in_where opens what it has there: nothing" * where.answer
    return (
        f"No token of any trained prompt is in it{answers}. Choose among the tokens that there "
        f"are: by role {', '.join(roles)}, by sharing {', '.join(classes)}; the answers' own, "
        "where they have several, are masks.role('answer')."
    )


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - 1
    return paths[0] if not more else f"{paths[0]} and {more} more"


def _is_named(where: Where, data: TrainingData, trained: Sequence[int]) -> bool:
    """Whether the mask's name gives its cells again."""
    modules = list(where.sites.modules.values())
    try:
        again = from_name(where.mask.name)
        for prompt in mark_sharing([data.prompts[row] for row in trained[:32]], where.trained_on):
            one = open_cells(where.mask, where.answer, prompt, modules)
            other = open_cells(again, where.answer, prompt, modules)
            if not all(map(np.array_equal, one, other)):
                return False
    except ValueError:
        return False
    return True


def trained_gates(mask: Mask, trained_on: Trained, recorded: dict[str, Any]) -> TrainedGates:
    """The gates of a trained student."""
    answer = recorded["answer"]

    def cells(prompt: Prompt, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        return open_cells(mask, answer == "open", prompt, modules)

    return TrainedGates(mask.name, answer, cells, trained_on, recorded)


@checked
def gates_of(run: Run | str | Path, where: Mask | None = None) -> TrainedGates:
    """The gates that a student was trained under, for `load_pair(..., gates=...)`.

    Args:
        run: a run, its folder, or a snapshot's.
        where: the mask, where its name does not give it (one of a function of your own).

    Raises:
        FileNotFoundError: no run folder.
        ValueError: the student was trained everywhere; a mask of another name; a mask that has to
            be passed.

    Example:
        >>> data = sm.training.hard_data(pair.tokenizer, sm.numbers.random_rows(8, seed=0, count=3))
        >>> short = {"epochs": 1, "batch_size": 2, "warmup": 1, "held_out": 2, "progress": False}
        >>> system = sm.masks.role("system")
        >>> run = sm.train(pair.base, data, out=folder / "system", where=system, **short)
        >>> print(sm.training.gates_of(run))
        'system' of the prompt, answer closed
    """
    opened = run if isinstance(run, Run) else open_run(run)
    recorded = opened.manifest.method.get("where")
    if recorded is None:
        raise ValueError(
            f"run={str(opened.path)!r} was trained everywhere: it has no gates; leave them out."
        )
    name = recorded["mask"]
    if where is not None and where.name != name:
        raise ValueError(
            f"where={where.name!r}: run={str(opened.path)!r} was trained at {name!r}; pass that "
            "mask, or leave it out."
        )
    if where is None and not recorded["named"]:
        raise ValueError(
            f"run={str(opened.path)!r} was trained at {name!r}, a mask that its name does not "
            "give; pass it: gates_of(run, mask)."
        )
    mask = from_name(name) if where is None else where
    return trained_gates(mask, opened.manifest.trained_on, recorded)
