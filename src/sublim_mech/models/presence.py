"""Whether what is named as a student is there and is one, before its base is read for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..storage.runs import unfinished_note
from .adapters import CONFIG, WEIGHTS
from .choosing import adapter_folder, as_names
from .sources import local_student


def check_there(source: Any, adapter: str | Sequence[str] | None = None) -> None:
    """Refuse a student that is not there; a hub id, a live model and what is no model
    are let pass.

    Args:
        source: as `load_student` takes it.
        adapter: which adapter of it is meant.

    Raises:
        FileNotFoundError: nothing is there, or no student.
        ValueError: it is a pickle; there is no such adapter.
    """
    if not isinstance(source, str | os.PathLike) or not str(source):
        return
    path = local_student(str(source))
    if path is not None:
        check_files(adapter_folder(path, as_names(adapter)))


def check_files(path: Path) -> None:
    """Refuse a folder that holds neither an adapter nor a checkpoint.

    Raises:
        FileNotFoundError: it is no student.
    """
    if (path / CONFIG).is_file():
        return
    if (path / WEIGHTS).is_file() or (path / "adapter_model.bin").is_file():
        raise FileNotFoundError(
            f"student={str(path)!r} has adapter weights but no adapter_config.json; "
            "copy that file too."
        )
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"student={str(path)!r} has neither adapter_config.json nor config.json; "
            f"it is no student.{unfinished_note(path)}"
        )
