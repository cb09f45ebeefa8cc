"""Measuring a metric under gates: what all exact instruments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.answers import Answers
from ..engine.forward import Gates, make_batch
from ..engine.pair import ModelPair
from ..metrics import Metric, answers, as_metric, reader
from ..models.students import Student
from ..prompts.chat import Prompt
from ..prompts.traits import Trait
from ..results.record import Compute
from ..results.scores import Scores
from .labelling import label_scores

Row = tuple[int, Tensor | float]  # index of a prompt; its gates: (slot,), (slot, component), or 0.0 / 1.0 for all


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

    @property
    def reads(self) -> int:
        """Most slots read in a row: the last prompt token and the nodes of the answer trie."""
        return 1 + max(len(a.nodes) for a in self.answers)

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
def measure(task: Task, student: Student, rows: Sequence[Row], *, bar: Any = None) -> np.ndarray:
    """The metric of each row, `(row,)` float64.

    Args:
        task: what is measured.
        student: whose gates.
        rows: prompt and gates of each row; rows of like length go together.
        bar: a progress bar to advance by rows.

    Raises:
        ValueError: the metric is NaN or infinite.
    """
    out = np.empty(len(rows))
    for chunk in task.pair.chunks([task.size(i) for i, _ in rows], reads=task.reads):
        which = [rows[r][0] for r in chunk]
        batch = make_batch(task.pair.base.model, [task.prompts[i] for i in which], [task.answers[i] for i in which])
        gates = _stack([rows[r][1] for r in chunk], batch.ids.shape).to(batch.ids.device)
        done = task.pair.run(batch, gates=Gates(student, gates))
        out[chunk] = reader(task.metric, [task.answers[i] for i in which])(done.logits).cpu().double().numpy()
        if bar is not None:
            bar.update(len(chunk))
    check_finite(task, out, [i for i, _ in rows])
    return out


def check_finite(task: Task, values: np.ndarray, prompts: Sequence[int]) -> None:
    """Raise a ValueError that names the prompt of the first value that is NaN or infinite.

    Args:
        task: what was measured.
        values: `(row, ...)`.
        prompts: per row, the index of its prompt.
    """
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
    if len(bad):
        question = task.prompts[prompts[int(bad[0])]].question
        raise ValueError(
            f"{task.metric.name} is not finite on prompt {question!r}; check the models' dtype, compute= and the trait's forms."
        )


def _stack(gates: Sequence[Tensor | float], shape: torch.Size) -> Tensor:
    """Gates of several rows as one `(row, slot)` or `(row, slot, component)` tensor; padding is closed."""
    tail = next((g.shape[1:] for g in gates if isinstance(g, Tensor) and g.dim() == 2), torch.Size())
    out = torch.zeros(*shape, *tail)
    for r, gate in enumerate(gates):
        if isinstance(gate, float):
            out[r] = gate
        else:
            out[r, : len(gate)] = gate if gate.dim() > len(tail) else gate[:, None]
    return out


def ends(task: Task, student: Student, *, bar: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The metric of the base and of the student, `(prompt,)` each."""
    n = len(task.prompts)
    both = measure(task, student, [(i, g) for g in (0.0, 1.0) for i in range(n)], bar=bar)
    return both[:n], both[n:]


def compute_error(task: Task, *, prompts: int = 4) -> float:
    """Largest difference of a total effect between the pair's compute type and its weights' own, on the first few prompts."""
    few = replace(task, prompts=task.prompts[:prompts], answers=task.answers[:prompts])
    plain = replace(few, pair=replace(task.pair, compute=None))
    errors = []
    for student in task.pair.students.values():
        totals = [np.subtract(*ends(t, student)) for t in (few, plain)]
        errors.append(np.abs(totals[0] - totals[1]).max())
    return float(max(errors))


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
    """Scores of what was measured (see `label_scores`), with what the compute type costs."""
    compute = None
    if task.pair.compute is not None:
        dtype = str(task.pair.compute).removeprefix("torch.")
        compute = Compute(dtype, compute_error(task))
    return label_scores(
        task,
        kind,
        effect,
        base=base,
        student=student,
        coords=coords or {},
        options=options or {},
        compute=compute,
    )
