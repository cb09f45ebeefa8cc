"""Run folders: weights, manifest and log, complete or not there at all.

A run trains in `<name>.unfinished/` beside its place; the folder takes its name when it is complete. One process at a time holds an
unfinished folder, and says in `owner.json` who it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil

from .files import sync
from .manifest import Manifest

try:
    import fcntl
except ImportError:  # no such locks on Windows: the owner's record has to do
    fcntl = None  # type: ignore[assignment]

OWNER, INPUTS = "owner.json", "inputs.json"
UNFINISHED = ".unfinished"


class FolderInUseError(RuntimeError):
    """Another process is at work on the run folder."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def snapshots(self) -> dict[int, Path]:
        """Run folders of the student on its way, by optimiser step; `load_pair` opens them."""
        return {int(p.name.removeprefix("step-")): p for p in sorted(self.path.glob("snapshots/step-*"))}

    def __repr__(self) -> str:
        before, after = self.manifest.results["held_out"]
        steps = self.manifest.results["steps"]
        return f"Run({str(self.path)!r}, {self.manifest.kind}, held-out {before:.5f} -> {after:.5f} in {steps} steps)"


def open_run(path: str | Path) -> Run:
    """Open a finished run folder.

    Raises:
        FileNotFoundError: there is none, or it has no manifest.
    """
    manifest = Manifest.load(Path(path))
    if manifest is None:
        work = unfinished(Path(path))
        hint = (
            f" {work} is a training that has not finished: the same call of train(...) goes on with it."
            if work.exists()
            else ""
        )
        raise FileNotFoundError(f"path={str(path)!r} is no run folder: it has no manifest.json.{hint}")
    return Run(Path(path), manifest)


@contextmanager
def new_folder(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete; `durable`: and is on the disk then."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        for file in work.iterdir():
            file.chmod(0o644)
            if durable:
                sync(file)
        os.replace(work, target)
        if durable:
            sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------ unfinished runs


def unfinished(target: Path) -> Path:
    """Where a run trains until it is complete."""
    return target.with_name(target.name + UNFINISHED)


def finish(work: Path, target: Path) -> None:
    """Give a complete run its name: what only training needs is removed, then the folder is renamed."""
    for entry in [*work.glob(".*"), *work.glob("snapshots/.*"), work / "checkpoints", work / INPUTS]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    (work / OWNER).unlink(missing_ok=True)
    os.replace(work, target)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made where there is none.

    The lock is the operating system's (`flock`), so it ends with its process however that ends. On a file system without such locks
    the owner's record is what counts, and a record of a dead process of this host is taken over.

    Raises:
        FolderInUseError: another process holds the folder, or one on another host has left its record there.
    """
    handle = _lock(folder)
    try:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat("T", "seconds"),
        }
        handle.seek(0)
        handle.truncate()
        json.dump(owner, handle)
        handle.flush()
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), (folder / OWNER).stat()):
                (folder / OWNER).unlink()
        handle.close()


def _lock(folder: Path) -> IO[str]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = (folder / OWNER).open("a+")
        except FileNotFoundError:  # its owner finished and renamed it
            continue
        owner = _owner(handle)
        try:
            locks = _flock(handle)
            if owner.get("host", socket.gethostname()) != socket.gethostname() or (not locks and _alive(owner)):
                raise BlockingIOError
        except BlockingIOError:
            handle.close()
            raise FolderInUseError(_refusal(folder, owner)) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), (folder / OWNER).stat()):
                return handle
        handle.close()  # what was locked is no longer in the folder


def _flock(handle: IO[str]) -> bool:
    """Take the lock; False where the file system has none.

    Raises:
        BlockingIOError: somebody else has it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _owner(handle: IO[str]) -> dict[str, Any]:
    handle.seek(0)
    with suppress(json.JSONDecodeError):
        found = json.load(handle)
        if isinstance(found, dict):
            return found
    return {}


def _alive(owner: Mapping[str, Any]) -> bool:
    return "pid" in owner and psutil.pid_exists(int(owner["pid"]))


def _refusal(folder: Path, owner: Mapping[str, Any]) -> str:
    who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}" if owner else "another process"
    elsewhere = owner.get("host", socket.gethostname()) != socket.gethostname()
    hint = f"if that process is dead, remove {folder / OWNER}" if elsewhere else "wait for it"
    return f"out={str(folder).removesuffix(UNFINISHED)!r} is in use by {who}; {hint}, or choose another folder."


def differences(there: Mapping[str, Any], here: Mapping[str, Any], at: str = "") -> list[str]:
    """Where two nested mappings differ, as `key: this there, that here`."""
    out: list[str] = []
    for key in sorted({*there, *here}):
        one, other = there.get(key), here.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            out += differences(one, other, f"{at}{key}.")
        elif one != other or (key in there) != (key in here):
            out.append(f"{at}{key}: {_short(one, key in there)} there, {_short(other, key in here)} here")
    return out


def _short(value: Any, given: bool) -> str:
    text = repr(value)
    return "nothing" if not given else text if len(text) <= 40 else f"{text[:24]}..."
