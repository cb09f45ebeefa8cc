"""A mask under which nothing of a student is on: what runs then is the base, and is told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hints import counted, ranges
from ..models.names import module_order
from ..models.sites import Sites
from ..models.students import Student
from ..prompts import Prompt
from ..prompts.notices import notice


def tell_closed(
    sites: Sites, student: Student, mask: object, rows: Sequence[tuple[Prompt, Tensor]]
) -> None:
    """Warn where a mask holds nothing that the student changes.

    Args:
        sites: the modules of the model.
        student: whose weights are grafted; nothing is said of one that equals the base, which is
            told at loading.
        mask: the mask, which may have a name.
        rows: prompts with their gates `(token, module)`, of the student's changed modules.

    Warns:
        UserWarning: in some prompt it holds none of them, so that the base is computed.
    """
    closed = [prompt for prompt, gates in rows if not bool(torch.any(gates))]
    if not closed or not student.deltas:
        return
    changed = [module for path, module in sites.modules.items() if path in student.deltas]
    names = sorted({module.name for module in changed}, key=module_order)
    layers = sorted({module.layer for module in changed})
    name = getattr(mask, "name", "where")
    where = f"in {counted(len(closed), 'prompt')}, first {str(closed[0].question)[:60]!r}"
    notice(
        "cells that a student does not change",
        f"where: {name!r} holds nothing that student {student.name!r} changes, {where}: what is "
        f"computed there is the base. It changes {', '.join(names)} in layers "
        f"{ranges(layers)}.",
    )
