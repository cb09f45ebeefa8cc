"""The gates a student brings with it: it was trained to act at chosen cells only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.sites import Sites
from ..models.students import Student
from ..prompts import Prompt
from .beginnings import stack_gates
from .forward import Gates


def own_gates(
    sites: Sites, student: Student, prompt: Prompt, nodes: int = 0
) -> Float[Tensor, "slot cell"] | None:
    """A student's own gates at a prompt's tokens and so many of the answer's, in the order of its
    cells; None where it acts everywhere.
    """
    if student.gates is None:
        return None
    paths = list(sites.modules)
    cells = student.gates.at(prompt, list(sites.modules.values()), nodes)
    # parts of a difference are where their module is
    return torch.from_numpy(cells[:, [paths.index(path) for path, _ in student.cells]]).float()


def closed(own: Tensor, values: Tensor | float) -> Tensor:
    """What is asked for, with everything closed that a student's own gates close.

    Args:
        own: the student's own gates, `(..., cell)`.
        values: a number, or a gate per slot or per cell; differentiable where it is.
    """
    if isinstance(values, Tensor) and values.dim() < own.dim():
        values = values[..., None]
    return own * values


def within(
    student: Student,
    own: Sequence[Tensor | None],
    values: Tensor | float = 1.0,
    *,
    slots: int,
    first: int = 0,
    device: torch.device,
) -> Gates:
    """Gates of rows, closed where those of their student are.

    Args:
        student: whose weights.
        own: per row, the student's own gates at all its slots (`own_gates`).
        values: what is asked for: a number, `(row, slot)` or `(row, slot, cell)`; differentiable
            where it is.
        slots: how many slots.
        first: the first of them.
        device: where they are computed with.
    """
    open_at = [gates for gates in own if gates is not None]
    if isinstance(values, Tensor):
        values = values.to(device)
    if not open_at:
        return Gates(student, values)
    stacked = stack_gates(open_at, torch.Size((len(own), first + slots)))[:, first:].to(device)
    return Gates(student, closed(stacked, values))


_SETS = "graft(sets=...) measures sets of cells within them."


def refuse_gates(
    students: Iterable[Student], what: str, *, argument: str = "", instead: str = _SETS
) -> None:
    """Raise ValueError where a student brings gates, which an instrument does not know.

    Args:
        students: those that would be run.
        what: the instrument.
        argument: by which they were given to it, where they were.
        instead: what to do, as a sentence.
    """
    for student in students:
        if student.gates is not None:
            given = f"{argument}={student.name!r}" if argument else f"student {student.name!r}"
            raise ValueError(
                f"{what}: {given} was loaded with gates ({student.gates}), which "
                f"{what} does not know. {instead} Loaded without (gates=None) it is another model, "
                "one that works everywhere."
            )
