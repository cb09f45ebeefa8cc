"""Several workers of one study: what each is given, what each does, what follows where one dies.

How workers are started and watched differs (`workers`: processes of this machine; `ray_actors`:
actors of a Ray cluster). What they do is `running.work`; they know of each other by claims alone.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..storage.claims import OWNER_FILE
from .config import Study
from .running import Outcome, Say, Shard, work
from .store import CLAIMS, Store
from .tasks import Tasks
from .written import from_dict, to_dict

DEATHS = 2
"""Workers that may die of a task before it counts as failed."""


class WorkerDiedError(RuntimeError):
    """Workers died of a task, or cannot begin."""


def order(
    study: Study, store: Store, *, shard: Shard, steal: bool, progress: bool
) -> dict[str, Any]:
    """What a worker is given, as JSON has it."""
    return {
        "study": to_dict(study),
        "out": str(store.folder.resolve()),
        "shard": list(shard),
        "steal": steal,
        "progress": progress,
    }


def carry_out(given: dict[str, Any]) -> None:
    """What a worker does with it.

    Raises:
        DiskFullError: there is no space left.
        FileNotFoundError, ValueError: the base cannot be used (`Worker.ready`).
    """
    from .making import Worker
    from .running import to_stderr

    study = from_dict(given["study"])
    store = Store(given["out"])
    worker = Worker(study, store)
    say = to_stderr if given["progress"] else None
    shard = Shard(*given["shard"])
    work(Tasks(study), store, worker, shard=shard, steal=given["steal"], say=say)


class Crew:
    """The workers of a study, as the process that started them sees them.

    Args:
        study: the study.
        store: where things stand.
        workers: how many there are.
        say: told a line per worker that died.
    """

    def __init__(self, study: Study, store: Store, workers: int, say: Say | None) -> None:
        self.store, self.say = store, say
        self.tasks = Tasks(study)
        self._by_address = {task.address: task for task in self.tasks.ordered}
        self._before = sum(store.has(task) for task in self.tasks.ordered)
        self._begun = time.monotonic()
        self._deaths: Counter[str] = Counter()
        self._idle_deaths = 0
        self._most_idle = DEATHS * workers

    def lost(self, died: str, pid: int | None, host: str | None, *, by_itself: bool) -> None:
        """A worker died, and another is to be started: its task is free again, or given up.

        Args:
            died: which one and of what, for people.
            pid: its process, None where it never said.
            host: its machine.
            by_itself: it ended on an error of its own, of which the next one would end as well.

        Raises:
            WorkerDiedError: it held no task, and others would end like it.
        """
        address = held_by(self.store, pid, host)
        task = self._by_address.get(address or "")
        if task is not None:
            self._deaths[task.address] += 1
            self.store.release(task)
            deaths = self._deaths[task.address]
            if deaths >= DEATHS:
                self.store.fail(task, WorkerDiedError(f"{deaths} workers died of it: {died}"), "")
                died += f"; {task.title} is given up"
        elif by_itself or self._idle_deaths >= self._most_idle:
            raise WorkerDiedError(f"{died} outside any task; its message stands above.")
        else:
            self._idle_deaths += 1
        if self.say is not None:
            self.say(f"{died}; another takes its place")

    def outcome(self, *, shard: Shard, steal: bool) -> Outcome:
        """What all of them did together."""
        store = Store(self.store.folder)
        outcome = Outcome(seconds=time.monotonic() - self._begun)
        outcome.done = sum(store.has(task) for task in self.tasks.ordered) - self._before
        for address, told in store.failures().items():
            if address in self._by_address:
                outcome.failed.append((str(told["title"]), str(told["error"])))
        mine = [run.task for run in self.tasks.runs if steal or shard.has(run.task.address)]
        outcome.waiting = sum(not store.has(task) for task in mine)
        return outcome


def held_by(store: Store, pid: int | None, host: str | None) -> str | None:
    """The address of the task that a process held."""
    for path in (store.folder / CLAIMS).glob(f"*/{OWNER_FILE}"):
        owner = _owner(path)
        if pid is not None and (owner.get("pid"), owner.get("host")) == (pid, host):
            return path.parent.name
    return None


def _owner(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
