"""Local worker processes: several that go through the tasks of a study beside each other.

1. Each is a fresh process with a base of its own and the study's number of threads, and does what
   `running.work` does; they know of each other by claims alone.
2. One that dies (killed, out of memory) loses its claim; another is started in its place. A task
   that two workers died of is noted as failed, so that it cannot take all of them (`crew`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .config import Study
from .crew import Crew, WorkerDiedError, carry_out, order
from .running import Outcome, Say, Shard
from .store import DiskFullError, Store

LOOK = 0.2
"""Seconds between looks at the workers."""

DISK_FULL = 28
"""What a worker ends with where there is no space left."""


def work_beside(
    study: Study, store: Store, workers: int, *, shard: Shard, steal: bool, say: Say | None
) -> Outcome:
    """Have worker processes do the tasks of a study.

    Raises:
        DiskFullError: there is no space left.
        WorkerDiedError: workers cannot begin.
    """
    crew = Crew(study, store, workers, say)
    given = order(study, store, shard=shard, steal=steal, progress=say is not None)
    host = socket.gethostname()
    alive = [_start(given) for _ in range(workers)]
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
                crew.lost(died, process.pid, host, by_itself=code > 0)
                alive.append(_start(given))
    finally:
        for process in alive:
            process.terminate()
        for process in alive:
            process.wait()
    return crew.outcome(shard=shard, steal=steal)


_BEGIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from sublim_mech.studies.workers import main; sys.exit(main())"
)
"""A worker's program. Ctrl-C is for the process that started it, which ends its workers: all of a
terminal's processes get it, and each would say so, this one while it loads torch."""


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
        [sys.executable, "-c", _BEGIN],
        stdin=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode() + b"\n")
    process.stdin.flush()
    return process


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def main() -> int:
    """What a worker process does: the study is the first line of its standard input."""
    import threading

    given = json.loads(sys.stdin.readline())
    # the pipe ends when the process that started this one is gone: then this one goes, too
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from .running import to_stderr

    try:
        carry_out(given)
    except DiskFullError as error:
        to_stderr(str(error))
        return DISK_FULL
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


__all__ = ["WorkerDiedError", "main", "work_beside"]


if __name__ == "__main__":
    sys.exit(main())
