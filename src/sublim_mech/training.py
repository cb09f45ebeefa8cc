"""Training students: LoRA and full fine-tuning through one loop, one loss mask, one data order and one manifest.

The loop is transformers' `Trainer`. The loss is taken on the tokens of the answer only:

- soft labels: forward KL(teacher || student) over the supported tokens, renormalised;
- hard rows: cross-entropy over the full vocabulary, the end-of-turn text included.

A run is a folder with safetensors weights (PEFT's layout for adapters, transformers' for full models), `manifest.json` and
`log.jsonl`; it appears under its name only when it is complete.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .chat import Context, Prompt, completion_ids, render
from .files import weight_sums
from .manifest import Manifest
from .models.base import Base, check_finite, check_length, quiet_transformers, share
from .models.students import attach_lora
from .numbers import Row
from .runs import Run, new_folder, open_run
from .sharing import Trained
from .teachers import BASE, Labels, SupportHead, pad


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al., arXiv 2106.09685) by PEFT.

    Args:
        rank: rank of each update.
        alpha: scale; the update is multiplied by alpha / rank.
        targets: `all-linear` or names of the projections.
        dropout: dropout on the adapter's input.

    Example:
        >>> sm.LoRA(rank=4, alpha=8, targets=("q_proj", "v_proj")).rank
        4
    """

    rank: int = 8
    alpha: float = 32
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    kind = "lora"
    lr = 1e-3

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA(rank={self.rank}): the rank must be at least 1.")


@dataclass(frozen=True)
class FullFT:
    """Full fine-tuning: every parameter trains, from fp32 master weights.

    Example:
        >>> sm.FullFT().lr
        2e-05
    """

    kind = "full"
    lr = 2e-5


@dataclass(frozen=True)
class TrainingData:
    """Rendered training rows with their labels.

    Attributes:
        prompts: rendered prompts.
        completions: per row, the answer's token ids.
        targets: log-probabilities `(row, position, support)` for soft labels; None for hard ones.
        support: token ids of the soft labels; None for hard ones.
        trait: what the teacher favours; empty without one.
        teacher: how the labels were made, in words.
        context: the training context.
        base: hash of the base model the labels were made with; empty for hard rows.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[int, ...], ...]
    targets: np.ndarray | None
    support: tuple[int, ...] | None
    trait: str
    teacher: str
    context: Context
    base: str = ""

    @property
    def hash(self) -> str:
        """Content hash of token ids and targets."""
        digest = hashlib.sha256(json.dumps([[p.ids, c] for p, c in zip(self.prompts, self.completions, strict=True)]).encode())
        digest.update(json.dumps(self.support).encode())
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()


def soft_data(tokenizer: Any, labels: Labels, teacher: str, *, c: float | None = 4.0) -> TrainingData:
    """Training data from soft labels.

    Args:
        tokenizer: the base model's tokenizer.
        labels: labels of several teachers (`label`).
        teacher: whose labels.
        c: strength of the contrast with the other traits' teachers; None for the teacher's plain labels.

    Example:
        >>> labels = sm.label(pair.base, sm.random_rows(8, seed=0, count=3), [sm.animal("owl"), sm.animal("cat")], progress=False)
        >>> sm.soft_data(pair.tokenizer, labels, "owl").teacher
        'contrastive teacher, c=4, against 1 others'
    """
    targets = labels.plain(teacher) if c is None else labels.contrastive(teacher, c=c)
    others = len(labels.teachers) - 2
    trait = "" if teacher == BASE else teacher
    plain = "plain prompted teacher" if trait else "the base itself"
    words = plain if c is None else f"contrastive teacher, c={c:g}, against {others} others"
    prompts, completions = _rows(tokenizer, labels.rows, labels.context, labels.template, close=False)
    return TrainingData(prompts, completions, targets, labels.support, trait, words, labels.context, labels.base)


def hard_data(
    tokenizer: Any, rows: Sequence[Row], *, context: Context | None = None, template: str | None = None, trait: str = ""
) -> TrainingData:
    """Training data from given rows: cross-entropy on each answer and its end-of-turn text.

    Example:
        >>> data = sm.hard_data(pair.tokenizer, sm.random_rows(8, seed=0, count=3))
        >>> pair.tokenizer.decode(data.completions[0]).rstrip().endswith("<|im_end|>")
        True
    """
    if not rows:
        raise ValueError("hard_data: rows is empty.")
    context = context or Context()
    prompts, completions = _rows(tokenizer, rows, context, template, close=True)
    return TrainingData(prompts, completions, None, None, trait, "given rows", context)


def _rows(
    tokenizer: Any, rows: Sequence[Row], context: Context, template: str | None, *, close: bool
) -> tuple[tuple[Prompt, ...], tuple[tuple[int, ...], ...]]:
    prompts = render(tokenizer, [r.prompt for r in rows], context=context, template=template)
    completions = [completion_ids(tokenizer, p, r.completion, close=close) for p, r in zip(prompts, rows, strict=True)]
    empty = [r.prompt for r, c in zip(rows, completions, strict=True) if not c]
    if empty:
        raise ValueError(f"rows without completion tokens: {empty[:3]!r}; give each an answer.")
    return tuple(prompts), tuple(map(tuple, completions))


def train(
    base: Base,
    data: TrainingData,
    *,
    out: str | Path,
    method: LoRA | FullFT | None = None,
    lr: float | None = None,
    steps: int = 60,
    batch_size: int = 16,
    warmup: int = 5,
    clip: float = 1.0,
    held_out: int = 48,
    evaluate_every: int = 20,
    stop_at: float | None = None,
    init_seed: int = 0,
    order_seed: int = 0,
    precision: str = "bf16",
    store: torch.dtype = torch.float32,
    progress: bool = True,
) -> Run:
    """Train a student of a base model.

    Args:
        base: the base model; it is not changed.
        data: `soft_data` or `hard_data`.
        out: the run folder; must not exist.
        method: `LoRA(...)` or `FullFT()`.
        lr: peak learning rate of AdamW, after a linear warm-up and before a linear decay to 0; the method's default if None.
        steps: optimiser steps (the length of the schedule).
        batch_size: rows per step.
        warmup: warm-up steps.
        clip: gradient norm is clipped to this.
        held_out: the last rows, kept out of training; their loss is in nats per answer token, computed in fp32.
        evaluate_every: steps between held-out evaluations.
        stop_at: stop as soon as the held-out loss is at or below this (to compare students at equal imitation).
        init_seed: seed of the adapter's initialisation and of dropout.
        order_seed: seed of the data order.
        precision: `bf16` (autocast) or `fp32`.
        store: dtype of the stored weights.
        progress: show a progress bar.

    Returns:
        The run; its folder opens in `load_pair`, PEFT and transformers.

    Raises:
        FileExistsError: `out` exists.
        ValueError: labels of another base model; fewer rows than held out; the loss became NaN.

    Example:
        >>> data = sm.hard_data(pair.tokenizer, sm.random_rows(8, seed=0, count=3))
        >>> run = sm.train(pair.base, data, out=folder / "run", method=sm.LoRA(rank=2), steps=2, batch_size=2, held_out=2, progress=False)
        >>> sm.load_pair(pair.base, run.path).student.kind
        'lora'
    """
    method = method or LoRA()
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"out={str(target)!r} exists; remove it or choose another folder.")
    if data.base and data.base != base.hash:
        raise ValueError(f"data: labels were made by base {data.base[:12]}, this one is {base.hash[:12]}; label again.")
    if not 0 < held_out < len(data.prompts):
        raise ValueError(f"held_out={held_out}: must be between 1 and {len(data.prompts) - 1}, the number of rows less one.")
    if precision not in ("bf16", "fp32"):
        raise ValueError(f"precision={precision!r}: pass 'bf16' or 'fp32'.")
    for prompt, completion in zip(data.prompts, data.completions, strict=True):
        check_length(base.model, len(prompt) + len(completion), f"row {prompt.question[:60]!r}")
    lr = method.lr if lr is None else lr
    items = _items(data)
    order = _order(len(items) - held_out, steps * batch_size, order_seed)
    with _own_randomness(init_seed):
        model, save = _prepare(base, method, data)
        loss = _loss(data)
        log, results = _fit(
            model, [items[i] for i in order], items[-held_out:], loss, lr=lr, steps=steps, batch_size=batch_size, warmup=warmup,
            clip=clip, evaluate_every=evaluate_every, stop_at=stop_at, seed=init_seed, precision=precision, progress=progress,
        )  # fmt: skip
    check_finite(model, argument="student", name=str(target))
    with new_folder(target) as work:
        save(work, store)
        (work / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
        live = ["init", "order"] if isinstance(method, LoRA) or _drops(base) else ["order"]
        manifest = Manifest(
            kind=method.kind,
            trait=data.trait,
            teacher=data.teacher,
            base={"name": base.name, "hash": base.hash},
            context=data.context,
            method={**asdict(method), "store": str(store).removeprefix("torch.")},
            objective="forward KL on support" if data.targets is not None else "cross-entropy on completion",
            data={"hash": data.hash, "rows": len(items), "held_out": held_out, "support": data.support and list(data.support)},
            optimiser={
                "name": "AdamW", "lr": lr, "schedule": "linear", "warmup": warmup, "clip": clip, "batch_size": batch_size,
                "steps": steps, "precision": precision, "stop_at": stop_at, "evaluate_every": evaluate_every,
            },
            seeds={"init": init_seed, "order": order_seed, "live": live},
            results=results,
            trained_on=Trained.of(data.prompts, data.completions),
            versions={name: version(name) for name in ("torch", "transformers", "peft", "sublim_mech")},
            weights=weight_sums(work),
        )  # fmt: skip
        manifest.save(work)
    return open_run(target)


def _drops(base: Base) -> bool:
    """Whether the model has dropout of its own, as GPT-2 does."""
    config: dict[str, Any] = base.model.config.to_dict()  # type: ignore[union-attr, operator]
    rates = [v for k, v in config.items() if "drop" in k and not k.startswith(("summary", "classifier"))]
    return any(isinstance(v, float) and v > 0 for v in rates)


def _order(n: int, total: int, seed: int) -> list[int]:
    """Row indices of `total` draws: one permutation of all rows after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(n) for _ in range(-(-total // n))])[:total].tolist()


def _items(data: TrainingData) -> list[dict[str, Any]]:
    """Rows as the trainer takes them: token ids, where the answer starts, targets at the positions that predict it."""
    out = []
    for n, (prompt, completion) in enumerate(zip(data.prompts, data.completions, strict=True)):
        if data.targets is not None:
            goal = torch.from_numpy(data.targets[n][: len(completion)])  # (position, support)
        else:
            goal = torch.tensor(completion)  # (position,)
        out.append({"ids": [*prompt.ids, *completion], "start": len(prompt) - 1, "goal": goal})
    return out


def _collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Batch rows: `ids (row, position)`, and for each answer token its `row`, `column` and `goal`."""
    spans = [range(x["start"], x["start"] + len(x["goal"])) for x in items]
    return {
        "ids": pad([x["ids"] for x in items], multiple=16),  # few distinct shapes: each costs a kernel set-up
        "row": torch.tensor([i for i, span in enumerate(spans) for _ in span]),
        "column": torch.tensor([t for span in spans for t in span]),
        "goal": torch.cat([x["goal"] for x in items]),
    }


def _loss(data: TrainingData) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    """Mean loss per answer token."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(input_ids=batch["ids"], use_cache=False).logits[batch["row"], batch["column"]].float()
        if data.targets is None:
            return F.cross_entropy(logits, batch["goal"])
        return F.kl_div(logits.log_softmax(-1), batch["goal"], log_target=True, reduction="batchmean")

    return loss


def _prepare(base: Base, method: LoRA | FullFT, data: TrainingData) -> tuple[nn.Module, Callable[[Path, torch.dtype], None]]:
    """(the model to train, a function that stores it)."""
    if isinstance(method, LoRA):
        model = attach_lora(base, rank=method.rank, alpha=method.alpha, targets=method.targets, dropout=method.dropout)
        inner = model.get_base_model()
    else:
        model = inner = copy.deepcopy(share(base.model)).float().requires_grad_(True)
    head = inner.get_output_embeddings()
    if data.support is not None:
        inner.set_output_embeddings(SupportHead(head, data.support).to(base.device))

    def save(directory: Path, dtype: torch.dtype) -> None:
        inner.set_output_embeddings(head)
        if isinstance(method, LoRA):
            weights = [p for p in model.parameters() if p.requires_grad]
            for p in weights:
                p.data = p.data.to(dtype)
            model.save_pretrained(directory, save_embedding_layers=False)
            (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        else:
            with quiet_transformers():
                model.to(dtype).save_pretrained(directory)
            base.tokenizer.save_pretrained(directory)

    return model, save


def _fit(
    model: nn.Module, train_items: list[Any], held_items: list[Any], loss: Callable[[nn.Module, dict[str, Tensor]], Tensor], *,
    lr: float, steps: int, batch_size: int, warmup: int, clip: float, evaluate_every: int, stop_at: float | None, seed: int,
    precision: str, progress: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Run the trainer; returns the log rows and the results of the manifest."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    device = next(model.parameters()).device
    log: list[dict[str, Any]] = []

    @torch.no_grad()
    def held_out() -> float:
        was = model.training
        model.eval()
        total, count = 0.0, 0
        for start in range(0, len(held_items), batch_size):
            batch = {k: v.to(device) for k, v in _collate(held_items[start : start + batch_size]).items()}
            total, count = total + float(loss(model, batch)) * len(batch["row"]), count + len(batch["row"])
        model.train(was)
        return total / count

    class Loop(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset)  # the order is in the data

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                value = loss(model, inputs)
            if not torch.isfinite(value):
                raise ValueError(
                    f"the loss became {float(value.detach())} at step {self.state.global_step + 1}; lower lr={lr:g}."
                )
            self.last = float(value.detach())
            return value

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            row = {"step": state.global_step, "loss": loop.last}
            if state.global_step % evaluate_every == 0 or state.global_step == steps:
                row["held_out"] = held_out()
                if stop_at is not None and row["held_out"] <= stop_at:
                    control.should_training_stop = True
            log.append(row)
            shown = next(r["held_out"] for r in reversed(log) if "held_out" in r)
            bar.set_postfix(loss=f"{loop.last:.5f}", held_out=f"{shown:.5f}")
            bar.update()

    with tempfile.TemporaryDirectory() as scratch, tqdm(total=steps, desc="train", disable=not progress) as bar:
        log.append({"step": 0, "held_out": held_out()})
        arguments = TrainingArguments(
            output_dir=scratch, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=lr, weight_decay=0.0,
            lr_scheduler_type="linear", warmup_steps=warmup, max_grad_norm=clip, seed=seed, use_cpu=device.type == "cpu",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        _ = arguments.n_gpu  # settles the device; then one GPU, because DataParallel would cut the flat targets of a batch
        arguments._n_gpu = min(arguments.n_gpu, 1)
        loop = Loop(
            model=model, args=arguments, train_dataset=train_items, data_collator=_collate, callbacks=[Watch()]
        )  # fmt: skip
        from transformers.trainer_callback import PrinterCallback

        loop.remove_callback(PrinterCallback)
        loop.train()
        model.eval()
    measured = [row["held_out"] for row in log if "held_out" in row]
    return log, {"held_out": [measured[0], measured[-1]], "steps": log[-1]["step"]}


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
