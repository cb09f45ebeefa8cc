"""Storing a finished adapter in another precision."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...storage.files import configuration_sums, place, weight_sums
from ...storage.runs import Run, new_folder

ADAPTER = "adapter_model.safetensors"


def store_as(run: Run, out: str | Path, dtype: torch.dtype) -> Run:
    """Write an adapter run's weights in another precision as a run folder, without its snapshots.

    Raises:
        FileExistsError: `out` exists.
        ValueError: the run is not an adapter.
    """
    target = place(out, "out")
    if run.manifest.kind != "lora":
        raise ValueError(
            f"run={str(run.path)!r} is a {run.manifest.kind} run; "
            "only adapters are stored in another precision."
        )
    if target.exists():
        raise FileExistsError(f"out={str(target)!r} exists; choose another folder.")
    with new_folder(target) as work:
        for file in run.path.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copy(file, work / file.name)
        tensors = {name: x.to(dtype) for name, x in load_file(run.path / ADAPTER).items()}
        save_file(tensors, work / ADAPTER, metadata={"format": "pt"})

        # another precision is another content; manifests older than the content hash stay without
        method = {**run.manifest.method, "store": str(dtype).removeprefix("torch.")}
        manifest = replace(
            run.manifest,
            method=method,
            weights=weight_sums(work),
            configurations=configuration_sums(work),
        )
        if run.manifest.content:
            manifest = replace(manifest, content=manifest.fingerprint())
        manifest.save(work)
    return Run(target, manifest)
