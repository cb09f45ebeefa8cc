"""How long tasks took: lines beside the results, for `plan`; nothing else reads them."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = "spent"


class Spent(NamedTuple):
    """What a task took, from where it was taken up last.

    Attributes:
        seconds: how long.
        host: on which machine.
    """

    seconds: float
    host: str


def note_spent(folder: Path, address: str, seconds: float) -> None:
    """Add a line; each process has a file of its own."""
    line = json.dumps({"task": address, "seconds": round(seconds, 3)})
    host = socket.gethostname()
    with suppress(OSError):
        (folder / FOLDER).mkdir(exist_ok=True)
        with (folder / FOLDER / f"{host}-{os.getpid()}.jsonl").open("a") as handle:
            handle.write(line + "\n")


def read_spent(folder: Path) -> dict[str, Spent]:
    """What tasks took, by address."""
    found = {}
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        host = path.stem.rpartition("-")[0]
        with suppress(OSError):
            for line in path.read_text().splitlines():
                with suppress(ValueError, KeyError):  # a line that a dead process left half
                    entry = json.loads(line)
                    found[entry["task"]] = Spent(float(entry["seconds"]), host)
    return found
