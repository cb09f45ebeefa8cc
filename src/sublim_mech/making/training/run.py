"""`train`: one call from a base model and rows to a finished run folder."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...hints import SCHEDULES, check_choice, strict
from ...models.base import Base
from ...models.checks import check_finite
from ...prompts import Trained
from ...storage.claims import OWNER_FILE, claimed
from ...storage.compare import differences
from ...storage.files import replacing, weight_sums
from ...storage.manifest import MANIFEST_FILE, Manifest
from ...storage.runs import INPUTS_FILE, Run, finish, open_run, unfinished
from .data import PAD, Drawn, TrainingData, count, plan, shares
from .methods import FullFT, LoRA
from .objectives import WORDS, choose_objective
from .processes import Processes
from .resume import CHECKPOINTS, SNAPSHOTS, newest_good
from .trainee import Trainee

FINISHED = -1


def log_spaced(steps: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... below `steps`."""
    return tuple(2**i for i in range(steps.bit_length()) if 2**i < steps)


@strict
def train(
    base: Base,
    data: TrainingData,
    *,
    out: str | Path,
    method: LoRA | FullFT | None = None,
    objective: str | None = None,
    lr: float | None = None,
    steps: int = 60,
    batch_size: int = 16,
    accumulate: int = 1,
    bucket: int = 1,
    schedule: str = "linear",
    warmup: int = 5,
    clip: float | None = 1.0,
    weight_decay: float = 0.0,
    held_out: int | TrainingData = 48,
    evaluate_every: int = 20,
    stop_at: float | None = None,
    snapshots: Sequence[int] | str = (),
    checkpoint_every: int = 20,
    subsample: int | None = None,
    init_seed: int = 0,
    order_seed: int = 0,
    subsample_seed: int = 0,
    precision: str = "bf16",
    gradient_checkpointing: bool = False,
    store: torch.dtype = torch.float32,
    callbacks: Sequence[Any] = (),
    report_to: str | Sequence[str] = "none",
    progress: bool = True,
) -> Run:
    """Train a student of a base model.

    Killed at any moment, the same call goes on from the last checkpoint to the weights it would have had. Where `out` is a finished
    run of the same content (`Manifest.inputs`) it is opened and nothing is trained.

    Args:
        base: the base model; it is not changed.
        data: `soft_data` or `hard_data`.
        out: the run folder; until the run is complete it is `<out>.unfinished`.
        method: `LoRA(...)` or `FullFT()`.
        objective: `cross-entropy` (hard rows), `forward-kl`, `reverse-kl` or `logit-mse` (soft labels); cross-entropy or forward KL
            when not given.
        lr: peak learning rate of AdamW; the method's default if None.
        steps: optimiser steps (the length of the schedule).
        batch_size: rows per step, of all processes together.
        accumulate: forwards that a step is cut into, to save memory; the gradient is that of the whole step's mean.
        bucket: rows are regrouped into batches of like lengths within windows of this many steps; 1 keeps the order as it is.
        schedule: what follows the linear warm-up: `linear` or `cosine` decay to 0, or `constant`.
        warmup: warm-up steps.
        clip: the gradient's norm is clipped to this; None for no clipping.
        weight_decay: of AdamW.
        held_out: how many of the last rows are kept out of training, or other data to measure on. Loss per answer token, computed in
            fp32: forward KL on soft labels, whatever the objective, and cross-entropy on hard rows.
        evaluate_every: steps between held-out evaluations.
        stop_at: stop as soon as the held-out loss is at or below this (to compare students at equal imitation).
        snapshots: steps after which the student is stored in `snapshots/step-000016/` and measured, or `log` for 1, 2, 4, 8, ...
        checkpoint_every: steps between checkpoints, of which two are kept until the run is complete; 0 for none.
        subsample: train on this many of the rows only, chosen at random.
        init_seed: seed of the adapter's initialisation and of dropout.
        order_seed: seed of the data order.
        subsample_seed: seed of the choice of rows.
        precision: `bf16` (autocast) or `fp32`; what trains is in fp32 in either case.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        store: dtype of the stored weights.
        callbacks: `transformers.TrainerCallback`s. Their own state is no part of checkpoints.
        report_to: trackers, as `transformers.TrainingArguments` takes them.
        progress: show a progress bar.

    Returns:
        The run; its folder opens in `load_pair`, PEFT and transformers.

    Raises:
        FileExistsError: `out` exists and is no run.
        FolderInUseError: another process is training this run.
        TypeError: an unknown option.
        ValueError: an option out of range; labels of another base model; fewer rows than held out; `out` is a run of other content
            (the message says what differs); the loss became NaN (the last good snapshot stays); no checkpoint can be read.

    Example:
        >>> data = sm.training.hard_data(pair.tokenizer, sm.numbers.random_rows(8, seed=0, count=3))
        >>> run = sm.train(pair.base, data, out=folder / "run", method=sm.LoRA(rank=2), steps=2, batch_size=2, held_out=2, progress=False)
        >>> sm.load_pair(pair.base, run.path).student.kind
        'lora'
    """
    method = method or LoRA()
    target = Path(out)
    if isinstance(snapshots, str):
        check_choice("snapshots", snapshots, ["log"])
        snapshots = log_spaced(steps)
    options: dict[str, Any] = {
        "lr": method.lr if lr is None else lr, "steps": steps, "batch_size": batch_size, "accumulate": accumulate,
        "bucket": bucket, "schedule": schedule, "warmup": warmup, "clip": clip, "weight_decay": weight_decay,
        "evaluate_every": evaluate_every, "stop_at": stop_at, "snapshots": sorted(set(snapshots)), "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip
    here = Processes.now(base)
    _check(options | {"checkpoint_every": checkpoint_every}, here)
    kind = choose_objective(objective, data)
    data.check(base)
    pool, held_data, held_rows = _rows(data, held_out, subsample, subsample_seed)
    if held_data is not data:
        held_data.check(base, name="held_out")
    subsampled = len(pool) < len(data.prompts) - (len(held_rows) if held_data is data else 0)
    draft = Manifest(
        kind=method.kind,
        trait=data.trait,
        teacher=data.teacher,
        base={"name": base.name, "hash": base.hash},
        context=data.context,
        method={**asdict(method), "store": str(store).removeprefix("torch.")},
        objective=f"{WORDS[kind]} on {data.labelled}",
        data={
            "hash": data.hash, "rows": len(data.prompts), "support": data.support and list(data.support), "subsample": subsample,
            "held_out": len(held_rows), "held_out_hash": None if held_data is data else held_data.hash,
        },
        optimiser={"name": "AdamW", "padding": PAD, "order": _order_words(bucket), **options},
        seeds={
            "init": init_seed, "order": order_seed, "subsample": subsample_seed,
            "live": _live(base, method, subsampled),
        },
        results={},
        trained_on=Trained.of([data.prompts[r] for r in pool], [data.completions[r] for r in pool]),
        versions={name: version(name) for name in ("torch", "transformers", "peft", "sublim_mech")},
        weights={},
    )  # fmt: skip
    draft = replace(draft, content=draft.fingerprint())
    options |= {"init_seed": init_seed, "order_seed": order_seed, "checkpoint_every": checkpoint_every}
    work = unfinished(target)
    with ExitStack() as stack:
        start = here.agree(lambda: _enter(stack, target, draft))
        if start != FINISHED:
            from .loop import Task, fit  # transformers' trainer takes seconds to import

            with _own_randomness(init_seed):
                trainee = Trainee.of(base, method)
                task = Task(
                    trainee, data, kind, held_data, held_rows, _draw(data, pool, options, here), draft, store, options, work,
                    work / CHECKPOINTS / f"step-{start:06d}" if start else None, here,
                )  # fmt: skip
                state = fit(task, callbacks=callbacks, report_to=report_to, progress=progress)
            check_finite(trainee.model, argument="student", name=str(target))
            if here.process == 0:
                task.write(work, state)
                finish(work, target)
    here.wait()
    return open_run(target)


def _order_words(bucket: int) -> str:
    words = "one seeded permutation of the rows after the other"
    return words if bucket == 1 else f"{words}; regrouped into batches of like lengths within windows of {bucket} steps"


def _check(options: dict[str, Any], here: Processes) -> None:
    """Options out of range."""
    for name, least in {"steps": 1, "batch_size": 1, "accumulate": 1, "bucket": 1, "evaluate_every": 1, "warmup": 0,
                        "checkpoint_every": 0}.items():  # fmt: skip
        if options[name] < least:
            raise ValueError(f"{name}={options[name]}: must be at least {least}.")
    for name in ("lr", "clip"):
        if options[name] is not None and not options[name] > 0:
            raise ValueError(
                f"{name}={options[name]}: must be above 0" + (", or None for no clipping." if name == "clip" else ".")
            )
    if options["weight_decay"] < 0:
        raise ValueError(f"weight_decay={options['weight_decay']}: must not be below 0.")
    check_choice("schedule", options["schedule"], SCHEDULES)
    if options["precision"] not in ("bf16", "fp32"):
        raise ValueError(f"precision={options['precision']!r}: pass 'bf16' or 'fp32'.")
    parts = options["accumulate"] * here.count
    if options["batch_size"] % parts:
        raise ValueError(
            f"batch_size={options['batch_size']}: must be a multiple of accumulate={options['accumulate']} x {here.count} processes."
        )
    beyond = [s for s in options["snapshots"] if not 0 < s <= options["steps"]]
    if beyond:
        raise ValueError(
            f"snapshots={options['snapshots']}: steps {beyond} are not among the {options['steps']} steps of this run."
        )


def _rows(
    data: TrainingData, held_out: int | TrainingData, subsample: int | None, seed: int
) -> tuple[list[int], TrainingData, list[int]]:
    """(rows to train on, data to measure on, its rows)."""
    n = len(data.prompts)
    if isinstance(held_out, TrainingData):
        pool, held_data, held_rows = list(range(n)), held_out, list(range(len(held_out.prompts)))
    elif 0 < held_out < n:
        pool, held_data, held_rows = list(range(n - held_out)), data, list(range(n - held_out, n))
    else:
        raise ValueError(f"held_out={held_out}: must be between 1 and {n - 1}, the number of rows less one, or other data.")
    if subsample is not None:
        if not 0 < subsample <= len(pool):
            raise ValueError(f"subsample={subsample}: must be between 1 and {len(pool)}, the rows not held out.")
        pool = sorted(np.random.default_rng(seed).choice(pool, subsample, replace=False).tolist())
    return pool, held_data, held_rows


def _live(base: Base, method: LoRA | FullFT, subsampled: bool) -> list[str]:
    """The seeds that have an effect: a full fine-tune has nothing to initialise, and the model may have dropout of its own."""
    config: dict[str, Any] = base.model.config.to_dict()  # type: ignore[union-attr, operator]
    rates = [v for k, v in config.items() if "drop" in k and not k.startswith(("summary", "classifier"))]
    drops = any(isinstance(v, float) and v > 0 for v in rates)
    return ["init"] * (isinstance(method, LoRA) or drops) + ["order"] + ["subsample"] * subsampled


def _enter(stack: ExitStack, target: Path, draft: Manifest) -> int:
    """What is to be done: -1 where the run is finished, else the step of the checkpoint to go on from, 0 for none.

    The folder is held until the stack is left; unless it came to hold something worth keeping, it is removed then.
    """
    if target.exists():
        return _recognise(target, draft)
    work = unfinished(target)
    stack.callback(_tidy, work)
    stack.enter_context(claimed(work))
    if target.exists():  # by a process that was at work just now
        return _recognise(target, draft)
    if (work / MANIFEST_FILE).is_file():  # complete, and killed before it was renamed
        _recognise(work, draft)
        finish(work, target)
        return FINISHED
    for litter in work.glob("*/.*"):
        shutil.rmtree(litter, ignore_errors=True)
    start = newest_good(work / CHECKPOINTS)
    if _kept(work) and (work / INPUTS_FILE).is_file():
        _same(work, json.loads((work / INPUTS_FILE).read_text()), draft)
    with replacing(work / INPUTS_FILE) as file:
        file.write_text(json.dumps(draft.inputs(), indent=1, sort_keys=True))
    return 0 if start is None else int(start.name.removeprefix("step-"))


def _kept(work: Path) -> bool:
    return any(work.glob(f"{CHECKPOINTS}/step-*")) or any(work.glob(f"{SNAPSHOTS}/step-*"))


def _tidy(work: Path) -> None:
    """Remove an unfinished folder that nobody holds and that has nothing to go on from."""
    if work.exists() and not _kept(work) and not (work / MANIFEST_FILE).is_file() and not (work / OWNER_FILE).exists():
        shutil.rmtree(work)


def _recognise(folder: Path, draft: Manifest) -> int:
    manifest = Manifest.load(folder)
    if manifest is None:
        raise FileExistsError(f"out={str(folder)!r} exists; remove it or choose another folder.")
    _same(folder, manifest.inputs(), draft)
    if manifest.weights != weight_sums(folder):
        raise ValueError(
            f"out={str(folder)!r}: the weight files are not those its manifest.json names; remove it to train again."
        )
    return FINISHED


def _same(folder: Path, there: dict[str, Any], draft: Manifest) -> None:
    found = differences(there, draft.inputs())
    if found:
        raise ValueError(f"out={str(folder)!r} is another training: {'; '.join(found)}. Remove it or choose another folder.")


def _draw(data: TrainingData, pool: Sequence[int], options: dict[str, Any], here: Processes) -> Drawn:
    """The rows of all steps, in the order in which the trainer's processes take them."""
    lengths = [len(data.prompts[r]) + len(data.completions[r]) for r in pool]
    labelled = [count(data, r) for r in pool]
    rows, scale = [], []
    for batch in plan(
        lengths, steps=options["steps"], batch_size=options["batch_size"], seed=options["order_seed"], bucket=options["bucket"]
    ):
        parts = shares(batch, accumulate=options["accumulate"], processes=here.count)
        rows += [pool[r] for part in parts for r in part]
        scale += [here.count / sum(labelled[r] for r in batch)] * len(batch)
    return Drawn(data, rows, scale)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed every generator the trainer may touch, and give the caller's state back."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
