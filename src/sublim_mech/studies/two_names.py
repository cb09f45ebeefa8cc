"""One student under two names: in tables and claims it would count as two settings."""

from __future__ import annotations

from .grid import Cell
from .tasks import Tasks


def check_names(tasks: Tasks) -> None:
    """Refuse a study that calls one student by two methods' names.

    The same rank, rate and options under two scaling rules are a point of two curves, and may have
    two names.

    Raises:
        ValueError: it does.
    """
    known: dict[tuple[str, str], Cell] = {}
    for run in tasks.runs:
        student, cell = run.task.own.student, run.cell
        if student is None:
            continue
        first = known.setdefault((student.address, cell.setting.method.rule), cell)
        one, other = first.setting.name, cell.setting.name
        if one == other:
            continue
        where = f"part {first.part!r}"
        if first.part != cell.part:
            where = f"parts {first.part!r} and {cell.part!r}"
        raise ValueError(
            f"{where}: methods {one!r} and {other!r} train the same students (such as "
            f"{cell.trait}, row seed {cell.row_seed}, training seed {cell.training_seed}), which "
            "would count as two settings; leave one out, or give both one name. No student is "
            "trained again for its name."
        )
