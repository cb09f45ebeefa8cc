"""Killing a worker of a study at work, whatever kind of process it is."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def one_killed(out: Path, seconds: float = 120) -> Iterator[list[int]]:
    """Kill the first other process that claims a task of the study in `out`.

    Yields:
        The process' number, as soon as it is killed.
    """
    killed: list[int] = []
    over = threading.Event()

    def look() -> None:
        for _ in range(round(seconds / 0.02)):
            for path in out.glob("claims/*/owner.json"):
                try:
                    pid = json.loads(path.read_text())["pid"]
                    if pid != os.getpid():
                        psutil.Process(pid).kill()
                        killed.append(pid)
                        return
                except (OSError, ValueError, psutil.NoSuchProcess):
                    continue  # released meanwhile
            if over.wait(0.02):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()
