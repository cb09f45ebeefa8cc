"""Run folders: weights, manifest and log, complete or not there at all.

A run trains in `<name>.unfinished/` beside its place; the folder takes its name when it is
complete. One process at a time holds an unfinished folder (`claims`).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..arguments import checked
from ..hints import counted, decimals, nearest_path
from .claims import OWNER_FILE, UNFINISHED
from .files import check_place, make_folder, place, share_files, sync
from .manifest import MANIFEST_FILE, Manifest

SNAPSHOTS = "snapshots"
"""The folder of a run in which the student on its way is kept."""

PASSED = 0.1
"""Part of the way from the base's held-out loss to `stop_at` beyond which a student is no longer
one of that loss."""

INPUTS_FILE = "inputs.json"
"""What an unfinished run was asked for; a finished one says it in its manifest."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def snapshots(self) -> dict[int, Path]:
        """Run folders of the student on its way, by optimiser step; `load_pair` opens them."""
        folders = sorted(self.path.glob(f"{SNAPSHOTS}/step-*"))
        return {int(folder.name.removeprefix("step-")): folder for folder in folders}

    @property
    def missed(self) -> float | None:
        """The held-out loss that it was to stop at (`stop_at`), where it ended above that; else
        None, of snapshots too, from which training went on.
        """
        # as the training compared them: both are kept to the last digit
        after, stop_at = self.manifest.results["held_out"][1], self._stop_at
        return stop_at if stop_at is not None and after > stop_at else None

    @property
    def passed(self) -> float | None:
        """The held-out loss that it was to stop at, where it ended so far below that it is no
        student of this loss: by more than a tenth of the way there; else None, of snapshots too.
        """
        before, after = self.manifest.results["held_out"]
        stop_at = self._stop_at
        far = stop_at is not None and stop_at - after > PASSED * (before - stop_at)
        return stop_at if far else None

    @property
    def _stop_at(self) -> float | None:
        """What it was to stop at; None of snapshots, from which training went on."""
        stop_at = self.manifest.optimiser.get("stop_at")
        on_its_way = self.path.resolve().parent.name == SNAPSHOTS
        return None if stop_at is None or on_its_way else float(stop_at)

    def __repr__(self) -> str:
        results = self.manifest.results
        before, after = results["held_out"]
        unmoved = ", equal to its base" if results.get("moved") is False else ""
        stop = "" if self.missed is None else f", stop at {self.missed:g} not reached"
        stop += "" if self.passed is None else f", stop at {self.passed:g} passed"
        return (
            f"Run({str(self.path)!r}, {self.manifest.kind}, held-out {decimals(before)} -> "
            f"{decimals(after)} in {counted(results['steps'], 'step')}{stop}{unmoved})"
        )


@checked
def open_run(path: str | Path) -> Run:
    """Open a finished run folder.

    Raises:
        FileNotFoundError: there is none, or it has no manifest.
        ValueError: the manifest cannot be read.
    """
    folder = place(path)
    manifest = Manifest.load(folder)
    if manifest is not None:
        return Run(folder, manifest)
    raise FileNotFoundError(
        f"path={str(path)!r} is no run folder: it has no {MANIFEST_FILE}"
        f"{nearest_path(folder) or '.'}{unfinished_note(folder)}"
    )


@contextmanager
def new_folder(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete.

    It and its files have the permissions of any new folder and file (the umask's).

    Args:
        target: its place.
        durable: it is on the disk when the block ends.

    Raises:
        FileExistsError, PermissionError, ValueError: see `check_place`.
    """
    check_place(target, "folder")
    work = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    make_folder(work, "folder", target)
    try:
        yield work
        share_files(work)
        if durable:
            for file in work.iterdir():
                sync(file)
        os.replace(work, target)
        if durable:
            sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unfinished(target: Path) -> Path:
    """Where a run trains until it is complete."""
    return target.with_name(target.name + UNFINISHED)


def check_finished_name(target: Path) -> None:
    """Refuse a run's folder that would be called as one that has not finished.

    Raises:
        ValueError: its name ends so.
    """
    if target.name.endswith(UNFINISHED):
        raise ValueError(
            f"out={str(target)!r}: a folder of this name is a training that has not finished; pass "
            f"out={str(target).removesuffix(UNFINISHED)!r}."
        )


def unfinished_note(folder: Path) -> str:
    """That a training has not finished, where a folder is one, or would be its result; else
    nothing.
    """
    if not folder.name:
        return ""
    work = folder if folder.name.endswith(UNFINISHED) else unfinished(folder)
    if not work.exists():
        return ""
    return (
        f" {work} is a training that has not finished: the same call of train(...) goes on with it."
    )


def finish(work: Path, target: Path) -> None:
    """Give a complete run its name: what only training needs is removed, then it is renamed."""
    leftovers = [
        *work.glob(".*"), *work.glob(f"{SNAPSHOTS}/.*"), work / "checkpoints", work / INPUTS_FILE,
    ]  # fmt: skip
    for entry in leftovers:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    (work / OWNER_FILE).unlink(missing_ok=True)
    share_files(work)
    os.replace(work, target)
