"""Tables as they are printed and written: all columns, whatever the width of the terminal."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..storage.files import check_no_model, place, replacing


class Table(pd.DataFrame):  # type: ignore[misc]
    """A DataFrame that prints all of its columns; a narrow terminal breaks its lines.

    pandas leaves the middle columns out where they do not fit, and with them what a number rests
    on, or prints them below the others. What is computed from a table is a table. What limits it
    (`attrs["notes"]`) stands below it.

    Example:
        >>> from sublim_mech.results.frames import Table
        >>> wide = Table({f"column {i}": [i] for i in range(40)})
        >>> all(f"column {i}" in repr(wide) for i in range(40))
        True
    """

    @property
    def _constructor(self) -> Any:
        return Table

    def __repr__(self) -> str:
        whole = "display.max_columns", None, "display.expand_frame_repr", False
        with pd.option_context(*whole):
            return "\n".join([super().__repr__(), *self.attrs.get("notes", ())])

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_columns", None):
            shown = super()._repr_html_()
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.attrs.get("notes", ()))
        return shown if shown is None else f"{shown}{notes}"


def check_suffix(path: str | Path, suffix: str, *, fix: str) -> None:
    """Refuse a file name that promises another format than the one that is written, and arrays
    beside a model's weights.

    Args:
        path: the file.
        suffix: what its name has to end in.
        fix: what else the caller may want.

    Raises:
        ValueError: it ends otherwise; `.safetensors` in a model's folder.
    """
    file = place(path)
    if suffix == ".safetensors":
        check_no_model(file.parent, "path", path)
    if file.suffix != suffix:
        better = file.with_suffix(suffix) if file.name else file / f"table{suffix}"
        raise ValueError(
            f"path={str(path)!r}: what is written is a {suffix} file; name it {str(better)!r} "
            f"({fix})."
        )


def write_csv(path: str | Path, table: pd.DataFrame, *, fix: str) -> None:
    """Write a table without its row numbers, under a temporary name first.

    Raises:
        ValueError: the name ends otherwise than in `.csv`.
    """
    check_suffix(path, ".csv", fix=fix)
    with replacing(path) as work:
        table.to_csv(work, index=False)
