"""`status`: which runs of a study are done, at work, stale, failed or to come."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import checked
from ..hints import counted
from ..results.frames import Table
from .config import Study
from .row_files import INDEX_FILE, read_rows
from .running import is_stale
from .same_name import is_kept
from .store import STUDIES, Store
from .tasks import AnswersTask, Task, Tasks

DONE, RUNNING, STALE, FAILED, BEGUN, OPEN = "done", "running", "stale", "failed", "begun", "open"
DAMAGED = "damaged"
STATES = (DONE, RUNNING, STALE, FAILED, DAMAGED, BEGUN, OPEN)


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        study: its name.
        table: one row per run: `part`, `run`, `title`, `state` (one of `done`, `running`, `stale`,
            `failed`, `damaged`, `begun`, `open`), and `why`: who is at work on what, or the last
            line of the reason.
        failures: tasks that failed: `title`, `error`, `trace`, `host`, `at`.
        missing: that the folder is none of studies, or this study was never run in it; empty where
            it was.
    """

    study: str
    table: pd.DataFrame
    failures: tuple[dict[str, Any], ...]
    missing: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state."""
        counted_states = Counter(self.table["state"])
        return {state: counted_states[state] for state in STATES if counted_states[state]}

    @property
    def finished(self) -> bool:
        """Whether all runs are done."""
        return set(self.counts) <= {DONE}

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        runs = self.table.to_dict("records")
        return {"study": self.study, "counts": self.counts, "runs": runs,
                "failures": list(self.failures), "missing": self.missing}  # fmt: skip

    def __repr__(self) -> str:
        told = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        lines = [f"study {self.study!r}: {counted(len(self.table), 'run')}: {told}"]
        lines += [self.missing] if self.missing else []
        by_part = self.table.groupby("part", sort=False)["state"]
        for part, states in by_part:
            lines.append(f"  {part}: {(states == DONE).sum()} of {len(states)} done")
        at_work = self.table[self.table["state"].isin([RUNNING, STALE])]
        lines += [f"  {state}: {why}" for state, why in _distinct(at_work)]
        lines += [f"  failed: {entry['title']}: {entry['error']}" for entry in self.failures]
        damaged = self.table[self.table["state"] == DAMAGED]
        lines += [f"  damaged: {why}" for _, why in _distinct(damaged)]
        return "\n".join(lines)


def _distinct(table: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = zip(table["state"], table["why"], strict=True)
    return list(dict.fromkeys(pairs))


def what_is_missing(reached: Status) -> tuple[str, ...]:
    """Which runs an unfinished study lacks, a sentence each part; nothing of a finished one."""
    if reached.finished:
        return ()
    states = reached.table
    lines = [f"{(states['state'] == DONE).sum()} of {counted(len(states), 'run')} are done."]
    for part, group in states.groupby("part", sort=False):
        open_ = group[group["state"] != DONE]
        if not len(open_):
            continue
        titles = open_["title"].tolist()
        more = f"; and {len(titles) - 3} more" if len(titles) > 3 else ""
        lines.append(
            f"Part {part}: {len(open_)} of {counted(len(group), 'run')} missing: "
            f"{'; '.join(titles[:3])}{more}."
        )
    return tuple(lines)


@checked
def status(study: Study, out: str | Path) -> Status:
    """How far a study is: which runs are done, running and by whom, stale, failed and why.

    A run is `running` where somebody is at work on something it needs, `stale` where that process
    is dead (the next `run` goes on with it), `begun` where a part of what it needs is there
    (beside the base's answers, which all runs share), `open` where nothing is.

    Args:
        study: the study.
        out: its folder; it may not be there yet.

    Raises:
        ValueError: a folder of another version.

    Example:
        >>> from sublim_mech import studies
        >>> studies.status(studies.quick(), folder / "nothing there yet").counts
        {'open': 8}
    """
    store = Store(out)
    tasks = Tasks(study)
    failures = store.failures()
    found = read_rows(store.folder / "rows", store.folder / INDEX_FILE)
    damaged = {path.stem: why for path, why in found.damaged.items()}
    owners = _owners(store, tasks)
    states: dict[str, tuple[str, str]] = {}
    for task in tasks.ordered:  # each after what it needs
        states[task.address] = _state(task, store, states, owners, failures, damaged)
    rows = []
    for run in tasks.runs:
        state, why = states[run.task.address]
        rows.append((run.cell.part, run.task.address, run.cell.title, state, why))
    wanted = {task.address for task in tasks.ordered}
    failed = tuple(dict(told) for address, told in failures.items() if address in wanted)
    columns = ["part", "run", "title", "state", "why"]
    table = Table(pd.DataFrame(rows, columns=columns))
    nothing = set(table["state"]) <= {OPEN, BEGUN}  # what they need may be another study's
    return Status(study.name, table, failed, _missing(study, store, nothing=nothing))


def _missing(study: Study, store: Store, *, nothing: bool) -> str:
    """That a study was never run in a folder.

    Args:
        study: the study.
        store: of the folder.
        nothing: whether none of its runs is done or at work.
    """
    where = f"out={str(store.folder)!r}"
    if not store.begun:
        return f"{where}: there is no folder of studies; nothing was run there"
    if not (store.folder / STUDIES / f"{study.name}.json").is_file():
        return f"{where}: no study of the name {study.name!r} was run there"
    if nothing and not is_kept(study, store.folder / STUDIES / f"{study.name}.json"):
        return f"{where}: another study of the name {study.name!r} was run there, this one was not"
    return ""


def _owners(store: Store, tasks: Tasks) -> dict[str, dict[str, Any]]:
    owners = {}
    for task in tasks.ordered:
        if not store.has(task):
            owner = store.owner(task)
            if owner is not None:
                owners[task.address] = owner
    return owners


def _state(
    task: Task,
    store: Store,
    states: dict[str, tuple[str, str]],
    owners: dict[str, dict[str, Any]],
    failures: Any,
    damaged: dict[str, str],
) -> tuple[str, str]:
    """A task's state and why, given those of what it needs."""
    if task.address in damaged:
        return DAMAGED, damaged[task.address]
    if store.has(task):
        return DONE, ""
    if task.address in failures:
        told = failures[task.address]
        return FAILED, f"{told['title']}: {told['error']}"
    if task.address in owners:
        owner = owners[task.address]
        who = f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"
        return (STALE if is_stale(owner) else RUNNING), f"{task.title}, by {who}"
    needs = [states[need.address] for need in task.needs]
    for worst in (FAILED, STALE, RUNNING):
        for state, why in needs:
            if state == worst:
                return state, why
    # the base's answers, which all runs share, begin none of them
    own = [
        states[need.address][0]
        for need in task.needs
        if not (isinstance(need, AnswersTask) and need.student is None)
    ]
    if store.is_begun(task) or any(state in (DONE, BEGUN) for state in own):
        return BEGUN, ""
    return OPEN, ""
