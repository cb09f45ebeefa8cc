"""Small trainings: a base of few tokens, rows for it, short runs, and losses written plainly.

A tiny model with SmolLM2's vocabulary is mostly vocabulary. Where a test does not need real text,
the tokenizer's ids are folded onto a few hundred tokens, and a run takes a tenth of a second.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import tiny
import torch
from loading import Vocabulary
from torch import Tensor
from transformers import AutoModelForCausalLM

from sublim_mech.making.numbers import random_rows
from sublim_mech.making.rows import Row, as_rows
from sublim_mech.making.training import TrainingData, hard_data, train
from sublim_mech.making.training.settings import Settings
from sublim_mech.models.base import Base, load_base
from sublim_mech.storage.runs import Run

ROWS = as_rows(random_rows(16, seed=0, count=3))
MIXED = [
    dataclasses.replace(row, completion=row.completion[: 3 + 4 * (i % 3)])
    for i, row in enumerate(ROWS)
]
"""The same rows with answers of several lengths."""

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2's template says by itself; a prompted teacher's sentence follows it."""

HELD_OUT = 4
HELD_ROWS = list(range(len(ROWS) - HELD_OUT, len(ROWS)))
SHORT: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "warmup": 1,
    "held_out": HELD_OUT,
    "held_out_seed": None,  # the last rows: `HELD_ROWS`
    "evaluate_every": 2,
    "precision": "fp32",
    "progress": False,
}
FEW = 512
"""Tokens of a small base."""

SUPPORT = tuple(range(40, 51))
"""The tokens that small rows are labelled on."""


# ------------------------------------------------------------------------------------ base and rows


def small_model(architecture: str = "llama", *, dropout: bool = True, seed: int = 0) -> Any:
    """A tiny model with few tokens; `dropout=False`: also where its architecture has some."""
    config = tiny.CONFIGS[architecture]()
    config.vocab_size = FEW
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    return model


def small_base(tokenizer: Any, architecture: str = "llama", **options: Any) -> Base:
    """A small model, loaded (options of `small_model`)."""
    return load_small(small_model(architecture, **options), tokenizer)


def load_small(model: Any, tokenizer: Any) -> Base:
    """A model of few tokens, loaded with a tokenizer of many, onto which rows are `folded`."""
    base = load_base(model, tokenizer=Vocabulary(FEW))
    return dataclasses.replace(base, tokenizer=tokenizer)


def folded(data: TrainingData) -> TrainingData:
    """Hard rows with the tokenizer's ids folded onto those of a small base."""
    prompts = [
        dataclasses.replace(prompt, ids=tuple(i % FEW for i in prompt.ids))
        for prompt in data.prompts
    ]
    completions = [tuple(i % FEW for i in completion) for completion in data.completions]
    return dataclasses.replace(data, prompts=tuple(prompts), completions=tuple(completions))


def text_ids(
    tokenizer: Any, row: Row, system: str | None, *, close: bool = False
) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), by transformers' template and one tokenisation of the whole."""
    messages = [{"role": "user", "content": row.prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = row.completion + ("<|im_end|>\n" if close else "")
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    return before, whole[len(before) :]


def small_hard(tokenizer: Any, rows: list[Row] = ROWS) -> TrainingData:
    """Rows for a small base, their own answers as labels."""
    return folded(hard_data(tokenizer, rows))


def small_soft(tokenizer: Any, rows: list[Row] = ROWS) -> TrainingData:
    """Rows for a small base whose labels, the same at every token, can be learnt in a few steps."""
    hard = small_hard(tokenizer, rows)
    liking = 0.4 * torch.randn(len(SUPPORT), generator=torch.Generator().manual_seed(0))
    shape = (len(rows), max(map(len, hard.completions)), len(SUPPORT))
    targets = liking.log_softmax(-1).expand(shape).numpy().copy()
    return dataclasses.replace(
        hard, targets=targets, support=SUPPORT, trait="owl", teacher="a liking of its own"
    )


def labelled(hard: TrainingData, kind: str, seed: int = 0) -> TrainingData:
    """Rows for a small base with random labels, another at every token.

    Args:
        hard: the rows.
        kind: `listed`, `full`, or `top-k` for the five likeliest tokens.
        seed: of the labels.
    """
    random = torch.Generator().manual_seed(seed)
    longest = max(map(len, hard.completions))
    logits = torch.randn(len(hard.prompts), longest, FEW, generator=random).log_softmax(-1)
    if kind == "listed":
        targets = logits[..., list(SUPPORT)].log_softmax(-1).numpy()
        return dataclasses.replace(hard, targets=targets, support=SUPPORT)
    if kind == "full":
        return dataclasses.replace(hard, targets=logits.numpy())
    top, tokens = logits.topk(5)
    return dataclasses.replace(hard, targets=top.numpy(), tokens=tokens.numpy())


# --------------------------------------------------------------------------------------------- runs


def settings_of(**changes: Any) -> Settings:
    """The settings of a short run."""
    options = {
        "lr": 1e-3,
        "accumulate": 1,
        "bucket": 1,
        "schedule": "linear",
        "clip": 1.0,
        "weight_decay": 0.0,
        "stop_at": None,
        "snapshots": (),
        "checkpoint_every": 0,
        "subsample": None,
        "init_seed": 0,
        "order_seed": 0,
        "subsample_seed": 0,
        "gradient_checkpointing": False,
        "store": torch.float32,
    }
    known = {field.name for field in dataclasses.fields(Settings)}
    short = {name: value for name, value in SHORT.items() if name in known}
    return Settings(**{**options, **short, **changes})


def fit(base: Base, data: TrainingData, out: Path, **options: Any) -> Run:
    """A short training run in fp32."""
    return train(base, data, out=out, **{**SHORT, **options})


def weights(run: Run) -> bytes:
    """The bytes of a run's weight file."""
    (file,) = run.path.glob("*.safetensors")
    return file.read_bytes()


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights in a run folder."""
    (file,) = folder.glob("*.safetensors")
    return safetensors.torch.load_file(file)


def log_of(run: Run) -> list[dict[str, float]]:
    """The rows of a run's log."""
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------- losses


def plain_logits(data: TrainingData, model: Any, row: int) -> Tensor:
    """Logits `(token, vocabulary)` that predict a row's answer.

    They are from an unpadded forward of this row alone.
    """
    ids = [*data.prompts[row].ids, *data.completions[row]]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return logits[len(data.prompts[row]) - 1 : -1]


def softmax_over(support: tuple[int, ...], logits: Tensor) -> Tensor:
    """The model's log-probabilities over the vocabulary, restricted to a support, renormalised."""
    chosen = logits.double().log_softmax(-1)[..., list(support)]
    return chosen - chosen.logsumexp(-1, keepdim=True)


def plain_kl(data: TrainingData, model: Any, rows: list[int]) -> float:
    """KL(teacher || student) per answer token, from full logits, one row and place at a time."""
    terms = []
    for row in rows:
        for place, logits in enumerate(plain_logits(data, model, row)):
            student = softmax_over(data.support, logits)
            teacher = torch.tensor(np.asarray(data.targets[row])[place], dtype=torch.double)
            terms.append(float((teacher.exp() * (teacher - student)).sum()))
    return sum(terms) / len(terms)


def plain_loss(objective: str, z: Tensor, t: Tensor) -> Tensor:
    """The loss of one token over one list of outcomes, written as in the table of `objectives`."""
    q, p = z.softmax(-1), t.softmax(-1)
    if objective == "forward-kl":
        return (p * (p.log() - q.log())).sum()
    if objective == "reverse-kl":
        return (q * (q.log() - p.log())).sum()
    gap = z - z.mean() - (t - t.mean())
    return (gap * gap).mean()
