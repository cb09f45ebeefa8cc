"""The loop: transformers' `Trainer` on accelerate, with our loss, order, held-out loss, snapshots and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ...hints import SCHEDULES
from ...storage.files import weight_sums
from ...storage.manifest import Manifest
from ...storage.runs import new_folder
from .data import Drawn, TrainingData, collate, item
from .objectives import WORDS, answer_losses, choose_objective
from .processes import Processes
from .resume import CHECKPOINTS, SNAPSHOTS, load_moments, load_weights, read_state, save_checkpoint, step_seed
from .trainee import Trainee


@dataclass
class Task:
    """One training, as the loop sees it.

    Attributes:
        trainee: the model.
        data, objective: what it learns, and how.
        held_data, held_rows: what it is measured on.
        drawn: the rows of all steps.
        draft: the manifest, without results.
        store: dtype of stored weights.
        options: the arguments of `train`.
        folder: the unfinished run folder.
        start: checkpoint to go on from.
        here: the processes that train.
        log: one row per step.
        legs: (step, number of processes) wherever that number changed.
    """

    trainee: Trainee
    data: TrainingData
    objective: str
    held_data: TrainingData
    held_rows: Sequence[int]
    drawn: Drawn
    draft: Manifest
    store: torch.dtype
    options: dict[str, Any]
    folder: Path
    start: Path | None
    here: Processes
    log: list[dict[str, Any]] = field(default_factory=list)
    legs: list[list[int]] = field(default_factory=list)

    @property
    def measured(self) -> list[float]:
        """The held-out losses so far."""
        return [row["held_out"] for row in self.log if "held_out" in row]

    def write(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The student as it is now, as a run folder's files; the manifest comes last."""
        self.trainee.save(folder, self.store, state)
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.log))
        measure = f"{WORDS[choose_objective(None, self.held_data)]} on {self.held_data.labelled}, nats per token"
        results = {
            "held_out": [self.measured[0], self.measured[-1]], "steps": self.log[-1]["step"], "measure": measure, "processes": self.legs
        }  # fmt: skip
        replace(self.draft, results=results, weights=weight_sums(folder)).save(folder)


class Loop(Trainer):  # type: ignore[misc]
    """The trainer of a task."""

    loss_is_scaled_for_ga = True  # `Drawn.scale` is

    def __init__(self, task: Task, **arguments: Any) -> None:
        self.task = task
        self.step_loss = torch.zeros(())
        self.step_rows: list[int] = []
        self.grad_norm = self.rate = 0.0
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset)  # the order is in the data

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Sum of token losses times the step's scale: its gradient is a part of that of the mean over the step's tokens."""
        task, device = self.task, inputs["ids"].device
        self.step_rows += inputs["index"].tolist()
        bf16 = task.options["precision"] == "bf16"
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            losses = answer_losses(model, task.trainee.head, inputs, task.objective, task.data.support)
        loss = losses.sum() * inputs["scale"]
        if not torch.isfinite(loss):
            self._stop(f"loss became {float(loss.detach())}")
        self.step_loss = self.step_loss.to(device) + loss.detach() / task.here.count
        return loss

    def whole(self) -> dict[str, Tensor] | None:
        """The model's tensors where FSDP has cut them up, under the names they have without the answer head; else None."""
        if not self.is_fsdp_enabled:
            return None
        path = self.task.trainee.head_path
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
        return {key.replace(f"{path}.head.", f"{path}."): x for key, x in state.items()}

    def snapshot(self, step: int) -> None:
        """Store the student as it is now."""
        target, state = self.task.folder / SNAPSHOTS / f"step-{step:06d}", self.whole()
        if self.task.here.process == 0 and not target.exists():  # killed after it, training came by here again
            with new_folder(target, durable=True) as work:
                self.task.write(work, state)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.grad_norm, self.rate = float(norm), float(self.optimizer.param_groups[0]["lr"])
        if not torch.isfinite(torch.tensor(self.grad_norm)):
            self._stop(f"gradient's norm became {self.grad_norm}")
        return norm

    def _stop(self, what: str) -> None:
        rows = sorted(self.step_rows)
        kept = sorted(self.task.folder.glob("snapshots/step-*"))
        last = f" The last good snapshot is {kept[-1]}." if kept else ""
        raise ValueError(
            f"the {what} at step {self.state.global_step + 1}, on rows {', '.join(map(str, rows))} of the data; "
            f"lower lr={self.task.options['lr']:g} or look at these rows.{last}"
        )

    @torch.no_grad()
    def held_out(self) -> float:
        """Held-out loss per token, in fp32, each process on its part of the rows."""
        task, model, here = self.task, self.model, self.task.here
        objective = choose_objective(None, task.held_data)  # not the one of training: students are compared by it
        device = next(model.parameters()).device
        was = model.training
        model.eval()
        rows = sorted(task.held_rows, key=lambda r: -len(task.held_data.completions[r]) - len(task.held_data.prompts[r]))
        width = task.options["batch_size"] // task.options["accumulate"]
        total = torch.zeros(2, dtype=torch.double)
        for start in range(0, len(rows), width):
            mine = rows[start : start + width][here.process :: here.count]
            # a process without rows goes along: under FSDP all of them have to call the model
            batch = collate([item(task.held_data, r) for r in mine or rows[:1]])
            batch = {key: x.to(device) for key, x in batch.items()}
            losses = answer_losses(model, task.trainee.head, batch, objective, task.held_data.support)
            if mine:
                total += torch.tensor([float(losses.double().sum()), len(losses)], dtype=torch.double)
        model.train(was)
        if here.count > 1:
            total = self.accelerator.reduce(total.to(device)).cpu()
        return float(total[0] / total[1])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        task = self.task
        if task.here.process == 0:
            state = {"log": task.log, "schedule": self.lr_scheduler.state_dict(), "legs": task.legs}
            save_checkpoint(
                task.folder / CHECKPOINTS, self.state.global_step, self.model, self.optimizer, state,
                lambda folder: self.state.save_to_json(str(folder / "trainer_state.json")),
            )  # fmt: skip

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint), self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_moments(Path(checkpoint), self.optimizer)
            schedule = read_state(Path(checkpoint))["schedule"]
            self.lr_scheduler.load_state_dict(schedule)
            for group, rate in zip(self.optimizer.param_groups, schedule["_last_lr"], strict=True):
                group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: every step seeds its own."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """bf16 has no loss scaling."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Seeds every step; after it, writes the log, measures held-out loss, and asks for snapshots and checkpoints."""

    loop: Loop

    def __init__(self, task: Task, bar: Any) -> None:
        self.task, self.bar = task, bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the untrained model, or go on with the log."""
        if not self.task.log:
            self._note({"step": 0, "held_out": self.loop.held_out()})
        elif self.task.here.process == 0:
            text = "".join(json.dumps(row) + "\n" for row in self.task.log)
            (self.task.folder / "log.jsonl").write_text(text)  # without what came after the checkpoint

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed the step."""
        torch.manual_seed(step_seed(self.task.options["init_seed"], state.global_step, self.task.here.process))
        self.loop.step_loss, self.loop.step_rows = torch.zeros(()), []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log, measure, store."""
        task, options, step, loop = self.task, self.task.options, state.global_step, self.loop
        loss = loop.step_loss if task.here.count == 1 else loop.accelerator.reduce(loop.step_loss)
        row = {"step": step, "loss": float(loss), "grad_norm": loop.grad_norm, "lr": loop.rate}
        last, shown = step == options["steps"], step in options["snapshots"]
        if last or shown or step % options["evaluate_every"] == 0:
            row["held_out"] = loop.held_out()
            if options["stop_at"] is not None and row["held_out"] <= options["stop_at"]:
                control.should_training_stop = True
        self._note(row)
        if "held_out" in row and control.should_log:
            loop.log({"held_out": row["held_out"]})
            control.should_log = True  # taken back by every log; the trainer's own is still to come
        if shown:
            loop.snapshot(step)
        every = options["checkpoint_every"]
        control.should_save = bool(every) and step % every == 0 and not last and not control.should_training_stop
        self.bar.set_postfix(loss=f"{row['loss']:.5f}", held_out=f"{task.measured[-1]:.5f}")
        self.bar.update()

    def _note(self, row: dict[str, Any]) -> None:
        self.task.log.append(row)
        if self.task.here.process == 0:
            with (self.task.folder / "log.jsonl").open("w" if row["step"] == 0 else "a") as handle:
                handle.write(json.dumps(row) + "\n")


def fit(task: Task, *, callbacks: Sequence[Any], report_to: str | Sequence[str], progress: bool) -> dict[str, Tensor] | None:
    """Run the task to its end: its model is trained, its log filled.

    Returns:
        The model's tensors, where they are not whole in the model itself.
    """
    options, model, here = task.options, task.trainee.model, task.here
    device = next(model.parameters()).device
    watched = bool(callbacks) or report_to not in ("none", [], ())
    arguments = TrainingArguments(
        output_dir=str(task.folder), run_name=task.folder.stem, max_steps=options["steps"], learning_rate=options["lr"],
        per_device_train_batch_size=options["batch_size"] // options["accumulate"] // here.count,
        gradient_accumulation_steps=options["accumulate"], weight_decay=options["weight_decay"],
        lr_scheduler_type=SCHEDULES[options["schedule"]], warmup_steps=options["warmup"], max_grad_norm=options["clip"] or 0.0,
        seed=options["init_seed"], data_seed=options["order_seed"], use_cpu=device.type == "cpu", save_strategy="no",
        logging_strategy="steps" if watched else "no", logging_steps=1,
        report_to=report_to if isinstance(report_to, str) else list(report_to), disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    _ = arguments.n_gpu  # settles the device; then one GPU, because DataParallel would cut the flat targets of a batch
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if options["gradient_checkpointing"]:
        inner = task.trainee.inner
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if task.start is not None:
        state = read_state(task.start)
        task.log[:], task.legs[:] = state["log"], state["legs"]
    done = task.log[-1]["step"] if task.log else 0
    if not task.legs or task.legs[-1][1] != here.count:
        task.legs.append([done, here.count])
    with tqdm(total=options["steps"], initial=done, desc="train", disable=not progress or here.process > 0) as bar:
        watch = Watch(task, bar)
        watch.loop = loop = Loop(
            task, model=model, args=arguments, train_dataset=task.drawn, data_collator=collate,
            callbacks=[watch, *callbacks],
        )  # fmt: skip
        loop.remove_callback(PrinterCallback)
        if loop.is_fsdp_enabled and options["checkpoint_every"]:
            raise ValueError(
                f"checkpoint_every={options['checkpoint_every']}: weights and moments are cut into pieces under FSDP, and checkpoints "
                "hold whole ones; pass checkpoint_every=0."
            )
        loop.train(resume_from_checkpoint=None if task.start is None else str(task.start))
    loop.model.eval()
    if "held_out" not in task.log[-1]:  # a callback stopped it
        task.log[-1]["held_out"] = loop.held_out()
    return loop.whole()
