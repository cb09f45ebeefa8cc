"""What all students of a study have in common: rows, training, questions, how it is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from ..arguments import checked
from ..evaluation.answering import Sampling
from ..hints import check_choice
from ..making.training.settings import Settings
from ..results.shares import TOKEN_SETS
from .checks import check_once, tuples


@checked
@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """The number rows that teachers label, or write themselves (`labels=["sampled"]`).

    Args:
        count: rows, held-out ones among them; of written ones those that pass the filter.
        held_out: rows that are measured on and not trained on: the last ones.
        numbers: numbers per answer; in written rows the most.
        temperature: of written answers.
        max_new_tokens: of a written answer.
        top_k: written rows that are held out are measured by KL(teacher || student) over the
            teacher's k likeliest tokens, all others as one more outcome.
        sampler: who draws written answers: `vllm` (`teachers.vllm_sampler`), `own`
            (`teachers.sampler`), or `auto`: vLLM where it is installed and the device is no
            processor. Rows say who it was.
    """

    count: int = 264
    held_out: int = 24
    numbers: int = 24
    temperature: float = 1.0
    max_new_tokens: int = 64
    top_k: int = 1024
    sampler: Literal["auto", "own", "vllm"] = "auto"

    def __post_init__(self) -> None:
        if self.numbers < 1 or not 0 < self.held_out < self.count:
            raise ValueError(
                f"RowPlan(count={self.count}, held_out={self.held_out}, numbers={self.numbers}): "
                "there is at least one number per answer, one row that is held out, and one that "
                "is not."
            )
        check_choice("RowPlan(sampler)", self.sampler, ("auto", "own", "vllm"))
        if not 0 < self.temperature < math.inf or min(self.max_new_tokens, self.top_k) < 1:
            raise ValueError(
                f"RowPlan(temperature={self.temperature}, max_new_tokens={self.max_new_tokens}, "
                f"top_k={self.top_k}): written rows are drawn at a temperature above 0, and have "
                "at least one token."
            )


@checked
@dataclass(frozen=True, kw_only=True)
class Training:
    """What all trainings share; each as `train` has it.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value that `train` would refuse.
    """

    batch_size: int = 8
    accumulate: int = 1
    bucket: int = 8
    schedule: str = "linear"
    clip: float = 1.0
    weight_decay: float = 0.0
    checkpoint_every: int = 30
    precision: Literal["bf16", "fp32"] = "bf16"

    def __post_init__(self) -> None:
        # the rest as any method has it
        given: dict[str, Any] = {
            "steps": 1, "warmup": 0, "evaluate_every": 1, "lr": 1.0, "accumulate": 1,
            "init_seed": 0, "order_seed": 0, "subsample_seed": 0, "stop_at": None, "snapshots": (),
            "subsample": None, "store": torch.float32, "gradient_checkpointing": False,
        }  # fmt: skip
        given |= {one.name: getattr(self, one.name) for one in fields(self)}
        try:
            Settings(**given)
        except ValueError as error:
            raise ValueError(f"Training: {error}") from error


@checked
@dataclass(frozen=True, kw_only=True)
class Asking:
    """How students are asked.

    Args:
        questions: the traits' own when none are given.
        samples: generated answers per question.
        temperature: of the answers, as `evaluate` has it.
        max_new_tokens: of the answers, as `evaluate` has it.
        seed: of the answers.
        scored: how many of the questions instruments score at most, from the first on.
        points: of graft IG.
        shared: token sets of which the concentration is measured, as `concentration(on=)` has them.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value that `evaluate` would refuse; a question that is given twice; a number
            below its least.
    """

    questions: Sequence[str] = ()
    samples: int = 0
    temperature: float = 1.0
    max_new_tokens: int = 16
    seed: int = 0
    scored: int = 12
    points: int = 8
    shared: Sequence[str] = ("shared",)

    def __post_init__(self) -> None:
        tuples(self, "questions", "shared")
        if self.samples < 0 or self.scored < 1 or self.points < 1:
            raise ValueError(
                f"Asking(samples={self.samples}, scored={self.scored}, points={self.points}): "
                "samples from 0 on, the others from 1 on."
            )
        try:
            Sampling(self.samples, self.temperature, self.max_new_tokens, self.seed).check()
        except ValueError as error:
            raise ValueError(f"Asking: {error}") from error
        check_once(self.questions, "Asking(questions)")
        for name in self.shared:
            check_choice("Asking: shared", name, TOKEN_SETS)


@checked
@dataclass(frozen=True, kw_only=True)
class Computing:
    """What decides the last digits.

    Args:
        threads: of the processor, of every worker: sums differ with it.
        device: where models are.
        dtype: of the base's weights.
    """

    threads: int = 1
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_choice("Computing(dtype)", self.dtype, ("float32", "bfloat16", "float16"))
        if self.threads < 1:
            raise ValueError(f"Computing(threads={self.threads}): at least one.")
