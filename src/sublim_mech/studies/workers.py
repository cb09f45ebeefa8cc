"""Local worker processes: several that go through the tasks of a study beside each other.

1. Each is a fresh process with a base of its own and the study's number of threads, and does what
   `running.work` does; they know of each other by claims alone.
2. One that dies (killed, out of memory) loses its claim; another is started in its place. A task
   that two workers died of is noted as failed, so that it cannot take all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..storage.claims import OWNER_FILE
from .config import Study
from .running import Outcome, Say, Shard, work
from .store import CLAIMS, DiskFullError, Store
from .tasks import Tasks
from .written import from_dict, to_dict

DEATHS = 2
"""Workers that may die of a task before it counts as failed."""

LOOK = 0.2
"""Seconds between looks at the workers."""

DISK_FULL = 28
"""What a worker ends with where there is no space left."""


class WorkerDiedError(RuntimeError):
    """Workers died of a task."""


def work_beside(
    study: Study, store: Store, workers: int, *, shard: Shard, steal: bool, say: Say | None
) -> Outcome:
    """Have worker processes do the tasks of a study.

    Raises:
        DiskFullError: there is no space left.
    """
    tasks = Tasks(study)
    by_address = {task.address: task for task in tasks.ordered}
    given = {
        "study": to_dict(study),
        "out": str(store.folder.resolve()),
        "shard": list(shard),
        "steal": steal,
        "progress": say is not None,
    }
    before = sum(store.has(task) for task in tasks.ordered)
    begun = time.monotonic()
    deaths: Counter[str] = Counter()
    alive = [_start(given) for _ in range(workers)]
    idle_deaths = 0
    try:
        while alive:
            time.sleep(LOOK)
            for process in list(alive):
                code = process.poll()
                if code is None:
                    continue
                alive.remove(process)
                if code == DISK_FULL:
                    raise DiskFullError(DISK_FULL, "no space left; its message stands above")
                if code == 0:
                    continue
                died = f"worker {process.pid} died ({_cause(code)})"
                task = _held_by(store, process.pid)
                if task in by_address:
                    deaths[task] += 1
                    store.release(by_address[task])
                    if deaths[task] >= DEATHS:
                        title = by_address[task].title
                        error = WorkerDiedError(f"{deaths[task]} workers died of it: {died}")
                        store.fail(by_address[task], error, "")
                        died += f"; {title} is given up"
                elif code > 0 or idle_deaths >= DEATHS * workers:
                    raise WorkerDiedError(f"{died} outside any task; its message stands above.")
                else:
                    idle_deaths += 1
                if say is not None:
                    say(f"{died}; another takes its place")
                alive.append(_start(given))
    finally:
        for process in alive:
            process.terminate()
        for process in alive:
            process.wait()
    store = Store(store.folder)
    outcome = Outcome(seconds=time.monotonic() - begun)
    outcome.done = sum(store.has(task) for task in tasks.ordered) - before
    failed = store.failures()
    for address, told in failed.items():
        if address in by_address:
            outcome.failed.append((str(told["title"]), str(told["error"])))
    mine = [run.task for run in tasks.runs if steal or shard.has(run.task.address)]
    outcome.waiting = sum(not store.has(task) for task in mine)
    return outcome


def _start(given: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A worker; it dies with this process' standard input pipe."""
    threads = str(given["study"].get("computing", {}).get("threads", 1))
    source = str(Path(__file__).parents[2])
    paths = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "sublim_mech.studies.workers"],
        stdin=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode() + b"\n")
    process.stdin.flush()
    return process


def _held_by(store: Store, pid: int) -> str | None:
    """The address of the task that a process of this machine held."""
    for path in (store.folder / CLAIMS).glob(f"*/{OWNER_FILE}"):
        try:
            owner = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if owner.get("pid") == pid:
            return path.parent.name
    return None


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def main() -> int:
    """What a worker process does: the study is the first line of its standard input."""
    import threading

    given = json.loads(sys.stdin.readline())
    # the pipe ends when the process that started this one is gone: then this one goes, too
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from .making import Worker
    from .running import to_stderr

    study = from_dict(given["study"])
    store = Store(given["out"])
    worker = Worker(study, store)
    say = to_stderr if given["progress"] else None
    try:
        shard = Shard(*given["shard"])
        work(Tasks(study), store, worker, shard=shard, steal=given["steal"], say=say)
    except DiskFullError as error:
        to_stderr(str(error))
        return DISK_FULL
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
