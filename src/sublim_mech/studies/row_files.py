"""Rows: one flat record per run, from answers and scores; parquet files, all of them as one table.

1. A run's file holds one row; its columns are numbers, texts, and `by question` lists. The row
   stands once more in the file's metadata, as JSON: reading a hundred columns of one row each
   takes five times as long.
2. All files make a table. An index beside them keeps the rows that were read before, by name, size
   and time of each file; without it, or where it is damaged, every file is read again.
3. A damaged file is named and left out; all others count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..storage.files import replacing

INDEX_FILE = "index.parquet"
_FILE, _SIZE, _TIME = "_file", "_size", "_time"
_STAMP = (_FILE, _SIZE, _TIME)
_ROW = b"sublim_mech.row"
_LISTS = pa.list_(pa.float64())
FIXED = ("run", "trait")
"""Columns that every row has."""


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a run's row, complete or not at all."""
    table = pa.table({name: _column([value]) for name, value in row.items()})
    told = json.dumps(table.to_pylist()[0])
    table = table.replace_schema_metadata({_ROW: told})
    with replacing(path) as work:
        # one row: dictionaries and statistics would be most of the file
        pq.write_table(table, work, use_dictionary=False, write_statistics=False)


def _column(values: list[Any]) -> pa.Array:
    """Values of one column; what Arrow could not tell of empty lists is that they hold numbers."""
    return pa.array(values, _LISTS if any(isinstance(one, list) for one in values) else None)


def read_row(path: Path) -> dict[str, Any]:
    """A run's row.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            told = (file.metadata.metadata or {}).get(_ROW)
            rows = [json.loads(told)] if told else file.read(use_threads=False).to_pylist()
            count = file.metadata.num_rows
        if count != 1 or not set(FIXED) <= set(rows[0]):
            raise ValueError("it does not hold one run's row")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run again.") from error
    return rows[0]


class Found(NamedTuple):
    """All rows.

    Attributes:
        table: one row per run, in no order.
        damaged: file -> why it could not be read.
    """

    table: pa.Table
    damaged: dict[Path, str]


def read_rows(folder: Path, index: Path) -> Found:
    """All rows of a folder.

    Args:
        folder: of row files.
        index: the file that keeps what was read; made, brought up to date, or left as it is where
            it cannot be written.
    """
    there = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                    stat = entry.stat()
                    there[entry.name] = (stat.st_size, stat.st_mtime_ns)

    kept = _read_index(index)
    known: dict[str, tuple[int, int]] = {}
    if kept is not None:
        names, sizes, times = (kept.column(name).to_pylist() for name in _STAMP)
        known = dict(zip(names, zip(sizes, times, strict=True), strict=True))
        same = [there.get(name) == stamp for name, stamp in known.items()]
        if not all(same):
            kept = kept.filter(pa.array(same))
    fresh = sorted(name for name, stamp in there.items() if known.get(name) != stamp)
    read, damaged = _read_files(folder, fresh, there)
    tables = [*([] if kept is None else [kept]), *read]
    table = _together(tables)
    if fresh or (kept is not None and len(kept) != len(known)):
        _write_index(index, table)
    return Found(table.drop_columns(list(_STAMP)), damaged)


def _read_files(
    folder: Path, names: list[str], stamps: Mapping[str, tuple[int, int]]
) -> tuple[list[pa.Table], dict[Path, str]]:
    """The rows of files, with name, size and time of each; and which are damaged."""
    damaged: dict[Path, str] = {}

    def one(name: str) -> dict[str, Any] | None:
        try:
            return read_row(folder / name)
        except ValueError as error:
            damaged[folder / name] = str(error)
            return None

    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(one, names))
    # rows of the same columns first: putting together many tables of different ones is slow
    alike: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    for name, row in zip(names, read, strict=True):
        if row is not None:
            alike.setdefault(tuple(row), []).append((name, row))
    tables = []
    for columns, found in alike.items():
        arrays = {column: _column([row[column] for _, row in found]) for column in columns}
        files = [name for name, _ in found]
        arrays[_FILE] = pa.array(files)
        arrays[_SIZE] = pa.array([stamps[name][0] for name in files])
        arrays[_TIME] = pa.array([stamps[name][1] for name in files])
        tables.append(pa.table(arrays))
    return tables, damaged


def _together(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        none: dict[str, Any] = {name: pa.array([], pa.string()) for name in (*FIXED, _FILE)}
        none |= {name: pa.array([], pa.int64()) for name in (_SIZE, _TIME)}
        return pa.table(none)
    return pa.concat_tables(tables, promote_options="permissive")


def _read_index(path: Path) -> pa.Table | None:
    """The index; None where there is none that can be read."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return table if set(_STAMP) <= set(table.column_names) else None


def _write_index(path: Path, table: pa.Table) -> None:
    with suppress(OSError), replacing(path) as work:  # it is a convenience
        pq.write_table(table, work)
