"""Run folders: weights, manifest and log, complete or not there at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .files import weight_sums
from .manifest import Manifest


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its manifest."""

    path: Path
    manifest: Manifest

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
        raise FileNotFoundError(f"path={str(path)!r} is no run folder: it has no manifest.json.")
    return Run(Path(path), manifest)


def store_as(run: Run, out: str | Path, dtype: torch.dtype) -> Run:
    """Write an adapter run's weights in another precision as a run folder of its own.

    Raises:
        FileExistsError: `out` exists.
        ValueError: the run is not an adapter.
    """
    target, name = Path(out), "adapter_model.safetensors"
    if target.exists():
        raise FileExistsError(f"out={str(target)!r} exists; remove it or choose another folder.")
    if run.manifest.kind != "lora":
        raise ValueError(f"run={str(run.path)!r} is a {run.manifest.kind} run; only adapters are stored in another precision.")
    with new_folder(target) as work:
        for file in run.path.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, work / file.name)
        tensors = {key: x.to(dtype) for key, x in load_file(run.path / name).items()}
        save_file(tensors, work / name, metadata={"format": "pt"})
        method = {**run.manifest.method, "store": str(dtype).removeprefix("torch.")}
        manifest = replace(run.manifest, method=method, weights=weight_sums(work))
        manifest.save(work)
    return Run(target, manifest)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        for file in work.iterdir():
            file.chmod(0o644)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
