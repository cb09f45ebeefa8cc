"""Which of several adapters is the student: by its name in a live model, by the subfolder of this
name in a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..hints import nearest
from .adapters import CONFIG
from .peft_layers import activate, adapter_names


def as_names(adapter: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name or several, each once; none where nothing was asked for."""
    if adapter is None:
        return ()
    return (adapter,) if isinstance(adapter, str) else tuple(dict.fromkeys(adapter))


def choose_adapter(model: Any, wanted: Sequence[str]) -> None:
    """Make the adapters that were asked for the active ones of a model of our own.

    Raises:
        ValueError: it has others, or several and none was asked for.
    """
    there = adapter_names(model)
    listed = ", ".join(map(repr, there))
    if not wanted:
        if len(there) > 1:
            raise ValueError(
                f"student is a model with {len(there)} adapters ({listed}), and each is a student "
                f"of its own; say which: adapter={there[0]!r}, of a control "
                f"load_student(base, model, adapter={there[0]!r}). (adapter=[...] adds up several.)"
            )
        return
    if not there:
        raise ValueError(f"adapter={wanted[0]!r}: the student is a model without adapters.")
    for name in wanted:
        if name not in there:
            raise ValueError(
                f"adapter={name!r} is no adapter of the student{nearest(name, there) or '.'} It "
                f"has {listed}."
            )
    activate(model, wanted)


def adapter_folder(path: Path, wanted: Sequence[str]) -> Path:
    """The folder of the adapter that was asked for: PEFT puts `default` into the folder it is
    given, every other one into a subfolder of its name.

    Raises:
        FileNotFoundError: adapters stand in subfolders only, and none was asked for.
        ValueError: several were asked for, or one that is not there.
    """
    below = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))
    own = (path / CONFIG).is_file()
    if len(wanted) > 1:
        raise ValueError(
            f"adapter={list(wanted)!r}: of a folder one adapter is read at a time; load both into "
            "a PeftModel (load_adapter) and pass that."
        )
    if not wanted:
        if below and not own and not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"student={str(path)!r} holds no adapter itself, its subfolders do "
                f"({', '.join(below)}); pass student={str(path / below[0])!r}."
            )
        return path
    name = wanted[0]
    if name in below:
        return path / name
    if name == "default" and own:
        return path
    there = (["default"] if own else []) + below
    raise ValueError(
        f"adapter={name!r}: student={str(path)!r} has none of this name"
        f"{nearest(name, there) or '.'} It has {', '.join(map(repr, there)) or 'no adapters'}."
    )
