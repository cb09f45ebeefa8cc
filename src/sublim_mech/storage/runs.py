"""Run folders: weights, manifest and log, complete or not there at all.

A run trains in `<name>.unfinished/` beside its place; the folder takes its name when it is
complete. One process at a time holds an unfinished folder (`claims`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .claims import OWNER_FILE, UNFINISHED
from .files import sync
from .manifest import MANIFEST_FILE, Manifest

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
        folders = sorted(self.path.glob("snapshots/step-*"))
        return {int(folder.name.removeprefix("step-")): folder for folder in folders}

    def __repr__(self) -> str:
        before, after = self.manifest.results["held_out"]
        steps = self.manifest.results["steps"]
        return (
            f"Run({str(self.path)!r}, {self.manifest.kind}, held-out {before:.5f} -> {after:.5f} "
            f"in {steps} steps)"
        )


def open_run(path: str | Path) -> Run:
    """Open a finished run folder.

    Raises:
        FileNotFoundError: there is none, or it has no manifest.
        ValueError: the manifest cannot be read.
    """
    manifest = Manifest.load(Path(path))
    if manifest is not None:
        return Run(Path(path), manifest)
    hint = ""
    work = unfinished(Path(path))
    if work.exists():
        hint = (
            f" {work} is a training that has not finished: the same call of train(...) goes on "
            "with it."
        )
    raise FileNotFoundError(
        f"path={str(path)!r} is no run folder: it has no {MANIFEST_FILE}.{hint}"
    )


@contextmanager
def new_folder(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete.

    Args:
        target: its place.
        durable: it is on the disk when the block ends.
    """
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


def unfinished(target: Path) -> Path:
    """Where a run trains until it is complete."""
    return target.with_name(target.name + UNFINISHED)


def finish(work: Path, target: Path) -> None:
    """Give a complete run its name: what only training needs is removed, then it is renamed."""
    leftovers = [
        *work.glob(".*"), *work.glob("snapshots/.*"), work / "checkpoints", work / INPUTS_FILE,
    ]  # fmt: skip
    for entry in leftovers:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    (work / OWNER_FILE).unlink(missing_ok=True)
    os.replace(work, target)
