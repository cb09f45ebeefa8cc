"""Running a study: tasks are taken in order, whoever takes them.

1. Every process that works on a study goes through the same ordered tasks and takes the first one
   whose needs are there and that nobody holds (`storage.claims`); files on the disk are all that
   processes know of each other. So one process, several of one machine and several machines on one
   file system do the same work, each task once, in whatever order they come to it.
2. What a task makes appears under its name when it is complete. A process that dies loses its claim
   with its life, and the next one that comes by goes on: with a training from its last checkpoint.
   The claim on a task is one on the folders that the task is made in: what a former holder left
   there of its own is taken over with it.
3. A task that fails is noted with the reason; what needs it is left, everything else goes on.
4. A shard does the runs whose address falls to it, and what they need; with `steal` it does others'
   when its own are done.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ..hints import counted
from ..storage.claims import OWNER_FILE, FolderInUseError
from .making import Worker
from .records import note_spent
from .store import CLAIMS, DiskFullError, Store, noticing_a_full_disk
from .tasks import Task, Tasks

BEAT = 20.0
"""Seconds between signs of life of a claim's owner."""

SILENT = 900.0
"""Seconds without a sign of life after which an owner on another machine is taken for dead."""

DYING = 30.0
"""Seconds that a former holder of a task may take to end, before the task counts as failed."""

WAIT = 1.0
"""Seconds between looks where everything left is in others' hands."""


class Shard(NamedTuple):
    """Which part of the runs a process does: `number` of `of`, from 0."""

    number: int = 0
    of: int = 1

    @classmethod
    def read(cls, text: str) -> Shard:
        """A shard as the command line has it, `0/4` to `3/4`.

        Raises:
            ValueError: no such form, or an index beyond the count.
        """
        number, slash, of = text.partition("/")
        if not slash or not (number.strip().isdecimal() and of.strip().isdecimal()):
            raise ValueError(f"shard={text!r}: write it as i/n, 0/4 to 3/4.")
        return cls(int(number), int(of)).checked()

    def checked(self) -> Shard:
        """The same.

        Raises:
            ValueError: an index beyond the count.
        """
        if self.of < 1 or not 0 <= self.number < self.of:
            last = max(self.of - 1, 0)
            raise ValueError(
                f"shard={self.number}/{self.of}: shards of {self.of} are 0/{self.of} to "
                f"{last}/{self.of}."
            )
        return self

    def has(self, address: str) -> bool:
        """Whether a run falls to it."""
        return int(address[:8], 16) % self.of == self.number


@dataclass
class Outcome:
    """What a process did.

    Attributes:
        done: tasks it finished.
        failed: titles of tasks that failed here, with the reason.
        waiting: runs that are left, because what they need failed or is held by somebody silent.
        seconds: how long it worked on tasks, those that failed among them.
    """

    done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    waiting: int = 0
    seconds: float = 0.0


Say = Callable[[str], None]


def work(
    tasks: Tasks,
    store: Store,
    worker: Worker,
    *,
    shard: Shard = Shard(),  # noqa: B008  immutable
    steal: bool = False,
    say: Say | None = None,
) -> Outcome:
    """Do the tasks of a study until nothing is left to do here.

    Args:
        tasks: the study's.
        store: where things stand.
        worker: does them.
        shard: which runs.
        steal: do other shards' runs when the own ones are done, and take over what owners on other
            machines left without a sign of life.
        say: told a line per finished or failed task.

    Raises:
        DiskFullError: there is no space left.
    """
    outcome = Outcome()
    said = say or (lambda line: None)
    mine = [run.task for run in tasks.runs if shard.has(run.task.address)]
    with _Heart() as heart:
        hands = _Hands(store, worker, heart, said, outcome)
        _go_through(_with_needs(tasks, mine), hands, steal=steal)
        if steal and shard.of > 1:
            _go_through(tasks.ordered, hands, steal=steal)
            mine = [run.task for run in tasks.runs]
    outcome.waiting = sum(not store.has(task) for task in mine)
    return outcome


def _with_needs(tasks: Tasks, wanted: Sequence[Task]) -> list[Task]:
    """Tasks and all they are made of, in the study's order."""
    found: set[str] = set()
    open_ends = list(wanted)
    while open_ends:
        task = open_ends.pop()
        if task.address not in found:
            found.add(task.address)
            open_ends += task.needs
    return [task for task in tasks.ordered if task.address in found]


class _Hands(NamedTuple):
    """What one process does tasks with, and whom it tells."""

    store: Store
    worker: Worker
    heart: _Heart
    said: Say
    outcome: Outcome


def _go_through(ordered: Sequence[Task], hands: _Hands, *, steal: bool) -> None:
    """Take the first task that can be taken, until all are done or none can be any more."""
    store = hands.store
    pending = {task.address for task in ordered}
    total, first = len(pending), 0
    lost: set[str] = set()  # what failed, and what needs it
    silent: set[str] = set()
    while pending:
        lost |= store.failed() & pending
        taken = held = False
        unfinished: set[str] = set()  # as far as this look has come: what needs these can wait
        while ordered[first].address not in pending:
            first += 1
        for place in range(first, len(ordered)):
            task = ordered[place]
            address = task.address
            if address not in pending:
                continue
            if address in lost or any(need.address in lost for need in task.needs):
                lost.add(address)
                pending.remove(address)
            elif any(need.address in unfinished for need in task.needs):
                unfinished.add(address)
            elif store.has(task):
                pending.remove(address)
            elif all(store.has(need) for need in task.needs):
                left = f"[{total - len(pending) + 1}/{total}]"
                if _do(task, hands, left):
                    taken = True
                    break
                unfinished.add(address)
                owner = store.owner(task)
                if owner is None or not is_silent(owner):
                    held = True
                elif steal:
                    store.release(task)
                    held = True  # and taken at the next look
                elif address not in silent:
                    silent.add(address)
                    hands.said(_silence(task, owner, store))
        if not taken and not held:
            return  # what is left waits for somebody silent
        if not taken:
            time.sleep(WAIT)


def _do(task: Task, hands: _Hands, left: str) -> bool:
    """Do a task; False where somebody else holds it.

    Raises:
        DiskFullError: there is no space left.
    """
    store, worker, heart, said, outcome = hands
    worker.ready(task)  # what is wrong with the base is wrong with all tasks
    begun = time.monotonic()
    mine = False
    try:
        with noticing_a_full_disk(store.folder), store.claim(task), heart.beating(store, task):
            mine = True
            if store.has(task):
                return True  # somebody finished it just now
            _inherit(store, task)
            worker.do(task)
    except DiskFullError:
        raise
    except Exception as error:
        if isinstance(error, FolderInUseError) and not mine:
            return False
        store.fail(task, error, traceback.format_exc())
        told = f"{type(error).__name__}: {error}"
        outcome.failed.append((task.title, told))
        outcome.seconds += time.monotonic() - begun
        said(f"FAILED {task.title}: {told}")
        return True
    seconds = time.monotonic() - begun
    outcome.done += 1
    outcome.seconds += seconds
    note_spent(store.folder, task.address, seconds)
    said(f"{left} {task.title}: {seconds:z.1f} s")
    return True


def _inherit(store: Store, task: Task) -> None:
    """Take over what a former holder was at work in, which may still be ending.

    Raises:
        FolderInUseError: it does not end.
    """
    until = time.monotonic() + DYING
    while True:
        try:
            store.inherit(task)
        except FolderInUseError:
            if time.monotonic() > until:
                raise
            time.sleep(WAIT)
        else:
            return


# ------------------------------------------------------------------------------------------- owners


class _Heart:
    """Signs of life for the claim that is held, from one thread for all tasks: starting a thread
    for each takes as long as a row.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def beating(self, store: Store, task: Task) -> Iterator[None]:
        """Beat for a task's claim."""
        self._path = store.folder / CLAIMS / task.address / OWNER_FILE
        try:
            yield
        finally:
            self._path = None

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            if (path := self._path) is not None:
                with suppress(OSError):
                    os.utime(path)


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether an owner is, or was, a process of this machine."""
    return owner.get("host") == socket.gethostname()


def is_silent(owner: Mapping[str, Any]) -> bool:
    """Whether an owner on another machine has given no sign of life for long."""
    return not is_here(owner) and time.time() - owner["beat"] > SILENT


def is_stale(owner: Mapping[str, Any]) -> bool:
    """Whether an owner is dead, as far as can be told."""
    if not is_here(owner):
        return is_silent(owner)
    pid = owner.get("pid")
    return not (isinstance(pid, int) and psutil.pid_exists(pid))


def _silence(task: Task, owner: Mapping[str, Any], store: Store) -> str:
    minutes = (time.time() - owner["beat"]) / 60
    path = store.folder / CLAIMS / task.address / OWNER_FILE
    return (
        f"{task.title} is held by process {owner.get('pid')} on {owner.get('host')}, which gave no "
        f"sign of life for {minutes:z.0f} minutes; if it is dead, run with steal, or remove {path}"
    )


def to_stderr(line: str) -> None:
    """Say a line where progress is said."""
    stamp = time.strftime("%H:%M:%S")
    print(f"{stamp} {line}", file=sys.stderr, flush=True)


def summary(outcome: Outcome) -> str:
    """An outcome in one line."""
    parts = [f"{counted(outcome.done, 'task')} done in {outcome.seconds:z.0f} s"]
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    if outcome.waiting:
        parts.append(f"{counted(outcome.waiting, 'run')} left undone")
    return ", ".join(parts)
