"""Claims: one process at a time is at work on a folder.

1. The folder holds `owner.json`, which says who is at work: process, host and since when.
2. The operating system's lock on that file (`flock`) is what counts. It ends with its process,
   however that ends.
3. A file system without such locks has the record alone: one of a dead process of this host is
   taken over; one of another host is believed, locks or not.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from .files import make_folder

try:
    import fcntl
except ImportError:  # no such locks on Windows: the owner's record has to do
    fcntl = None  # type: ignore[assignment]

OWNER_FILE = "owner.json"
"""Who is at work on the folder; nobody where it is missing."""

UNFINISHED = ".unfinished"
"""What a folder's name ends with while somebody is at work on it."""


class FolderInUseError(RuntimeError):
    """Another process is at work on the run folder."""


class _Owner(NamedTuple):
    """Who is, or was last, at work on a folder; None is what a damaged record does not say."""

    pid: int | None = None
    host: str | None = None
    since: str | None = None


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made where there is none.

    Raises:
        FolderInUseError: another process holds the folder, or one on another host has left its
            record there.
    """
    handle = _lock(folder)
    try:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat("T", "seconds"),
        }
        handle.seek(0)
        if os.fstat(handle.fileno()).st_size:
            # not where it is new: ext4 has what was cut to nothing on the disk before it closes it
            handle.truncate()
        json.dump(owner, handle)
        handle.flush()
        yield
    finally:
        # a finished folder is renamed: a record that stands in its place by now is somebody else's
        if _is_in_place(handle, folder):
            (folder / OWNER_FILE).unlink(missing_ok=True)
        handle.close()


def inherit(record: Path) -> None:
    """Remove the record of who was at work on a folder; who holds what stands for that folder does.

    A claim on a task that is made in a folder is such: whoever has it has the folder, and a record
    there is that of a former holder, of whichever host. Only where that process is seen to be alive
    is it left: it has the lock, or it is one of this host where the file system has no locks.

    Raises:
        FolderInUseError: that process is alive.
    """
    try:
        handle = record.open("r+")
    except FileNotFoundError:
        return
    with handle:
        owner = _read_owner(handle)
        try:
            locked = _flock(handle)
        except BlockingIOError as error:
            raise FolderInUseError(_refusal(record.parent, owner)) from error
        if not locked and not _is_elsewhere(owner) and _is_alive(owner):
            raise FolderInUseError(_refusal(record.parent, owner))
    record.unlink(missing_ok=True)


def _lock(folder: Path) -> IO[str]:
    """The locked record of a folder, whose content is still that of the last owner."""
    while True:
        make_folder(folder, "out", str(folder).removesuffix(UNFINISHED))
        try:
            handle = (folder / OWNER_FILE).open("a+")
        except FileNotFoundError:
            continue  # the folder's owner finished and renamed it
        owner = _read_owner(handle)
        if not _may_be_taken(handle, owner):
            handle.close()
            raise FolderInUseError(_refusal(folder, owner))
        if _is_in_place(handle, folder):
            return handle
        handle.close()  # what was locked is no longer in the folder


def _may_be_taken(handle: IO[str], owner: _Owner) -> bool:
    """Whether the folder is free; takes the lock where the file system has locks."""
    try:
        locked = _flock(handle)
    except BlockingIOError:
        return False
    if _is_elsewhere(owner):
        return False
    return locked or not _is_alive(owner)


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
    except OSError:  # any other refusal is the file system's own
        return False
    return True


def _is_in_place(handle: IO[str], folder: Path) -> bool:
    """Whether the open record is the one that stands in the folder."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle.fileno()), (folder / OWNER_FILE).stat())
    return False


def _read_owner(handle: IO[str]) -> _Owner:
    """What the record says; nothing of what is not readable in it."""
    handle.seek(0)
    entries: Any = None
    with suppress(ValueError):  # neither text nor JSON
        entries = json.load(handle)
    if not isinstance(entries, dict):
        return _Owner()
    pid, host, since = (entries.get(name) for name in ("pid", "host", "since"))
    return _Owner(
        pid if isinstance(pid, int) else None,
        host if isinstance(host, str) else None,
        since if isinstance(since, str) else None,
    )


def _is_elsewhere(owner: _Owner) -> bool:
    return owner.host is not None and owner.host != socket.gethostname()


def _is_alive(owner: _Owner) -> bool:
    return owner.pid is not None and psutil.pid_exists(owner.pid)


def _refusal(folder: Path, owner: _Owner) -> str:
    who = "another process" if owner.pid is None else f"process {owner.pid}"
    if owner.host is not None:
        who += f" on {owner.host}"
    if owner.since is not None:
        who += f", since {owner.since}"
    hint = "wait for it"
    if _is_elsewhere(owner):
        hint = f"if that process is dead, remove {folder / OWNER_FILE}"
    out = str(folder).removesuffix(UNFINISHED)
    return f"out={out!r} is in use by {who}; {hint}, or choose another folder."
