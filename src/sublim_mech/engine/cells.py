"""Cells: what has a gate of its own in the models of a pair, as masks choose among them.

In most pairs that is every module. Where students are split, a module stands once for every part of
its difference that any of them has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..models.names import WHOLE, Module, PartName
from ..models.sites import Sites
from ..models.students import Student


def cells_of(sites: Sites, students: Iterable[Student]) -> list[Module]:
    """All modules of the model, those whose difference is split once per part.

    Args:
        sites: the modules of the model.
        students: whose parts.
    """
    parts: dict[str, dict[PartName, None]] = {}
    for student in students:
        for path, name in student.cells:
            parts.setdefault(path, {})[name] = None
    return [
        replace(module, part=name)
        for path, module in sites.modules.items()
        for name in parts.get(path, (WHOLE,))
    ]


def columns_of(cells: Sequence[Module], student: Student) -> list[int]:
    """Where the gates of a student stand among the cells of its pair."""
    places = {(cell.path, cell.part): number for number, cell in enumerate(cells)}
    return [places[cell] for cell in student.cells]
