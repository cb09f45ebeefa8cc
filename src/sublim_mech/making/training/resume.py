"""Checkpoints: all that a killed training needs to go on to the same bits. Safetensors and JSON.

1. A checkpoint is a folder that appears under its name when it is complete: trained weights,
   AdamW's moments, the schedule's state, the log, the trainer's counters, and the checksums of
   these files.
2. The position in the data is the step, the order being a function of its seed; the random numbers
   of a step are a function of (seed, step, process). So no generator state is needed.
3. Two checkpoints are kept: a damaged one gives way to the one before it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...hints import outside
from ...storage.files import file_hash
from ...storage.runs import new_folder

CHECKPOINTS = "checkpoints"
"""The folder of a run in which it keeps what training goes on from."""

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"
"""Files of a checkpoint."""


def step_folder(step: int) -> str:
    """The name of a step's checkpoint or snapshot; names stand in the order of steps."""
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint or snapshot."""
    return int(folder.name.removeprefix("step-"))


def step_seed(seed: int, step: int, process: int) -> int:
    """Seed of the random numbers (dropout) that one process draws in one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()[:7])


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------------------------------ writing


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    optimizer: Any,
    state: Mapping[str, Any],
    also: Callable[[Path], None],
) -> Path:
    """Write a checkpoint; the newest one before it stays.

    Args:
        folder: where checkpoints are.
        step: optimiser steps taken.
        model: its trained parameters are written.
        optimizer: AdamW over these.
        state: JSON beside the tensors.
        also: writes further files into the folder it is given.

    Raises:
        OSError, SafetensorError: no space, no permission; the earlier checkpoints are as they were.
    """
    # before and not after writing: two at a time are enough. Damaged ones that the training came
    # past again do not count, or the one it goes on from would be among the old
    known = checkpoints(folder)
    past = [old for old in known if step_of(old) >= step]
    for old in [*past, *known[len(past) :][1:]]:
        shutil.rmtree(old)
    target = folder / step_folder(step)

    with new_folder(target, durable=True) as work:
        parameters = trained_parameters(model).items()
        save_file({name: p.detach().contiguous() for name, p in parameters}, work / WEIGHTS)
        moments = {
            f"{i}.{name}": value.contiguous()
            for i, of_parameter in optimizer.state_dict()["state"].items()
            for name, value in of_parameter.items()
        }
        save_file(moments, work / MOMENTS)
        also(work)
        # the sums come last: they say what a whole checkpoint holds
        sums = {file.name: file_hash(file) for file in sorted(work.iterdir())}
        (work / STATE).write_text(json.dumps({**state, "step": step, "sums": sums}))
    return target


# ------------------------------------------------------------------------------------------ reading


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON state, its files verified.

    Raises:
        ValueError: a file is missing, truncated or changed.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        for name, digest in state["sums"].items():
            if file_hash(path / name) != digest:
                raise ValueError(f"{path / name} is truncated or was changed")
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r})") from error
    return state


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint whose files are whole; None where there is no checkpoint at all.

    A warning says when an older one has to serve.

    Raises:
        ValueError: there are checkpoints and all are damaged.
    """
    damaged = []
    for path in checkpoints(folder):
        try:
            read_state(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(
                f"{'; '.join(damaged)}: training goes on from {path}.", stacklevel=outside()
            )
        return path
    if damaged:
        raise ValueError(
            f"no checkpoint is left to go on from: {'; '.join(damaged)}. "
            f"Remove {folder.parent} to train from the beginning."
        )
    return None


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        ValueError: they are another model's.
    """
    stored, parameters = load_file(path / WEIGHTS), trained_parameters(model)
    if stored.keys() != parameters.keys():
        different = sorted(stored.keys() ^ parameters.keys())
        raise ValueError(f"{path} has other parameters than this model: {different[:3]}.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def load_moments(path: Path, optimizer: Any) -> None:
    """Put a checkpoint's AdamW state into the optimiser."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / MOMENTS).items():
        i, name = key.split(".", 1)
        moments.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
