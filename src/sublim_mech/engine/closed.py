"""A mask under which nothing of a student is on: whatever runs then is the base, and is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..models.names import Module, module_order
from ..models.sites import Sites
from ..models.students import Student
from ..prompts import Prompt
from ..prompts.notices import notice
from .runner import Cells


def check_open(
    sites: Sites,
    students: Mapping[str, Student],
    chosen: str,
    where: Cells,
    rows: Sequence[tuple[Prompt, Tensor]],
) -> None:
    """Refuse a mask under which the base would be computed in silence.

    Args:
        sites: the modules of the model.
        students: of the pair.
        chosen: whose weights are grafted.
        where: the mask.
        rows: prompts with their gates `(token, module)`, of the chosen student's changed modules.

    Raises:
        ValueError: it holds, in some prompt, nothing that any of the students changes.

    Warns:
        UserWarning: it holds nothing that the chosen student changes, while another one does.
    """
    if not students[chosen].deltas:
        return  # it is the base, which is said of it at loading
    closed = [prompt for prompt, gates in rows if not bool(torch.any(gates))]
    if not closed:
        return
    name = getattr(where, "name", "where")
    first = f"prompt {str(closed[0].question)[:60]!r}"
    modules = list(sites.modules.values())
    changed = [m for m in modules if any(m.path in one.deltas for one in students.values())]
    if any(_holds(where, prompt, modules, changed) for prompt in closed):
        notice(
            "closed",
            f"where={name!r} holds nothing that {chosen!r} changes in {first}: what is computed "
            "there is the base.",
        )
        return
    names = sorted({module.name for module in changed}, key=module_order)
    layers = sorted({module.layer for module in changed})
    raise ValueError(
        f"where: {name!r} holds nothing that a student of this pair changes in {first}: the base "
        f"would be computed in its place. They change {', '.join(names)} in layers "
        f"{', '.join(map(str, layers))}; choose among these, or leave the prompt out."
    )


def _holds(
    where: Cells, prompt: Prompt, modules: Sequence[Module], changed: Sequence[Module]
) -> bool:
    cells = where(prompt, modules)
    return bool(cells[:, [module in changed for module in modules]].any())
