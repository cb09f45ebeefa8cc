"""The gates a student brings with it: it was trained to act at chosen cells only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.sites import Sites
from ..models.students import Student
from ..prompts import Prompt


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


def refuse_gates(students: Iterable[Student], what: str) -> None:
    """Raise ValueError where a student brings gates, which an instrument does not know.

    Args:
        students: those that would be run.
        what: the instrument.
    """
    for student in students:
        if student.gates is not None:
            raise ValueError(
                f"{what}: student {student.name!r} was loaded with gates ({student.gates}), which "
                "only effect, graft, evaluate, generate, pair.logits and pair.activations keep; "
                "graft(sets=...) measures sets of cells within them. Loaded without (gates=None) "
                "it is another model, one that works everywhere: for what that one does, choose "
                f"cells by the arguments of {what}."
            )
