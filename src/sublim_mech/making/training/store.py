"""Storing a finished adapter in another precision."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...storage.files import weight_sums
from ...storage.runs import Run, new_folder


def store_as(run: Run, out: str | Path, dtype: torch.dtype) -> Run:
    """Write an adapter run's weights in another precision as a run folder of its own, without its snapshots.

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
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copy(file, work / file.name)
        tensors = {key: x.to(dtype) for key, x in load_file(run.path / name).items()}
        save_file(tensors, work / name, metadata={"format": "pt"})
        method = {**run.manifest.method, "store": str(dtype).removeprefix("torch.")}
        manifest = replace(run.manifest, method=method, weights=weight_sums(work))
        manifest = replace(manifest, content=manifest.fingerprint() if run.manifest.content else "")
        manifest.save(work)
    return Run(target, manifest)
