"""Measuring a metric under gates: what all exact instruments share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .chat import Prompt
from .engine import Gates, forward, make_batch
from .metrics import Answers, Metric, answers, as_metric, reader
from .models.pair import ModelPair
from .models.students import Student
from .scores import Scores, position_coords
from .traits import Trait

Row = tuple[int, Tensor | float]  # index of a prompt; its gates: (slot,), or 0.0 / 1.0 for all


@dataclass(frozen=True)
class Task:
    """A pair, prompts and what is measured on them.

    Attributes:
        pair: the models.
        prompts: the prompts.
        answers: the answer trie of each prompt.
        metric: what is measured.
    """

    pair: ModelPair
    prompts: tuple[Prompt, ...]
    answers: tuple[Answers, ...]
    metric: Metric

    def size(self, i: int) -> int:
        """Slots of prompt i: its tokens and the nodes of its answer trie."""
        return len(self.prompts[i]) + len(self.answers[i].nodes)


def prepare(pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric) -> Task:
    """Tokenise the answers.

    Raises:
        ValueError: no prompts, or a form without tokens.
    """
    if not prompts:
        raise ValueError("prompts is empty; render at least one question.")
    if not all(isinstance(p, Prompt) for p in prompts):
        raise TypeError("prompts must be rendered: prompts = sublim_mech.render(pair.tokenizer, questions).")
    metric = as_metric(trait)
    return Task(pair, tuple(prompts), tuple(answers(pair.tokenizer, p, metric) for p in prompts), metric)


@torch.no_grad()
def measure(task: Task, student: Student, rows: Sequence[Row], *, batch_size: int, bar: Any = None) -> np.ndarray:
    """The metric of each row, `(row,)` float64.

    Args:
        task: what is measured.
        student: whose gates.
        rows: prompt and gates of each row.
        batch_size: rows per forward; rows of like length go together.
        bar: a progress bar to advance by rows.

    Raises:
        ValueError: the metric is NaN or infinite.
    """
    out = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda r: task.size(rows[r][0]))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        which = [rows[r][0] for r in chunk]
        batch = make_batch(task.pair.base.model, [task.prompts[i] for i in which], [task.answers[i] for i in which])
        gates = _stack([rows[r][1] for r in chunk], batch.ids.shape).to(batch.ids.device)
        done = forward(task.pair.base.model, task.pair.sites, batch, gates=Gates(student, gates))
        out[chunk] = reader(task.metric, [task.answers[i] for i in which])(done.logits).cpu().double().numpy()
        if bar is not None:
            bar.update(len(chunk))
    if not np.isfinite(out).all():
        bad = task.prompts[rows[int(np.flatnonzero(~np.isfinite(out))[0])][0]].question
        raise ValueError(f"{task.metric.name} is not finite on prompt {bad!r}; check the dtype and the trait's forms.")
    return out


def _stack(gates: Sequence[Tensor | float], shape: torch.Size) -> Tensor:
    """Gates of several rows as one `(row, slot)` tensor; padding is closed."""
    out = torch.zeros(shape)
    for r, gate in enumerate(gates):
        if isinstance(gate, float):
            out[r] = gate
        else:
            out[r, : len(gate)] = gate
    return out


def ends(task: Task, student: Student, *, batch_size: int, bar: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The metric of the base and of the student, `(prompt,)` each."""
    n = len(task.prompts)
    both = measure(task, student, [(i, g) for g in (0.0, 1.0) for i in range(n)], batch_size=batch_size, bar=bar)
    return both[:n], both[n:]


def make_scores(
    task: Task,
    kind: str,
    effect: tuple[tuple[str, ...], np.ndarray],
    base: np.ndarray,
    student: np.ndarray,
    *,
    coords: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Scores:
    """Label arrays and note where they come from.

    Args:
        task: what was measured.
        kind: one of `scores.KINDS`.
        effect: (dimensions after `model`, array `(model, *dimensions)`).
        base: `(model, prompt)` metric of the base.
        student: `(model, prompt)` metric of each student.
        coords: coordinates of the further dimensions.
        options: what the instrument was asked for.
    """
    pair = task.pair
    dims, array = effect
    where = position_coords(task.prompts, task.answers, pair.tokenizer.decode) if "position" in dims else {}
    data = xr.Dataset(
        {
            "effect": (("model", *dims), array.astype(np.float64)),
            "base": (("model", "prompt"), base),
            "student": (("model", "prompt"), student),
        },
        {
            "model": np.array(list(pair.students)),
            "prompt": np.arange(len(task.prompts)),
            "question": ("prompt", np.array([p.question for p in task.prompts])),
            **where,
            **(coords or {}),
        },
    )
    contexts = list(dict.fromkeys(str(p.context.to_json()) for p in task.prompts))
    provenance = {
        "metric": task.metric.name,
        "unit": task.metric.unit,
        "base": {"name": pair.base.name, "hash": pair.base.hash},
        "students": {
            name: {
                "name": s.name,
                "kind": s.kind,
                "hash": s.hash,
                "teacher": s.manifest.teacher if s.manifest is not None else "unknown",
            }
            for name, s in pair.students.items()
        },
        "contexts": contexts,
        "versions": {name: version(name) for name in ("sublim_mech", "torch", "transformers", "transformer-lens", "peft")},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **(options or {}),
    }
    return Scores(data, kind, provenance)
