"""Generated answers of a study in its report: what students say beside the base and a control."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..hints import counted
from ..results.document import folded, paragraph, table
from .arms import gated
from .config import Study
from .grid import Cell
from .measured import read_answers
from .store import Store
from .tasks import AnswersTask, Run, Tasks

TRAITS, QUESTIONS, LETTERS = 3, 5, 200
"""How many traits of a kind of students, questions, and characters of an answer are shown."""


def answers_section(study: Study, store: Store, finished: Collection[str]) -> list[str]:
    """A folded section of answers, HTML; nothing where none were generated.

    Of each kind of students and trait the first finished run whose files can be read is shown;
    `status` names files that cannot.

    Args:
        study: the study.
        store: its folder.
        finished: the runs that have a row, by their addresses.
    """
    asking = study.asking
    if not asking.samples:
        return []
    shown = list(_chosen(study, store, finished))
    if not shown:
        return []
    number = min(QUESTIONS, len(study.questions))
    about = (
        f"Sample 1 of {asking.samples}, drawn at temperature {asking.temperature:g}, to the first "
        f"{number} of {counted(len(study.questions), 'question')}. Of each method, labels, tokens "
        f"and contexts at most {counted(TRAITS, 'trait')}; of each trait the first row seed and "
        f"training seed that are finished. Answers are cut at {LETTERS} characters."
    )
    if any(gated(one.cell.where) for one in shown):
        about += (
            " Students of chosen tokens answer as trained: their weights are on at these alone."
        )
    tables = [_table(study.questions[:number], one) for one in shown]
    inside = f'{paragraph(about, "note")}<div class="said">{"".join(tables)}</div>'
    return [folded("Answers", inside)]


class _Shown(NamedTuple):
    """A run and the first sample of each question; of the control none where there is none."""

    cell: Cell
    base: list[str]
    own: list[str]
    control: list[str] | None
    trait_of_control: str


def _chosen(study: Study, store: Store, finished: Collection[str]) -> Iterator[_Shown]:
    """What is shown, kind after kind, in the order of the study."""
    kinds: dict[Hashable, dict[str, list[Run]]] = {}
    for run in Tasks(study).runs:
        if run.task.address in finished and run.cell.step == 0:
            traits = kinds.setdefault(_kind(run.cell), {})
            traits.setdefault(run.cell.trait, []).append(run)
    for traits in kinds.values():
        of_each = (_first(store, runs) for runs in traits.values())
        yield from islice((one for one in of_each if one is not None), TRAITS)


def _kind(cell: Cell) -> Hashable:
    setting = cell.setting
    method = (setting.name, setting.method.kind, setting.method.rule, setting.rank, setting.lr)
    return (*method, cell.where, cell.label, cell.trained_in, cell.evaluated_in)


def _first(store: Store, runs: Sequence[Run]) -> _Shown | None:
    """The first run whose answers are there; None where there is none."""
    for run in sorted(runs, key=lambda run: (run.cell.row_seed, run.cell.training_seed)):
        base, own = _said(store, run.task.base), _said(store, run.task.own)
        if base is None or own is None:
            continue
        for task in run.task.controls:
            control = _said(store, task)
            if control is not None and task.student is not None:
                return _Shown(run.cell, base, own, control, task.student.trait)
        return _Shown(run.cell, base, own, None, "")
    return None


def _said(store: Store, task: AnswersTask) -> list[str] | None:
    """The first sample of each question; None where it cannot be read, or has none."""
    try:
        found = read_answers(store.path(task))
    except (OSError, ValueError):
        return None
    if "answer" not in found:
        return None
    return [str(text) for text in np.asarray(found["answer"])[:, 0]]


def _table(questions: Sequence[str], shown: _Shown) -> str:
    cell = shown.cell
    labels = cell.label if isinstance(cell.label, str) else f"c = {cell.label:g}"
    caption = (
        f"{cell.trait}: {cell.setting.name}, {labels}, {cell.where}, {cell.trained_in} → "
        f"{cell.evaluated_in}; row seed {cell.row_seed}, training seed {cell.training_seed}"
    )
    columns = ["question", "base", f"student ({cell.trait})"]
    answers = [shown.base, shown.own]
    if shown.control is not None:
        columns.append(f"control ({shown.trait_of_control})")
        answers.append(shown.control)
    lines = [
        [_cut(question), *(_cut(said[place]) or "(empty)" for said in answers)]
        for place, question in enumerate(questions)
    ]
    return table(caption, columns, lines)


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
