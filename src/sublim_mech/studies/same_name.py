"""Two studies of one name in one folder: which of them is meant, and what is kept apart.

1. A study that has *grown* holds all runs of the one that it was: what was written of the one is
   written anew of the other, and nothing is lost.
2. One made *smaller* is a part of the one that it was: all its runs are among that one's, and what
   is done is found again. The larger configuration stays; a report of the part takes the place of
   the whole's. Both are told, with what differs.
3. Any other of the same name is another study. Its configuration is kept beside the last one's, and
   its report has a folder of its own.

A study is compared with all of its name that are there, not with the last one alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sized
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from ..hints import counted, outside
from ..storage.compare import differences
from ..storage.files import check_file, place, replacing
from .addresses import hashed
from .config import Method, Study
from .tasks import Tasks
from .written import from_dict, to_dict, to_json

RECORD = "study.json"
"""In the folder of a report: the configuration of the study that it is of."""

_SHOWN = 2  # differences


class _Unlike(NamedTuple):
    """How a configuration that is there differs from a study.

    Attributes:
        how: what each says, in words; empty of the same study, or one that has grown into this.
        is_part: whether all runs of the study are among that one's.
        found: which of the study's runs and students are, in words.
        is_same: whether it is the same configuration.
    """

    how: str = ""
    is_part: bool = False
    found: str = ""
    is_same: bool = False


_SAME = _Unlike(is_same=True)


def write_configuration(study: Study, path: Path) -> None:
    """Write a study's configuration; where another study's stands there, that one is kept beside
    it, under its hash. That of a larger study, which holds all runs of this one, stays, also where
    it is one of those that are kept. Shards may write it at once.

    Warns:
        UserWarning: another study of this name stood there, or a larger one; others are kept.
    """
    text = to_json(study)
    there = {file: known for file in _with_hash(path) if (known := _read(file))}
    there = {f: known for f, known in there.items() if f == path or _is_of(known, study)}
    if there.get(path) == text:
        return
    unlike = {file: _unlike(known, study) for file, known in there.items()}
    larger = [file for file, one in unlike.items() if one.is_part]
    if larger and not any(one.is_same for one in unlike.values()):
        warnings.warn(
            f"study {study.name!r}: a larger study of this name was run in this folder before "
            f"({unlike[larger[0]].how}). {unlike[larger[0]].found}: what is done of them is found "
            f"again. Its configuration stays, as {larger[0]}.",
            stacklevel=outside(),
        )
        return
    others = {file: one for file, one in unlike.items() if one.how and file != path}
    further = "".join(
        f" {file.name} is a further one ({one.how}). {one.found}." for file, one in others.items()
    )
    for file in set(unlike) - set(others) - {path}:  # the study itself, or what it has grown from
        file.unlink(missing_ok=True)
    if path in unlike and unlike[path].how:
        kept = path.with_name(f"{path.stem}-{_short(there[path])}.json")
        with replacing(kept) as work:  # its text, no move: what stands there may be new by now
            work.write_text(there[path], "utf-8")
        warnings.warn(
            f"study {study.name!r}: another study of this name was run in this folder before "
            f"({unlike[path].how}). {unlike[path].found}. Its configuration is kept as {kept}, and "
            f"reports of the two stay apart; give one of them another name.{further}",
            stacklevel=outside(),
        )
    with replacing(path) as work:
        work.write_text(text, "utf-8")


def configurations(folder: Path) -> list[Study]:
    """The studies that a folder keeps, but for those that cannot be read."""
    found = []
    for file in sorted(folder.glob("*.json")):
        with suppress(ValueError, TypeError, AttributeError):
            found.append(from_dict(json.loads(_read(file))))
    return found


def is_kept(study: Study, path: Path) -> bool:
    """Whether a study's configuration, that of a part of it or of one that it is a part of is kept
    at a path that has its name, or beside it.
    """
    there = [text for file in _with_hash(path) if _is_of(text := _read(file), study)]
    unlike = [_unlike(text, study) for text in there]
    return any(one.is_part or not one.how for one in unlike)


def _read(file: Path) -> str:
    """What a file says; empty where there is none, or another process has just moved it."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return ""


def _with_hash(path: Path) -> list[Path]:
    """A path that has a study's name, and those beside it that have a hash behind the name."""
    hashed_name = re.compile(rf"{re.escape(path.stem)}-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [path, *sorted(one for one in beside if hashed_name.fullmatch(one.name))]


def report_folder(study: Study, out: str | Path, to: str | Path | None, page: str) -> Path:
    """Where the report of a study goes, checked before anything is read.

    Args:
        study: the study.
        out: its folder.
        to: where it was asked for; `report/<name>` in the study's folder where it was not.
        page: the name of its page.

    Returns:
        The folder. Where the study's own one holds the report of another study of its name, one
        with a hash behind the name: that which has the study's report already, or that of one it
        has grown from or is a part of, or else a new one, of the study's own configuration.

    Raises:
        FileExistsError, PermissionError, ValueError: it cannot be written to; `to` holds the report
            of another study.

    Warns:
        UserWarning: another study of this name has the study's own folder; the report there is of a
            larger study, of which this one's takes the place.
    """
    folder = place(out, "out") / "report" / study.name if to is None else place(to, "to")
    check_file(folder / page, "to")
    several = _with_hash(folder) if to is None else [folder]
    records = {one: _record_of(one) for one in several}
    unlike = {
        one: _unlike(text, study)
        for one, text in records.items()
        if text and (one == folder or _is_of(text, study))
    }
    taken = unlike.get(folder, _SAME)
    if not taken.how:
        return folder
    found = [one for one, of in unlike.items() if not of.how]
    larger = [one for one, of in unlike.items() if of.is_part]
    if larger and not found:
        whole, of = larger[0], unlike[larger[0]]
        warnings.warn(
            f"{whole} held the report of a larger study {study.name!r} ({of.how}). "
            f"{of.found}; the report is now of these alone. Report the larger one again for "
            "its own, or say where this one goes: report(study, out, to=...).",
            stacklevel=outside(),
        )
        return whole
    if to is not None:
        raise FileExistsError(
            f"to={str(to)!r} holds the report of another study ({taken.how}). {taken.found}. Name "
            "another folder."
        )
    own = found[0] if found else folder.with_name(f"{study.name}-{_short(to_json(study))}")
    warnings.warn(
        f"{folder} holds the report of another study called {study.name!r} ({taken.how}). "
        f"{taken.found}. This one's report is in {own}. Give one of them another name, or say "
        "where: report(study, out, to=...).",
        stacklevel=outside(),
    )
    return own


def _record_of(folder: Path) -> str:
    """The configuration of the study whose report a folder holds; empty where it holds none."""
    return _read(folder / RECORD)


def _is_of(text: str, study: Study) -> bool:
    """Whether a configuration is of a study of this name: another one may be called as if it had a
    hash behind it.
    """
    try:
        return bool(json.loads(text)["name"] == study.name)
    except (ValueError, TypeError, KeyError):
        return False


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


def _unlike(there: str, study: Study) -> _Unlike:
    """How another configuration differs; a study that has grown from it does not."""
    try:
        known = from_dict(json.loads(there))
    except (ValueError, TypeError, AttributeError):
        return _Unlike("its configuration cannot be read", found="Nothing is known of its runs")
    if known == study:
        return _SAME
    tasks = Tasks(known), Tasks(study)
    before, now = ({run.task.address for run in one.runs} for one in tasks)
    if before <= now:
        return _Unlike()
    told = differences(_by_name(known), _by_name(study), sides=("there", "here"))
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    how = "; ".join(told[:_SHOWN]) + more
    if now <= before:
        return _Unlike(
            how, is_part=True, found=f"All {_runs(now)} here are among its {len(before)}"
        )
    trained = [{task.address for task in one.ordered if task.stage == "students"} for one in tasks]
    both = len(trained[0] & trained[1])
    found = f"Of the {_runs(now)} here {len(before & now)} are among its own"
    found += f", of the {counted(len(trained[1]), 'student')} {both}"
    return _Unlike(how, found=found)


def _runs(addresses: Sized) -> str:
    return counted(len(addresses), "run")


def _by_name(study: Study) -> dict[str, Any]:
    """A configuration in which nothing is left out, whose parts and methods are found by their
    names.
    """
    told = to_dict(study)
    for name in ("rows", "training", "asking", "computing"):
        told[name] = _all(getattr(study, name))
    told["parts"] = {
        part.name: _all(part)
        | {
            "focus": list(study.focus_of(part)),
            "methods": {_called(method): _all(method) for method in part.methods},
        }
        for part in study.parts
    }
    return told


def _called(method: Method) -> str:
    return method.name or " ".join([method.kind, *map(str, method.ranks)])


def _all(record: Any) -> dict[str, Any]:
    """All fields of a configuration; sequences as lists."""
    values = {one.name: getattr(record, one.name) for one in fields(record)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _short(text: str) -> str:
    return hashed(json.loads(text))[:8]
