"""`train`: one call from a base model and rows to a finished run folder."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...arguments import checked
from ...hints import counted, outside
from ...masks import Mask
from ...models.base import Base
from ...models.checks import check_finite
from ...models.configuration import computing
from ...models.devices import own_generators, without_autocast
from ...models.names import text_config
from ...prompts.alike import write_alike
from ...prompts.same import is_one_context
from ...prompts.vocabulary import vocabulary_hash
from ...results.contexts import apart
from ...storage.files import check_place, place
from ...storage.manifest import Manifest, prompts_hash
from ...storage.runs import Run, check_finished_name, finish, open_run, unfinished
from .aims import Aims
from .batches import PAD
from .data import TrainingData
from .ending import ending
from .folders import FINISHED, enter
from .methods import FullFT, LoRA
from .objectives import OBJECTIVE_WORDS, choose_objective
from .order import HELD_OUT, Division, divide, draw, order_words, repeats_rows
from .processes import Processes
from .resume import CHECKPOINTS, step_folder
from .selection import rows_with_labels, token_weights
from .settings import Settings, snapshot_steps, step_count
from .trainee import Trainee


@checked
def train(
    base: Base,
    data: TrainingData,
    *,
    out: str | Path,
    method: LoRA | FullFT | None = None,
    objective: str | None = None,
    lr: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 16,
    accumulate: int = 1,
    bucket: int = 1,
    schedule: str = "linear",
    warmup: int = 5,
    clip: float | None = 1.0,
    weight_decay: float = 0.0,
    held_out: int | TrainingData = HELD_OUT,
    held_out_seed: int | None = 0,
    held_out_by: Literal["row", "prompt"] = "row",
    evaluate_every: int = 20,
    stop_at: float | None = None,
    snapshots: Sequence[int] | str = (),
    checkpoint_every: int = 20,
    subsample: int | None = None,
    where: Mask | None = None,
    answer_in_where: bool = False,
    penalty: tuple[Mask, float] | None = None,
    tokens: Sequence[Any] | None = None,
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

    Killed at any moment, the same call goes on from the last checkpoint to the weights it would
    have had. Where `out` is a finished run of the same content (`Manifest.inputs`) it is opened and
    nothing is trained.

    Args:
        base: the base model; it is not changed.
        data: `soft_data` or `hard_data`.
        out: the run folder; until the run is complete it is `<out>.unfinished`.
        method: `LoRA(...)` or `FullFT()`.
        objective: `cross-entropy` (hard rows), `forward-kl`, `reverse-kl` or `logit-mse` (soft
            labels); cross-entropy or forward KL when not given.
        lr: peak learning rate of AdamW; the method's default if None.
        steps: optimiser steps (the length of the schedule); 60 where neither steps nor epochs are
            given.
        epochs: instead of steps, how often each row that is trained on is drawn: as many whole
            steps as that takes at least. The manifest keeps steps.
        batch_size: rows per step, of all processes together.
        accumulate: forwards that a step is cut into, to save memory; the gradient is that of the
            whole step's mean.
        bucket: rows are regrouped into batches of like lengths within windows of this many steps; 1
            keeps the order as it is.
        schedule: what follows the linear warm-up: `linear` or `cosine` decay to 0, or `constant`.
        warmup: warm-up steps, fewer than all: step i of them, from 0, has the learning rate
            lr x i / warmup.
        clip: the gradient's norm is clipped to this; None for no clipping.
        weight_decay: of AdamW.
        held_out: how many different rows are kept out of training, each with all its copies, or
            other data to measure on, of rows that are not trained on. Loss per answer token,
            computed in fp32: forward KL on soft labels, whatever the objective, and cross-entropy
            on hard rows.
        held_out_seed: seed of the draw of the rows that are kept out; None for the last rows
            instead, as earlier versions kept them out. Not used where `held_out` is data.
        held_out_by: `row`, or `prompt`: all rows of so many different prompts are kept out, so that
            no prompt is trained on and measured on. By row, prompts that are in both are told.
        evaluate_every: steps between held-out evaluations.
        stop_at: stop as soon as the held-out loss is at or below this (to compare students at equal
            imitation); it must be below that of the base. It is looked at every `evaluate_every`
            steps; a run that ends above it, or far below, is told.
        snapshots: steps after which the student is stored in `snapshots/step-000016/` and measured,
            or `log` for 1, 2, 4, 8, ...
        checkpoint_every: steps between checkpoints, of which two are kept until the run is
            complete; 0 for none.
        subsample: train on this many of the rows only, chosen at random.
        where: the cells at which the student's weights act and learn while it trains, a mask of
            prompt tokens (and modules) or of the answer's own tokens; everywhere when None.
            Elsewhere the base computes, which full fine-tuning then holds beside the student.
            `masks.sharing("shared")` is what all prompts that are trained on have in common. The
            held-out loss is that of the student under its gates.
        answer_in_where: whether the answer's own tokens are open too, with the modules of the mask.
        penalty: `(mask, strength)`: strength x the mean squared distance of the residual stream
            from the base's, over these tokens of all rows of a step and all blocks, is added to the
            loss.
        tokens: the weight of each answer token's loss, one array per row of the data, as
            `divergence` gives them: True and False, or numbers from 0 on. The step's loss is then
            the weighted mean, and rows without any weight are left out of training. The held-out
            loss is over all tokens.
        init_seed: seed of the adapter's initialisation and of dropout.
        order_seed: seed of the data order.
        subsample_seed: seed of the choice of rows.
        precision: `bf16` (autocast) or `fp32`; what trains is in fp32 in either case.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping
            them.
        store: dtype of the stored weights.
        callbacks: `transformers.TrainerCallback`s. Their own state is no part of checkpoints.
        report_to: trackers, as `transformers.TrainingArguments` takes them.
        progress: show a progress bar.

    Returns:
        The run; its folder opens in `load_pair`, PEFT and transformers.

    Raises:
        FileExistsError: `out` exists and is no run, or a file is in its way. All arguments are
            checked before what stands there.
        FolderInUseError: another process is training this run.
        PermissionError: no folder can be made at `out`.
        TypeError: an unknown option.
        ValueError: an option out of range, which is found before anything is read, computed or
            written; labels of another base model; fewer rows than held out; held-out rows that are
            trained on; `out` is a run of other content (the message says what differs); `stop_at`
            is reached by the base; the loss became NaN (the last good snapshot stays); no
            checkpoint can be read.

    Warns:
        UserWarning: the student ends with the weights of its base, above its `stop_at` or far below
            it, or with a higher held-out loss than its base on data like its own; held-out rows
            have prompts that are trained on with other answers, stand in another context than all
            that are, or are made for another trait; a batch has more rows than there are; `where`
            opens nothing in some rows; `freeze` names one of two groups that are one matrix.

    Example:
        >>> rows = sm.numbers.random_rows(8, seed=0, count=3)
        >>> data = sm.training.hard_data(pair.tokenizer, rows)
        >>> short = {"epochs": 1, "batch_size": 2, "warmup": 1, "held_out": 2, "progress": False}
        >>> run = sm.train(pair.base, data, out=folder / "run", method=sm.LoRA(rank=2), **short)
        >>> sm.load_pair(pair.base, run.path).student.kind
        'lora'
    """
    # settings first: an option out of range is an error before anything is read or written
    target = place(out, "out")
    method = method or LoRA()
    if not target.exists() or target.name in ("", ".."):
        check_place(target, "out")
        check_finished_name(target)
    division = divide(
        data,
        held_out,
        held_out_seed=held_out_seed,
        subsample=subsample,
        seed=subsample_seed,
        held_out_by=held_out_by,
    )
    weights = None
    if tokens is not None:
        weights = token_weights(tokens, data)
        # of all tokens alike there is nothing chosen: the loss is their mean
        values = np.concatenate(weights)
        weights = None if (values == values[0]).all() and values[0] > 0 else weights
    if weights is not None:
        trained = rows_with_labels(weights, data, division.trained)
        division = replace(division, trained=trained)
    taken = step_count(steps, epochs, rows=len(division.trained), batch_size=batch_size)
    settings = Settings(
        lr=method.lr if lr is None else lr,
        steps=taken,
        batch_size=batch_size,
        accumulate=accumulate,
        bucket=bucket,
        schedule=schedule,
        warmup=warmup,
        clip=clip,
        weight_decay=weight_decay,
        evaluate_every=evaluate_every,
        stop_at=stop_at,
        snapshots=snapshot_steps(snapshots, taken),
        checkpoint_every=checkpoint_every,
        subsample=subsample,
        init_seed=init_seed,
        order_seed=order_seed,
        subsample_seed=subsample_seed,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        store=store,
    )
    if batch_size > len(division.trained):
        warnings.warn(
            f"batch_size={batch_size}: more than the {counted(len(division.trained), 'row')} that "
            "are trained on, so that every step has rows several times; pass batch_size="
            f"{len(division.trained)} or less, or more rows.",
            stacklevel=outside(),
        )
    elif (told := repeats_rows(len(division.trained), batch_size, bucket)) is not None:
        warnings.warn(told, stacklevel=outside())
    base.check_unchanged()
    for told in method.notices(base):
        warnings.warn(told, stacklevel=outside())
    processes = Processes.now(base)
    settings.check_processes(processes.count)

    # the data: do they fit objective and base?
    objective = choose_objective(objective, data)
    data.check(base)
    if division.held_data is not data:
        division.held_data.check(base, name="held_out")

    # where it acts, what it is held to, and which tokens it takes
    aims = Aims.of(
        base,
        method,
        data,
        division,
        where=where,
        answer_in_where=answer_in_where,
        penalty=penalty,
        weights=weights,
    )

    # what only training needs is checked too: a folder that is there must not hide a mistake
    if target.exists():
        method.check(base)
    if len(callbacks) > 0 or report_to not in ("none", [], ()):
        from .loop import check_callbacks, check_trackers  # takes seconds

        check_callbacks(callbacks)
        check_trackers(report_to)
    if division.same_prompt:
        warnings.warn(_same_prompts(division, data), stacklevel=outside())
    for told in _measured_otherwise(base, data, division.held_data, stop_at):
        warnings.warn(told, stacklevel=outside())

    # the manifest without results: all that determines the run, and by which it is recognised
    draft = _draft(
        base, method, aims=aims, objective=objective, division=division, settings=settings
    )

    work = unfinished(target)
    with ExitStack() as stack:
        # the folder: process 0 finds out what is to be done, and holds it until the stack is left
        start = processes.agree(lambda: enter(stack, target, draft))

        if start != FINISHED:
            # transformers' trainer takes seconds to import, which opening a finished run need not
            from .job import Job
            from .loop import fit

            with own_randomness(init_seed), without_autocast():
                job = Job(
                    trainee=Trainee.of(base, method, where=aims.where, lesson=aims.lesson),
                    data=data,
                    objective=objective,
                    division=division,
                    drawn=draw(aims.lesson, division.trained, settings, processes),
                    settings=settings,
                    draft=draft,
                    folder=work,
                    start=work / CHECKPOINTS / step_folder(start) if start else None,
                    processes=processes,
                    measured=aims.measured,
                    pull=aims.pull(base, method),
                )
                state = fit(job, callbacks=callbacks, report_to=report_to, progress=progress)

            # the end: a student with weights that are no numbers is not stored
            check_finite(job.trainee.model, argument="student", name=str(target))
            if processes.writes:
                job.write(work, state)
                finish(work, target)
    processes.wait()
    run = open_run(target)
    for told in ending(run, data, division.held_data, at_tokens=weights is not None):
        warnings.warn(told, stacklevel=outside())
    return run


def _same_prompts(division: Division, data: TrainingData) -> str:
    """That held-out rows are new answers to prompts that were trained on."""
    different, held = len({prompt.ids for prompt in data.prompts}), len(division.held_rows)
    # of the prompts as large a part as of the rows, where there are not as many
    share = round(held * different / len(data.prompts))
    few = held if held < different else max(1, min(share, different - 1))
    what = f"{few} of the {different} different prompts"
    fix = f"held_out={few}, held_out_by='prompt' keeps out all rows of {what}"
    if division.held_seed is None:
        fix = f"numbers.split(rows, {few}, seed=0) holds out all rows of {what}"
    if different == 1:
        fix = "all rows have one prompt, so that no prompt can be kept out"
    return (
        f"held_out: {division.same_prompt} of {counted(len(division.held_rows), 'row')} "
        f"{'has' if division.same_prompt == 1 else 'have'} a prompt that is trained on with "
        f"another answer: their loss is that of new answers, not of new prompts; {fix}."
    )


def _measured_otherwise(
    base: Base, data: TrainingData, held_data: TrainingData, stop_at: float | None
) -> Iterator[str]:
    """What a held-out loss is of, and the training is not: prompts in another context, or by
    another chat template; another trait.
    """
    stops = "" if stop_at is None else f", and stop_at={stop_at:g} stops by it"
    if (asked := _asked_otherwise(base, data, held_data)) is not None:
        told, fix = asked
        yield (
            f"held_out: its rows are {told}: the held-out loss is that of prompts as none are "
            f"trained on{stops}. {fix}."
        )
    trained, held = _made_for(data), _made_for(held_data)
    if trained is None or held is None:
        return
    if trained.casefold() != held.casefold():
        here, there = held or "no trait", trained or "no trait"
        yield (
            f"held_out: its rows are made for {here}, those that are trained on for {there}: the "
            f"held-out loss says how well {here} is learnt{stops}. Hold out rows of {there}."
        )


def _made_for(data: TrainingData) -> str | None:
    """The trait that data are made for; empty of a teacher without one, None of hard rows of which
    nobody said it.
    """
    return None if data.label_kind == "hard" and not data.trait else data.trait


def _asked_otherwise(
    base: Base, data: TrainingData, held_data: TrainingData
) -> tuple[str, str] | None:
    """(how held-out rows stand in another context than those that are trained on, or are written by
    another chat template; what to do); None where they are as these.
    """
    # of one data set all prompts are in one context
    trained, held = data.prompts[0], held_data.prompts[0]
    if held.context != trained.context and not is_one_context(
        base.tokenizer, held.context, trained.context
    ):
        there, here = apart([str(trained.context.to_json())], [str(held.context.to_json())])
        return (
            f"in another context ({here}) than those that are trained on ({there})",
            "Make both in one context (hard_data(..., context=...); labels have that of their "
            "teachers' students)",
        )
    if write_alike(base.tokenizer, held.template, trained.template):
        return None
    return (
        "written by another chat template than those that are trained on",
        "Make both with one tokenizer and one template=",
    )


def _draft(
    base: Base,
    method: LoRA | FullFT,
    *,
    aims: Aims,
    objective: str,
    division: Division,
    settings: Settings,
) -> Manifest:
    """The manifest of a run before it is trained: everything but results and weights."""
    data, trained, held_data = aims.lesson.data, division.trained, division.held_data
    stored = {"store": str(settings.store).removeprefix("torch.")}
    draft = Manifest(
        kind=method.kind,
        trait=data.trait,
        teacher=data.teacher,
        base={
            "name": base.name,
            "hash": base.hash,
            "computing": computing(base.model),
            "vocabulary": vocabulary_hash(base.tokenizer),
        },
        context=data.context,
        method={**asdict(method), **stored, **aims.of_method()},
        objective=f"{OBJECTIVE_WORDS[objective]} on {data.labelled}",
        data={
            "hash": data.hash,
            "rows": len(data.prompts),
            "support": data.support and list(data.support),
            "subsample": settings.subsample,
            "held_out": len(division.held_rows),
            "held_out_hash": None if held_data is data else held_data.hash,
            # nothing where rows were drawn: so it was in the manifests of earlier versions
            **({"held_out_by": division.held_by} if division.held_by != "row" else {}),
            **aims.of_data(),
        },
        optimiser={
            "name": "AdamW",
            "padding": PAD,
            "order": order_words(settings.bucket),
            **settings.recorded(),
            **aims.of_optimiser(),
        },
        seeds={
            "init": settings.init_seed,
            "order": settings.order_seed,
            "subsample": settings.subsample_seed,
            # nothing where no rows were drawn: so it was in the manifests of earlier versions
            **({} if division.held_seed is None else {"held_out": division.held_seed}),
            "live": _live_seeds(base, method, division),
        },
        results={},
        trained_on=aims.trained_on,
        versions={name: version(name) for name in ("torch", "transformers", "peft", "sublim_mech")},
        weights={},
        prompts=prompts_hash([data.prompts[row].ids for row in trained]),
    )
    return replace(draft, content=draft.fingerprint())


def _live_seeds(base: Base, method: LoRA | FullFT, division: Division) -> list[str]:
    """The seeds that have an effect.

    A full fine-tune has nothing to initialise, but the model may draw for itself.
    """
    live = ["order"]
    if isinstance(method, LoRA) or _draws(text_config(base.model.config).to_dict()):
        live.insert(0, "init")
    if division.subsampled:
        live.append("subsample")
    if division.held_seed is not None:
        live.append("held_out")
    return live


def _draws(config: Mapping[str, Any]) -> bool:
    """Whether a model draws while it trains: dropout, or a router's jitter."""
    for name, value in config.items():
        if isinstance(value, Mapping) and _draws(value):
            return True
        called = str(name)  # of labels there are numbers
        draws = "drop" in called or "jitter" in called
        is_on = isinstance(value, float) and value > 0
        if draws and is_on and not called.startswith(("summary", "classifier")):
            return True
    return False


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed every generator the trainer may touch, and give the caller's state back."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with own_generators():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
