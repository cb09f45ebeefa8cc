"""Runs of a small model that stop on the way: what tests of resuming and of run folders share."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stopping import StopAt, StopError
from trainings import small_base, small_hard

from sublim_mech.making.rows import Row
from sublim_mech.making.training import FullFT, LoRA, TrainingData, train
from sublim_mech.models.base import Base
from sublim_mech.storage.runs import Run, unfinished

ROWS = [
    Row(f"Continue: {i}", ",".join(str(100 + i + k) for k in range(1 + i % 5))) for i in range(26)
]
CALLS: dict[str, dict[str, Any]] = {
    "lora": {"method": LoRA(rank=4, dropout=0.1), "precision": "fp32", "accumulate": 2},
    "full": {
        "method": FullFT(freeze="norms"),
        "precision": "bf16",
        "schedule": "cosine",
        "weight_decay": 0.1,
    },
}
SHORT: dict[str, Any] = {
    "steps": 10,
    "batch_size": 4,
    "warmup": 2,
    "lr": 3e-3,
    "held_out": 5,
    "evaluate_every": 3,
    "bucket": 2,
    "snapshots": "log",
    "checkpoint_every": 2,
    "progress": False,
}


class Made(NamedTuple):
    """What is trained."""

    base: Base
    data: TrainingData


def made_of(tokenizer: Any) -> Made:
    """A small model, and rows for it."""
    return Made(small_base(tokenizer), small_hard(tokenizer, ROWS))


def fit(made: Made, out: Path, **options: Any) -> Run:
    """A training of ten steps, unless the options say otherwise."""
    return train(made.base, made.data, out=out, **{**SHORT, **options})


def interrupted(made: Made, out: Path, step: int, **options: Any) -> Path:
    """A run that stopped with an exception after a step; its unfinished folder."""
    with pytest.raises(StopError):
        fit(made, out, callbacks=[StopAt(step)], **{**CALLS["lora"], **options})
    return unfinished(out)


def copied(folder: Path, out: Path) -> Path:
    """A copy of an unfinished folder, as that of another run."""
    return Path(shutil.copytree(folder, unfinished(out)))


def different(one: Path, other: Path) -> list[str]:
    """Files that two folders do not share byte for byte."""
    names = {
        str(path.relative_to(folder))
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file()
    }
    _, mismatched, missing = filecmp.cmpfiles(one, other, sorted(names), shallow=False)
    return sorted([*mismatched, *missing])
