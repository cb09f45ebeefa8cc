"""One value per prompt: what it measures alone, beside others, and in the model's own forward.

Rows of one forward share its length, its padding and whatever a model settles once per batch
(LongRoPE its rotary factors); a prompt's numbers must not know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.answers import Answers
from ..engine.forward import Gates
from ..models.students import Student
from ..prompts import Prompt
from .task import GatedRow, Task, measure

MOST = 4
"""Prompts that are compared: the shortest, the longest, and some between."""


class Disagreement(NamedTuple):
    """The largest difference, and what was compared."""

    error: float
    detail: str


def spread(prompts: Sequence[Prompt], most: int = MOST) -> list[Prompt]:
    """Prompts of all lengths: the shortest, the longest, and evenly between."""
    distinct = {prompt.ids: prompt for prompt in prompts}
    ordered = sorted(distinct.values(), key=len)
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


@torch.no_grad()
def disagreement(task: Task, seed: int) -> Disagreement:
    """The largest difference, in nats, of a prompt's numbers in several surroundings.

    Args:
        task: prompts of several lengths with their answers.
        seed: of the tokens at which a graft is open.
    """
    rng = np.random.default_rng(seed)
    open_at = [torch.from_numpy(rng.integers(0, 2, size)).float() for size in task.sizes()]
    errors = [_from_own(task, None)]
    for student in task.pair.students.values():
        rows = [GatedRow(i, gate) for i in range(len(open_at)) for gate in (0.0, 1.0, open_at[i])]
        together = measure(task, student, rows)
        alone = np.concatenate([measure(task, student, [row]) for row in rows])
        errors.append(np.abs(together - alone).max())
        if student.split_by != "student":  # several as one have no model of their own
            errors.append(_from_own(task, student))
    lengths = ", ".join(str(len(prompt)) for prompt in task.prompts)
    detail = f"prompts of {lengths} tokens: alone, together, and their models' own forwards"
    return Disagreement(float(np.max(errors)), detail)


def _from_own(task: Task, student: Student | None) -> float:
    """How far log-probabilities at the read slots are from those of a model's own forwards."""
    pair = task.pair
    model: Any = pair.model if student is None else student.model
    gates = None if student is None else Gates(student)
    errors = []
    computed = [task.computed(i) for i in range(len(task.prompts))]
    for chunk in pair.chunks(computed, reads=task.reads):
        logits = pair.run(task.batch(chunk), gates=gates).logits
        for row, i in enumerate(chunk):
            own = _own_logits(model, task.prompts[i].ids, task.answers[i], pair.device)
            read = logits[row, : len(own)].float().log_softmax(-1)
            errors.append(float((read - own.float().log_softmax(-1)).abs().max()))
    return float(np.max(errors))


def _own_logits(
    model: Any, ids: Sequence[int], answers: Answers, device: torch.device
) -> Float[Tensor, "read vocab"]:
    """Logits of a model's own forward behind a prompt, and behind each node of its trie."""
    texts = [list(ids)]
    for token, parent in zip(answers.nodes, answers.parents, strict=True):
        texts.append([*texts[parent + 1], token])
    logits = [
        model(input_ids=torch.tensor([text], device=device), use_cache=False).logits[0, -1]
        for text in texts
    ]
    return torch.stack(logits)
