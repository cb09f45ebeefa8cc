"""Two studies of one name in one folder: which of them is meant, and what is kept apart.

1. A study that has *grown* holds all runs of the one that it was: what was written of the one is
   written anew of the other, and nothing is lost.
2. Any other of the same name is another study. Its configuration is kept beside the last one's, and
   its report has a folder of its own.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ..hints import outside
from ..storage.compare import differences
from ..storage.files import check_file, place, replacing
from .addresses import hashed
from .config import Study
from .tasks import Tasks
from .written import from_dict, to_dict, to_json

RECORD = "study.json"
"""In the folder of a report: the configuration of the study that it is of."""

_SHOWN = 2  # differences


def write_configuration(study: Study, path: Path) -> None:
    """Write a study's configuration; where another study's stands there, that one is kept beside
    it, under its hash.

    Warns:
        UserWarning: another study of this name stood there.
    """
    text = to_json(study)
    if path.is_file():
        there = path.read_text("utf-8")
        if there == text:
            return
        unlike = _unlike(there, study)
        if unlike:
            kept = path.with_name(f"{path.stem}-{_short(there)}.json")
            path.replace(kept)
            warnings.warn(
                f"study {study.name!r}: another study of this name was run in this folder before "
                f"({unlike}). Its configuration is kept as {kept}, and reports of the two stay "
                "apart; give one of them another name.",
                stacklevel=outside(),
            )
    with replacing(path) as work:
        work.write_text(text, "utf-8")


def report_folder(study: Study, out: str | Path, to: str | Path | None, page: str) -> Path:
    """Where the report of a study goes, checked before anything is read.

    Args:
        study: the study.
        out: its folder.
        to: where it was asked for; `report/<name>` in the study's folder where it was not.
        page: the name of its page.

    Returns:
        The folder. Where the study's own one holds the report of another study of its name, the
        hash of its configuration stands behind the name.

    Raises:
        FileExistsError, PermissionError, ValueError: it cannot be written to; `to` holds the report
            of another study.

    Warns:
        UserWarning: another study of this name has the study's own folder.
    """
    folder = place(out, "out") / "report" / study.name if to is None else place(to, "to")
    check_file(folder / page, "to")
    record = folder / RECORD
    there = record.read_text("utf-8") if record.is_file() else ""
    unlike = _unlike(there, study) if there else ""
    if not unlike:
        return folder
    if to is not None:
        raise FileExistsError(
            f"to={str(to)!r} holds the report of another study ({unlike}); name another folder."
        )
    own = folder.with_name(f"{study.name}-{_short(to_json(study))}")
    warnings.warn(
        f"{folder} holds the report of another study called {study.name!r} ({unlike}); this one's "
        f"is in {own}. Give one of them another name, or say where: report(study, out, to=...).",
        stacklevel=outside(),
    )
    return own


def write_record(study: Study, folder: Path) -> None:
    """Have a report's folder say which study it is of."""
    with replacing(folder / RECORD) as work:
        work.write_text(to_json(study), "utf-8")


def refuse_of_study(folder: Path) -> None:
    """Refuse to write a report of rows alone over that of a study.

    Raises:
        FileExistsError: the folder holds one.
    """
    if (folder / RECORD).is_file():
        raise FileExistsError(
            f"to={str(folder)!r} holds the report of a study ({RECORD} says which); name another "
            "folder."
        )


def _unlike(there: str, study: Study) -> str:
    """What another configuration says otherwise, in words; empty of the same study, or one that has
    grown into this.
    """
    try:
        known = from_dict(json.loads(there))
    except (ValueError, TypeError, AttributeError):
        return "its configuration cannot be read"
    if known == study:
        return ""
    addresses = [{run.task.address for run in Tasks(one).runs} for one in (known, study)]
    if addresses[0] <= addresses[1]:
        return ""
    told = differences(_by_name(known), _by_name(study), sides=("there", "here"))
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return "; ".join(told[:_SHOWN]) + more


def _by_name(study: Study) -> dict[str, Any]:
    """A configuration whose parts are found by their names."""
    told = to_dict(study)
    return told | {"parts": {part["name"]: part for part in told["parts"]}}


def _short(text: str) -> str:
    return hashed(json.loads(text))[:8]
