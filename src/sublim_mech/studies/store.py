"""The folder of one or several studies: what was made, by address; files are the truth.

    store.json                     version of this layout; which weights a base's name means
    studies/<name>.json            configurations, as they were last run (another study of the
                                   same name: <name>-<hash>.json)
    labels/<address>/              labels of all teachers (`labelling.label`)
    sampled/<address>/             rows that a teacher wrote
    students/<address>/            run folders (`train`)
    answers/, scores/              <address>.safetensors
    rows/<address>.parquet         one run's row
    failed/<address>.json          why a task failed
    claims/<address>/owner.json    who is at work on it
    index.parquet                  all rows once more; may be thrown away

Everything appears under its name only when it is complete; there is no database that processes
could leave in pieces.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..storage.claims import OWNER_FILE, FolderInUseError, claimed, inherit
from ..storage.files import check_place, is_temporary, make_folder, place, read_json, replacing
from ..storage.runs import unfinished
from .config import Study
from .same_name import write_configuration
from .tasks import Task

STORE_FORMAT = 1
STORE_FILE = "store.json"
STAGES = ("labels", "sampled", "students", "answers", "scores", "rows")
CLAIMS, FAILED, STUDIES = "claims", "failed", "studies"


class DiskFullError(OSError):
    """There is no space left; what is finished stays."""


class Store:
    """A store's folder.

    Attributes:
        folder: its place.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a store; nothing is written.

        Raises:
            FileExistsError: the folder holds something else.
            ValueError: a store of another version.
        """
        self.folder = place(folder, "out")
        self._finished: set[str] = set()
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"out={str(folder)!r} is a file; name a folder.")
        self._about: dict[str, Any] = {"format": STORE_FORMAT, "bases": {}}
        holds_others = self._holds_others()  # first: what is begun meanwhile has its file by then
        if self.begun:
            self._read_about()
        elif holds_others:
            raise FileExistsError(
                f"out={str(folder)!r} exists and is no folder of studies (it has no {STORE_FILE}); "
                "choose another, or remove it."
            )

    def _holds_others(self) -> bool:
        """Whether something is there that another process's `begin` does not leave on its way."""
        inside = self.folder.iterdir() if self.folder.is_dir() else ()
        return not all(is_temporary(one, self.folder / STORE_FILE) for one in inside)

    def _read_about(self) -> None:
        path = self.folder / STORE_FILE
        self._about = read_json(
            path,
            STORE_FORMAT,
            called=f"the folder of studies {str(self.folder)!r}",
            fix="copy it again, or choose another folder",
        )

    # ----------------------------------------------------------------------------------- what it is

    @property
    def begun(self) -> bool:
        """Whether a study was ever run here."""
        return (self.folder / STORE_FILE).is_file()

    def need_begun(self) -> None:
        """Refuse a folder in which nothing was run, where results are to be read.

        Raises:
            FileNotFoundError: it is one.
        """
        if not self.begun:
            raise FileNotFoundError(
                f"out={str(self.folder)!r}: no folder of studies; run the study first "
                "(studies.run), or name the folder that it was run in."
            )

    def begin(self, study: Study) -> None:
        """Make the folder where there is none, and keep the study's configuration.

        Raises:
            FileExistsError, PermissionError, ValueError: it cannot be written to.

        Warns:
            UserWarning: another study of this name was run here.
        """
        check_place(self.folder / STORE_FILE, "out")
        make_folder(self.folder, "out")
        if not self.begun:  # before all else: shards begin at once, and know the folder by it
            self._write_about()
        for stage in (*STAGES, CLAIMS, FAILED, STUDIES):
            (self.folder / stage).mkdir(parents=True, exist_ok=True)
        write_configuration(study, self.folder / STUDIES / f"{study.name}.json")

    def _write_about(self) -> None:
        with replacing(self.folder / STORE_FILE) as work:
            work.write_text(json.dumps(self._about, indent=1, sort_keys=True))

    def pin(self, source: str, digest: str) -> None:
        """Keep which weights a base's name means here.

        Raises:
            ValueError: it meant others before.
        """
        self._read_about()
        known = self._about["bases"].get(source)
        if known is None:
            self._about["bases"][source] = digest
            self._write_about()
        elif known != digest:
            raise ValueError(
                f"base={source!r} has other weights ({digest[:12]}) than when results in "
                f"{str(self.folder)!r} were made ({known[:12]}); choose another folder, or give "
                "the base a name of its own."
            )

    # ------------------------------------------------------------------------------------------ tas

    def path(self, task: Task) -> Path:
        """Where what a task makes stands."""
        return self.folder / task.file

    def has(self, task: Task) -> bool:
        """Whether a task is done."""
        if task.address in self._finished:
            return True
        path = self.path(task)
        if task.stage == "labels":
            path = path / "labels.json"
        done = path.exists()
        if done:
            self._finished.add(task.address)
        return done

    def is_begun(self, task: Task) -> bool:
        """Whether a killed process has left something of a task to go on from."""
        if task.stage in ("sampled", "students"):
            return unfinished(self.path(task)).exists()
        return task.stage == "labels" and self.path(task).exists() and not self.has(task)

    @contextmanager
    def claim(self, task: Task) -> Iterator[None]:
        """Hold a task for this process.

        Raises:
            FolderInUseError: somebody else holds it.
        """
        folder = self.folder / CLAIMS / task.address
        with claimed(folder):
            yield
        with suppress(OSError):  # somebody else may hold it by now
            folder.rmdir()

    def owner(self, task: Task) -> dict[str, Any] | None:
        """Who is, or was when they died, at work on a task: pid, host, since; and `beat`, when they
        were last heard of (seconds of the epoch).
        """
        path = self.folder / CLAIMS / task.address / OWNER_FILE
        try:
            entries = json.loads(path.read_text())
            return {**entries, "beat": path.stat().st_mtime}
        except (OSError, ValueError, TypeError):
            return None

    def release(self, task: Task) -> None:
        """Remove the record of an owner who is dead."""
        (self.folder / CLAIMS / task.address / OWNER_FILE).unlink(missing_ok=True)

    def inherit(self, task: Task) -> None:
        """Take over what a former holder of a task was at work in; this process has claimed it.

        Labels and trainings hold their own folders: a record there that outlived its claim, which
        a steal or a person removed, would keep everybody out.

        Raises:
            FolderInUseError: the former holder is seen to be alive.
        """
        target = self.path(task)
        for folder in (target, unfinished(target)):
            for record in sorted(folder.rglob(OWNER_FILE)) if folder.is_dir() else ():
                inherit(record)

    # --------------------------------------------------------------------------------------- failur

    def fail(self, task: Task, error: BaseException, trace: str) -> None:
        """Keep why a task failed."""
        lines = str(error).strip().splitlines() or [""]
        told = {
            "title": task.title,
            "stage": task.stage,
            "error": f"{type(error).__name__}: {lines[-1]}",
            "trace": trace,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at": datetime.now().astimezone().isoformat("T", "milliseconds"),
        }
        with replacing(self.folder / FAILED / f"{task.address}.json") as work:
            work.write_text(json.dumps(told, indent=1))

    def failures(self) -> dict[str, Mapping[str, Any]]:
        """Why tasks failed, by address; the first one first."""
        found = {}
        for path in sorted((self.folder / FAILED).glob("[!.]*.json")):
            with suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_text())
        return dict(sorted(found.items(), key=lambda entry: _when(entry[1])))

    def failed(self) -> set[str]:
        """Addresses of the tasks that failed."""
        with suppress(FileNotFoundError):
            names = os.listdir(self.folder / FAILED)
            return {name[:-5] for name in names if name.endswith(".json") and name[0] != "."}
        return set()

    def excuse(self, address: str) -> None:
        """Forget that a task failed."""
        (self.folder / FAILED / f"{address}.json").unlink(missing_ok=True)


def _when(told: Mapping[str, Any]) -> float:
    """When a task failed; before all others where that is no time."""
    try:
        return datetime.fromisoformat(str(told.get("at"))).timestamp()
    except ValueError:
        return 0.0


@contextmanager
def noticing_a_full_disk(folder: Path) -> Iterator[None]:
    """Have a full disk told as one, whoever found out.

    Raises:
        DiskFullError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
        if not full:
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"no space left on the disk of {str(folder)!r}; make room (plan says how much a study "
            "takes) and make the same call again: what is finished stays, what was under way goes "
            "on from its last checkpoint",
        ) from error


__all__ = ["DiskFullError", "FolderInUseError", "Store", "noticing_a_full_disk"]
