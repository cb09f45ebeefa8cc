"""The options of `train`: their types, what they may be, and which of them stand in a manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from ...arguments import checked
from ...hints import check_choice, counted

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""What follows the warm-up, by transformers' names."""

STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored in."""

STEPS = 60
"""Optimiser steps where neither steps nor epochs are said."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a student is trained; `train` says what each option means.

    Raises:
        ValueError: an option is out of range.
    """

    lr: float
    steps: int
    batch_size: int
    accumulate: int
    bucket: int
    schedule: str
    warmup: int
    clip: float | None
    weight_decay: float
    evaluate_every: int
    stop_at: float | None
    snapshots: tuple[int, ...]
    checkpoint_every: int
    subsample: int | None
    init_seed: int
    order_seed: int
    subsample_seed: int
    precision: str
    gradient_checkpointing: bool
    store: torch.dtype

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "bucket", "evaluate_every"):
            self._at_least(name, 1)
        for name in ("warmup", "checkpoint_every"):
            self._at_least(name, 0)
        # `not x > 0` and not `x <= 0`: a number that is none must not pass either
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr}: must be above 0.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip}: must be above 0, or None for no clipping.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay}: must not be below 0.")
        if self.stop_at is not None and not 0 <= self.stop_at < math.inf:
            raise ValueError(
                f"stop_at={self.stop_at}: pass a held-out loss, which is not below 0, or None to "
                "train to the end."
            )
        for name in ("init_seed", "order_seed", "subsample_seed"):
            self._at_least(name, 0)
        if self.init_seed >= 2**32:
            raise ValueError(
                f"init_seed={self.init_seed}: must be below 2**32, or transformers cannot seed "
                "numpy with it."
            )
        check_choice("schedule", self.schedule, SCHEDULES)
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision={self.precision!r}: pass 'bf16' or 'fp32'.")
        if self.store not in STORED:
            known = ", ".join(map(str, STORED))
            raise ValueError(f"store={self.store}: weights are stored in one of {known}.")
        if self.warmup >= self.steps:
            # the rate of step i (from 0) is lr * i / warmup until the warm-up ends
            most = self.lr * (self.steps - 1) / self.warmup
            raise ValueError(
                f"warmup={self.warmup}: must be below the {counted(self.steps, 'step')} of this "
                "run, whose "
                f"learning rate would reach {most:g} at most and never lr={self.lr:g}; pass "
                "warmup=0, or more steps."
            )
        beyond = [step for step in self.snapshots if not 0 < step <= self.steps]
        if beyond:
            raise ValueError(
                f"snapshots={list(self.snapshots)}: steps {beyond} are not among the "
                f"{counted(self.steps, 'step')} of this run."
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}.")

    def check_processes(self, count: int) -> None:
        """Raise ValueError where a step cannot be shared out equally among so many processes."""
        if self.batch_size % (self.accumulate * count):
            raise ValueError(
                f"batch_size={self.batch_size}: must be a multiple of "
                f"accumulate={self.accumulate} x {count} processes."
            )

    @property
    def rows_per_forward(self) -> int:
        """Rows of one forward, of all processes together."""
        return self.batch_size // self.accumulate

    def recorded(self) -> dict[str, Any]:
        """The options that a manifest lists under `optimiser`, by their names.

        Seeds, the subsample and the stored precision stand elsewhere in it; `checkpoint_every`
        leaves no trace in the result and is not recorded.
        """
        return {
            "lr": self.lr,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "bucket": self.bucket,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "clip": self.clip,
            "weight_decay": self.weight_decay,
            "evaluate_every": self.evaluate_every,
            "stop_at": self.stop_at,
            "snapshots": list(self.snapshots),
            "precision": self.precision,
            "gradient_checkpointing": self.gradient_checkpointing,
        }


def step_count(steps: int | None, epochs: float | None, *, rows: int, batch_size: int) -> int:
    """Optimiser steps of a training.

    Args:
        steps: so many; 60 where neither is given.
        epochs: how often each row is drawn at least: the fewest whole steps that do.
        rows: how many rows are trained on.
        batch_size: rows per step.

    Raises:
        ValueError: both are given; epochs that are no number above 0.

    Example:
        >>> from sublim_mech.making.training.settings import step_count
        >>> step_count(None, 3, rows=240, batch_size=16)
        45
    """
    if epochs is None:
        return STEPS if steps is None else steps
    if steps is not None:
        raise ValueError(f"steps={steps} and epochs={epochs}: pass one of the two.")
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs={epochs}: must be above 0.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1.")
    # as it is written: 0.1 is a tenth, not the nearest binary fraction
    return math.ceil(Fraction(str(epochs)) * rows / batch_size)


@checked
def log_spaced(steps: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... below `steps`."""
    return tuple(2**i for i in range(steps.bit_length()) if 2**i < steps)


def snapshot_steps(snapshots: Sequence[int] | str, steps: int) -> tuple[int, ...]:
    """The steps after which a student is stored, ascending, where `log` stands for `log_spaced`.

    Raises:
        ValueError: another word than `log`.
    """
    if isinstance(snapshots, str):
        check_choice("snapshots", snapshots, ["log"])
        return log_spaced(steps)
    return tuple(sorted(set(map(int, snapshots))))
