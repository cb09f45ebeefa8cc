"""The loop: transformers' `Trainer` on accelerate, with our loss, order and checkpoints.

1. `fit` sets the trainer up for a job, and where there is a checkpoint to go on from, takes up its
   log.
2. `Loop` is the trainer: the loss on answer tokens, the order that the data have, our checkpoints.
3. `Watch` stands by each step: it seeds it, and after it writes the log, measures held-out loss,
   and asks for snapshots and checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_callback import PrinterCallback

from ...hints import check_choice, counted, decimals, told_apart
from ...models.compat import checkpoint_activations, use_one_device
from ...storage.runs import SNAPSHOTS, new_folder
from .batches import collate
from .job import LOG, Job, log_lines
from .objectives import choose_objective
from .resume import (
    CHECKPOINTS,
    load_moments,
    load_weights,
    read_state,
    save_checkpoint,
    step_folder,
    step_seed,
)
from .settings import SCHEDULES


class Loop(Trainer):  # type: ignore[misc]
    """The trainer of a job.

    Private methods of transformers' `Trainer` that it overrides, as of transformers 5.24:

    - `_get_train_sampler`: the order is in the data.
    - `_get_grad_norm`: the norm is logged, and one that is no number stops the training.
    - `_save_checkpoint`, `_load_from_checkpoint`, `_load_optimizer_and_scheduler`: our checkpoints,
      of safetensors and JSON.
    - `_load_rng_state`, `_load_scaler`: nothing to load.
    """

    loss_is_scaled_for_ga = True  # `Drawn.scale` is

    def __init__(self, job: Job, **arguments: Any) -> None:
        self.job = job
        # of the step that is under way, summed and collected over its forwards
        self.step_loss = self.step_penalty = torch.zeros(())
        self.step_rows: list[int] = []
        self.grad_norm = self.rate = 0.0
        super().__init__(**arguments)

    # ------------------------------------------------------------------------------------- the step

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Those that weight decay pulls to 0: no vectors.

        transformers knows norms by their class or name, which leaves out some, and not the
        magnitudes of DoRA, which 0 makes no smaller change but a weight of 0.
        """
        named = super().get_decay_parameter_names(model)
        both = dict(model.named_parameters(remove_duplicate=False))  # tied ones under either name
        return [name for name in named if both[name].ndim > 1]

    def begin_step(self) -> None:
        """Forget the step before."""
        self.step_loss = self.step_penalty = torch.zeros(())
        self.step_rows = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Sum of token losses times the step's scale.

        Its gradient is a part of that of the mean over the step's tokens.
        """
        job, device = self.job, inputs["ids"].device
        self.step_rows += inputs["index"].tolist()
        bf16 = job.settings.precision == "bf16"
        with _autocast(device.type) if bf16 else nullcontext():
            with nullcontext() if job.pull is None else job.pull.watching(job.trainee.inner):
                losses = job.trainee.losses(model, inputs, job.objective, job.data.support)
            pulled = None if job.pull is None else job.pull.distance(inputs)
        if "weight" in inputs:
            losses = losses * inputs["weight"]
        loss = losses.sum() * inputs["scale"]
        if not torch.isfinite(loss):
            self._stop(f"loss became {float(loss.detach())}")
        self.step_loss = self.step_loss.to(device) + loss.detach() / job.processes.count
        if pulled is None or job.pull is None:
            return loss
        penalty = job.pull.strength * pulled * inputs["pull_scale"]
        self.step_penalty = self.step_penalty.to(device) + penalty.detach() / job.processes.count
        return loss + penalty

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm = float(norm)
        self.rate = float(self.optimizer.param_groups[0]["lr"])
        if not torch.isfinite(torch.tensor(self.grad_norm)):
            self._stop(f"gradient's norm became {self.grad_norm}")
        return norm

    def _stop(self, what: str) -> NoReturn:
        """End the training before the optimiser's step, and name step, rows and what is left."""
        rows = ", ".join(map(str, sorted(self.step_rows)))
        snapshots = sorted(self.job.folder.glob(f"{SNAPSHOTS}/step-*"))
        last = f" The last good snapshot is {snapshots[-1]}." if snapshots else ""
        raise ValueError(
            f"the {what} at step {self.state.global_step + 1}, on rows {rows} of the data; "
            f"lower lr={self.job.settings.lr:g} or look at these rows.{last}"
        )

    # ------------------------------------------------------------------------ measuring and storing

    @torch.no_grad()
    def held_out(self) -> float:
        """Held-out loss per token, without autocast, each process on its part of the rows."""
        job, model, processes = self.job, self.model, self.job.processes
        data = job.measured.data
        objective = choose_objective(None, data)  # not training's: students are compared by it
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()

        # long rows first: those of like lengths are padded alike
        lengths = data.lengths
        rows = sorted(job.division.held_rows, key=lambda row: -lengths[row])
        width = job.settings.rows_per_forward
        total = torch.zeros(2, dtype=torch.double)  # sum of losses, number of tokens
        for start in range(0, len(rows), width):
            share = rows[start : start + width][processes.process :: processes.count]
            # a process without rows goes along: under FSDP all of them have to call the model
            batch = collate([job.measured.item(row) for row in share or rows[:1]])
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            losses = job.trainee.losses(model, batch, objective, data.support)
            if share:
                summed = float(losses.double().sum())
                total += torch.tensor([summed, len(losses)], dtype=torch.double)

        model.train(was_training)
        if processes.count > 1:
            total = self.accelerator.reduce(total.to(device)).cpu()
        return float(total[0] / total[1])

    def whole_state(self) -> dict[str, Tensor] | None:
        """The model's tensors where FSDP has cut them up; else None.

        They have the names that they have without the answer head.
        """
        if not self.is_fsdp_enabled:
            return None
        path = self.job.trainee.head_path
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
        return {name.replace(f"{path}.head.", f"{path}."): x for name, x in state.items()}

    def snapshot(self, step: int) -> None:
        """Store the student as it is now."""
        target = self.job.folder / SNAPSHOTS / step_folder(step)
        state = self.whole_state()  # all processes take part in it
        # where there is one, the training was killed after it and came by here again
        if self.job.processes.writes and not target.exists():
            with new_folder(target, durable=True) as work:
                self.job.write(work, state)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        job = self.job
        if not job.processes.writes:
            return
        schedule = self.lr_scheduler.state_dict()
        save_checkpoint(
            job.folder / CHECKPOINTS,
            self.state.global_step,
            model=self.model,
            optimizer=self.optimizer,
            state={"log": job.log, "schedule": schedule, "legs": job.legs},
            also=lambda work: self.state.save_to_json(str(work / "trainer_state.json")),
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint), self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_moments(Path(checkpoint), self.optimizer)
        schedule = read_state(Path(checkpoint))["schedule"]
        self.lr_scheduler.load_state_dict(schedule)
        # the scheduler writes its rates after a step only; the first one needs them before it
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, schedule["_last_lr"], strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: every step seeds its own."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing to load: bf16 has no loss scaling."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Seeds every step; after it logs, measures, and asks for snapshots and checkpoints."""

    loop: Loop  # given once it is made: the trainer takes its callbacks when it is made itself

    def __init__(self, job: Job, bar: Any) -> None:
        self.job, self.bar = job, bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the untrained model, or go on with the log."""
        job = self.job
        if not job.log:
            loss, stop_at = self.loop.held_out(), job.settings.stop_at
            if stop_at is not None and loss <= stop_at:
                asked, own = told_apart(stop_at, loss, digits=6)
                raise ValueError(
                    f"stop_at={asked}: the base's own held-out loss is {own}, so there is "
                    "nothing to train; pass a lower one."
                )
            self._note({"step": 0, "held_out": loss})
        elif job.processes.writes:  # without what came after the checkpoint
            (job.folder / LOG).write_text(log_lines(job.log))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed the step."""
        seed, process = self.job.settings.init_seed, self.job.processes.process
        torch.manual_seed(step_seed(seed, state.global_step, process))
        self.loop.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log, measure, store."""
        job, settings, loop = self.job, self.job.settings, self.loop
        step = state.global_step
        is_last, is_snapshot = step == settings.steps, step in settings.snapshots

        # the log says what the whole step was, whichever process asks
        loss = loop.step_loss
        if job.processes.count > 1:
            loss = loop.accelerator.reduce(loss)
        row = {"step": step, "loss": float(loss), "grad_norm": loop.grad_norm, "lr": loop.rate}
        if job.pull is not None:
            penalty = loop.step_penalty
            if job.processes.count > 1:
                penalty = loop.accelerator.reduce(penalty)
            row["penalty"] = float(penalty)

        # a student that is stored is measured too; it may be as near to its labels as was asked for
        is_measured = is_last or is_snapshot or step % settings.evaluate_every == 0
        if is_measured:
            row["held_out"] = loop.held_out()
            if settings.stop_at is not None and row["held_out"] <= settings.stop_at:
                control.should_training_stop = True
        self._note(row)

        # trackers hear of it too; every log takes the flag back, and the trainer's own is to come
        if is_measured and control.should_log:
            loop.log({"held_out": row["held_out"]})
            control.should_log = True

        # a checkpoint is of use only where steps come after it
        if is_snapshot:
            loop.snapshot(step)
        every = settings.checkpoint_every
        is_due = every > 0 and step % every == 0
        control.should_save = is_due and not is_last and not control.should_training_stop

        last_measured = job.held_out_losses[-1]
        self.bar.set_postfix(loss=decimals(row["loss"]), held_out=decimals(last_measured))
        self.bar.update()

    def _note(self, row: dict[str, Any]) -> None:
        """Add a row to the log, here and in the folder."""
        self.job.log.append(row)
        if self.job.processes.writes:
            mode = "w" if row["step"] == 0 else "a"  # a run from the start replaces an older log
            with (self.job.folder / LOG).open(mode) as handle:
                handle.write(log_lines([row]))


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raise TypeError where one of them is no callback of transformers."""
    for i, callback in enumerate(callbacks):
        made = callback if isinstance(callback, type) else type(callback)
        if not issubclass(made, TrainerCallback):
            raise TypeError(
                f"callbacks[{i}] is {callback!r:.60}; pass instances of "
                "transformers.TrainerCallback."
            )


def check_trackers(report_to: str | Sequence[str]) -> None:
    """Raise ValueError where a tracker is none that transformers knows, or is not installed."""
    known, installed = list(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in [report_to] if isinstance(report_to, str) else report_to:
        if name in ("none", "all"):
            continue
        check_choice("report_to", name, ["none", "all", *known])
        if name not in installed:
            raise ValueError(
                f"report_to={name!r}: this tracker is not installed; install its package "
                f"(pip install {name}), or pass report_to='none'."
            )


def fit(
    job: Job, *, callbacks: Sequence[Any], report_to: str | Sequence[str], progress: bool
) -> dict[str, Tensor] | None:
    """Run the job to its end: its model is trained, its log filled.

    Args:
        job: the training.
        callbacks: `transformers.TrainerCallback`s.
        report_to: trackers, as `transformers.TrainingArguments` takes them.
        progress: show a progress bar.

    Returns:
        The model's tensors, where they are not whole in the model itself (FSDP).
    """
    with _own_precision():  # and no autocast of the caller's: `train` keeps it out
        return _fit(job, callbacks=callbacks, report_to=report_to, progress=progress)


@contextmanager
def _own_precision() -> Iterator[None]:
    """`precision` alone decides where there is autocast, whatever a launcher's variable says."""
    name, given = "ACCELERATE_MIXED_PRECISION", os.environ.get("ACCELERATE_MIXED_PRECISION")
    os.environ[name] = "no"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


@contextmanager
def _autocast(kind: str) -> Iterator[None]:
    """bf16, with nothing kept of weights as they were cast a step ago: torch forgets those where
    the last autocast ends, and there may be one of the caller's around all of it.
    """
    torch.clear_autocast_cache()
    with torch.autocast(kind, torch.bfloat16):
        yield
    torch.clear_autocast_cache()


def _fit(
    job: Job, *, callbacks: Sequence[Any], report_to: str | Sequence[str], progress: bool
) -> dict[str, Tensor] | None:
    settings, processes = job.settings, job.processes
    told = report_to != "none" if isinstance(report_to, str) else len(report_to) > 0
    watched = len(callbacks) > 0 or told
    arguments = _arguments(job, log_steps=watched, report_to=report_to)
    if settings.gradient_checkpointing:
        checkpoint_activations(job.trainee.inner)

    # a checkpoint knows what was logged up to it, and by how many processes
    if job.start is not None:
        state = read_state(job.start)
        job.log[:], job.legs[:] = state["log"], state["legs"]
    steps_done = job.log[-1]["step"] if job.log else 0
    if not job.legs or job.legs[-1][1] != processes.count:
        job.legs.append([steps_done, processes.count])

    silent = not progress or not processes.writes
    rows = len(job.division.trained)
    epochs = settings.steps * settings.batch_size / rows
    title = f"train ({epochs:.3g} epochs of {counted(rows, 'row')})"
    with tqdm(total=settings.steps, initial=steps_done, desc=title, disable=silent) as bar:
        watch = Watch(job, bar)
        watch.loop = loop = Loop(
            job,
            model=job.trainee.model,
            args=arguments,
            train_dataset=job.drawn,
            data_collator=collate,
            callbacks=[watch, *callbacks],
        )
        loop.remove_callback(PrinterCallback)
        if loop.is_fsdp_enabled and settings.checkpoint_every:
            raise ValueError(
                f"checkpoint_every={settings.checkpoint_every}: weights and moments are cut into "
                "pieces under FSDP, and checkpoints hold whole ones; pass checkpoint_every=0."
            )
        if loop.is_fsdp_enabled and (job.trainee.gating is not None or job.pull is not None):
            raise ValueError(
                "where and penalty need the base beside the student, module by module, and FSDP "
                "cuts modules into pieces; train in one process, or with data parallelism alone."
            )
        try:
            loop.train(resume_from_checkpoint=None if job.start is None else str(job.start))
        except Exception as error:
            tracker = type(error).__module__.partition(".")[0]
            if not told or tracker not in INTEGRATION_TO_CALLBACK:
                raise
            raise ValueError(
                f"report_to={tracker!r}: the tracker does not start ({error}); log in to it, see "
                "to its own settings, or pass report_to='none'. Nothing that was trained is lost."
            ) from error

    loop.model.eval()
    if "held_out" not in job.log[-1]:  # a callback stopped it between two measurements
        job.log[-1]["held_out"] = loop.held_out()
    return loop.whole_state()


def _arguments(job: Job, *, log_steps: bool, report_to: str | Sequence[str]) -> TrainingArguments:
    """The settings as transformers' trainer takes them; what it should store it leaves to us."""
    settings, processes = job.settings, job.processes
    arguments = TrainingArguments(
        output_dir=str(job.folder),
        run_name=job.folder.stem,
        max_steps=settings.steps,
        learning_rate=settings.lr,
        per_device_train_batch_size=settings.rows_per_forward // processes.count,
        gradient_accumulation_steps=settings.accumulate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip or 0.0,
        seed=settings.init_seed,
        data_seed=settings.order_seed,
        use_cpu=job.trainee.device.type == "cpu",
        save_strategy="no",
        logging_strategy="steps" if log_steps else "no",
        logging_steps=1,
        report_to=report_to if isinstance(report_to, str) else list(report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        # what the model's configuration says, which the trainer would change and the student keep:
        # our forwards name it themselves
        use_cache=bool(getattr(job.trainee.model.config, "use_cache", True)),
    )
    use_one_device(arguments)  # DataParallel would cut the flat targets of a batch
    return arguments
