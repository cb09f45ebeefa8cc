"""Where an aLoRA acts: from the last occurrence of its invocation tokens in the prompt on.

As PEFT's `generate` decides it: by the prompt alone, so that a token of the answer never moves the
beginning, and from the first of the invocation tokens on (arXiv 2504.12397). In a prompt without
them the adapter acts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.deltas import LowRank
from ..models.students import Student, invocation_of
from .batch import Batch


def invoked_at(ids: Sequence[int], invocation: Sequence[int]) -> int | None:
    """The place of the last occurrence of some tokens in a prompt; None where they are nowhere."""
    wanted = list(invocation)
    for start in range(len(ids) - len(wanted), -1, -1):
        if list(ids[start : start + len(wanted)]) == wanted:
            return start
    return None


def acting(batch: Batch, invocation: Sequence[int]) -> Float[Tensor, "row slot"]:
    """1 at the slots where an aLoRA acts, 0 elsewhere.

    Raises:
        ValueError: rows whose prompts are not known.
    """
    rows = len(batch.ids)
    if len(batch.prompts) != rows:
        raise ValueError(
            "an aLoRA acts from its invocation tokens in the prompt on, and these rows do not say "
            "which prompt they are of; make them with Runner.batch(ids)."
        )
    found = [invoked_at(prompt, invocation) for prompt in batch.prompts]
    positions = batch.positions
    if positions is None:  # plain rows: the model's own
        positions = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand(rows, -1)
    never = int(positions.max()) + 1
    starts = torch.tensor([never if start is None else start for start in found])
    return (positions >= starts.to(positions.device)[:, None]).float()


def shared_under(student: Student | None, prompts: Sequence[Sequence[int]], length: int) -> int:
    """Up to where prompts that begin with the same `length` tokens compute alike under a student.

    An aLoRA may be invoked at other places in each of them, before which they are alike.
    """
    invocation = () if student is None else invocation_of(student.deltas)
    if not invocation:
        return length
    starts = [invoked_at(prompt, invocation) for prompt in prompts]
    known = [length if start is None else min(start, length) for start in starts]
    return length if len(set(known)) == 1 else min(known)


def waits(delta: object) -> tuple[int, ...]:
    """The invocation tokens of a difference; none where it acts everywhere."""
    return delta.invocation if isinstance(delta, LowRank) else ()
