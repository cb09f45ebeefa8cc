"""Rows that `export` wrote, read back: complete, and of a study, or refused in one message."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ..arguments import checked
from ..hints import counted
from ..storage.files import place
from .concluding import students
from .row_files import FIXED

ENDINGS = (".csv", ".parquet")
_FIX = "export the study again (studies.export, sublim-mech export)"


@checked
def read_export(path: str | Path) -> pd.DataFrame:
    """Rows as `export` wrote them: one per run and part, texts such as `None` as they are.

    Args:
        path: the file, `.csv` or `.parquet`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending; a file that is damaged, cut, empty or no table; a table that
            holds other things than the rows of a study.

    Example:
        >>> from sublim_mech import studies
        >>> studies.export(study, out, folder / "rows.csv")
        >>> len(studies.read_export(folder / "rows.csv")) == len(studies.rows(study, out))
        True
    """
    file, called = place(path), f"path={str(path)!r}"
    if file.suffix not in ENDINGS:
        raise ValueError(f"{called}: exported rows are a {' or '.join(ENDINGS)} file.")
    if not file.is_file():
        raise FileNotFoundError(f"{called}: no such file.")
    try:
        rows = _read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except (ValueError, csv.Error, pa.ArrowException, OSError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{called} is damaged or no table ({why[0]}); {_FIX}.") from error
    missing = [name for name in FIXED if name not in rows]
    if missing or not len(rows):
        what = f"column {missing[0]!r}" if missing else "row"
        raise ValueError(f"{called} holds no rows of a study: it has no {what}; {_FIX}.")
    try:
        students(rows)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{called} holds no rows of a study: {error}") from error
    return rows


def _read_csv(file: Path) -> pd.DataFrame:
    """A table whose lines all have the fields of its head.

    Raises:
        ValueError: they have not; no text in UTF-8, or nothing.
    """
    csv.field_size_limit(1 << 30)
    with file.open(encoding="utf-8-sig", newline="") as handle:
        lines = csv.reader(handle, strict=True)
        head = next(lines, [])
        for fields in lines:
            if len(fields) != len(head):
                raise ValueError(
                    f"line {lines.line_num} has {counted(len(fields), 'field')}, the first line "
                    f"{len(head)}"
                )
    # `None` may be a context, and an empty field is nothing; addresses are no numbers
    return pd.read_csv(
        file,
        keep_default_na=False,
        na_values=[""],
        encoding="utf-8-sig",
        dtype=dict.fromkeys(("run", "student", "controls"), str),
    )
