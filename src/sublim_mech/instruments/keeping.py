"""Keeping: what long calls have finished is stored, and found again when they are made again.

1. A *unit* is one student on one prompt. With `keep=folder` instruments measure unit by unit, so
   that its numbers depend on nothing but itself: not on which prompts stand beside it, nor on how
   much was finished when the call ended.
2. Its file is named by the hash of everything that decides its numbers (`unit_name`): models,
   prompt, answers, metric, what was asked, how it is computed (types, device, threads, versions).
   Calls of any kind may share a folder, and what two calls have in common is computed once.
3. A file is written under a temporary name and renamed, and holds the checksum of its numbers. One
   that is damaged is named and computed again.

The same call after an interruption gives the same bits as one that was never interrupted. Beside a
call without `keep`, which lets prompts share a forward, it differs by float noise.

What the hash cannot see: of bases what `Base.hash` cannot (weights are rounded to bfloat16 there),
and of a metric of your own the functions that its functions call.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..engine.answers import Answers
from ..engine.pair import ModelPair
from ..hints import outside
from ..metrics import Metric
from ..models.compat import attention_kernel
from ..models.students import Student
from ..models.watching import check_weights
from ..prompts import Prompt
from ..results.identity import code, content
from ..storage.files import check_no_model, check_place, place, read_arrays, write_arrays

FORMAT = 1
"""Of the files and of what is computed: raised where an instrument's numbers change."""

KIND = "kept"


def keep_folder(keep: str | os.PathLike[str] | None) -> Path | None:
    """The folder of `keep=`, checked before anything is computed; made when something is written.

    Raises:
        FileExistsError, PermissionError, ValueError: a file has this name; it cannot be written to;
            it is empty; it is a model's.
    """
    if keep is None:
        return None
    folder = place(keep, "keep")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"keep={str(keep)!r} is a file; name a folder, which finished prompts are stored in."
        )
    check_place(folder / "unit", "keep")
    check_no_model(folder, "keep", keep)
    return folder


def unit_name(
    pair: ModelPair,
    student: Student,
    metric: Metric,
    asked: tuple[Prompt, Answers],
    options: Any,
) -> str:
    """The hash of everything that decides what is measured, in hexadecimal.

    Args:
        pair: the models.
        student: which student.
        metric: what is measured.
        asked: the prompt, and the trie behind it.
        options: what the instrument was asked for, as `results.identity.content` writes it.
    """
    prompt, answers = asked
    decides = {
        "format": FORMAT,
        "models": [pair.hash, student.hash, student.kind, sorted(student.deltas)],
        # a student that is not split is named as before
        **({"split": _split(student)} if student.split_by else {}),
        "weights": _types(pair, student),
        "computed": {
            "compute": str(pair.compute),
            "memory": pair.memory,
            "layout": content(pair.layout),
            "attention": str(attention_kernel(pair.model)),
            "device": _device(pair.device),
            "threads": torch.get_num_threads(),
            "precision": torch.get_float32_matmul_precision(),
            "versions": [torch.__version__, transformers.__version__],
        },
        "prompt": [list(map(int, prompt.ids)), repr(answers)],
        "metric": [content(metric), code(metric)],
        "asked": content(options),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _split(student: Student) -> list[Any]:
    """What a student is split into."""
    sketch = [student.sketch] if student.sketch else []
    return [student.split_by, student.widths, student.cells, *sketch]


def _types(pair: ModelPair, student: Student) -> list[str]:
    """Floating-point types of the weights of base and student."""
    types = {str(p.dtype) for p in pair.model.parameters()}
    of_student = {content(type(delta)) for delta in student.deltas.values()}
    for delta in student.deltas.values():
        parts = [part for part in vars(delta).values() if isinstance(part, torch.Tensor)]
        of_student |= {str(part.dtype) for part in parts}
    return [*sorted(types), "student", *sorted(of_student)]


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def check_unchanged(pair: ModelPair, student: Student) -> None:
    """Raise where weights were changed since they were hashed: a unit that is found has no forward
    that would notice.
    """
    check_weights(pair.watch, f"base={pair.name!r}", when="begin")
    student.check_unchanged("begin")
    pair.settle(student)


# -------------------------------------------------------------------------------------------- files


def find(folder: Path, name: str, question: str) -> dict[str, np.ndarray] | None:
    """The arrays of a unit; None where there are none yet, or where its file is damaged, which is
    warned of.
    """
    file = _file(folder, name)
    if not file.exists():
        return None
    try:
        arrays, meta = read_arrays(file, KIND)
        if meta.get("sum") != _sum(arrays):
            raise ValueError("its numbers are not those that were written")
    except (ValueError, OSError) as error:
        warnings.warn(
            f"keep: {file} is damaged ({error}); it is computed again, of prompt "
            f"{question[:60]!r}.",
            stacklevel=outside(),
        )
        return None
    return arrays


def store(folder: Path, name: str, arrays: Mapping[str, np.ndarray], **told: Any) -> None:
    """Write the arrays of a unit, complete or not at all.

    Args:
        folder: where.
        name: of the unit.
        arrays: of at least one axis each.
        told: for people who look into the file; nothing reads it.
    """
    meta = {"format": FORMAT, "sum": _sum(arrays), **told}
    write_arrays(_file(folder, name), arrays, KIND, meta)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _sum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
