"""Row files: what is written is read, with and without the index; damaged ones are named."""

from __future__ import annotations

import math
import os

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sublim_mech.studies.row_files import read_row, read_rows, write_row


def row(number, **more):
    return {
        "run": f"{number:08x}",
        "trait": "owl",
        "rank": number or None,
        "change": number / 7,
        "c": math.nan,
        "moved": True,
        "change by question": [number / 3, 0.5] if number % 2 else [],
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        more = {"graft total": 0.25} if number > 3 else {}
        write_row(tmp_path / f"rows/{number:08x}.parquet", row(number, **more))
    return tmp_path / "rows"


def table(found):
    return found.table.to_pandas().sort_values("run").reset_index(drop=True)


def test_rows_come_back_with_and_without_the_index(folder, tmp_path):
    index = tmp_path / "index.parquet"
    first = read_rows(folder, index)
    assert not first.damaged
    assert index.is_file()
    again = read_rows(folder, index)
    pd.testing.assert_frame_equal(table(first), table(again))
    index.write_bytes(b"broken")
    pd.testing.assert_frame_equal(table(first), table(read_rows(folder, index)))
    frame = table(first)
    assert frame["change"].tolist() == [number / 7 for number in range(6)]
    assert frame["change by question"][3].tolist() == [1.0, 0.5]
    assert frame["graft total"].isna().tolist() == [True] * 4 + [False] * 2
    for number in range(6):
        one = read_row(folder / f"{number:08x}.parquet")
        assert one["rank"] == (number or None)


def test_files_without_the_row_in_their_metadata_say_the_same(folder, tmp_path):
    """As earlier versions wrote them, and as other programs read them."""
    for path in folder.iterdir():
        columns = pq.read_table(path)
        (told,) = columns.to_pylist()
        assert repr(read_row(path)) == repr(told)  # NaN and types too
        bare = tmp_path / "bare" / path.name
        bare.parent.mkdir(exist_ok=True)
        pq.write_table(columns.replace_schema_metadata(None), bare)
        assert repr(read_row(bare)) == repr(told)
        assert pd.read_parquet(path).iloc[0]["change"] == told["change"]
    ours = read_rows(folder, tmp_path / "one.parquet").table
    theirs = read_rows(tmp_path / "bare", tmp_path / "two.parquet").table
    assert ours.schema == theirs.schema
    pd.testing.assert_frame_equal(ours.to_pandas(), theirs.to_pandas())
    kinds = {
        name: str(kind) for name, kind in zip(ours.schema.names, ours.schema.types, strict=True)
    }
    assert kinds == {
        "run": "string", "trait": "string", "rank": "int64", "change": "double", "c": "double",
        "moved": "bool", "change by question": "list<item: double>", "graft total": "double",
    }  # fmt: skip


def test_the_index_follows_files_that_came_went_and_changed(folder, tmp_path):
    index = tmp_path / "index.parquet"
    read_rows(folder, index)
    (folder / f"{1:08x}.parquet").unlink()
    write_row(folder / f"{2:08x}.parquet", row(2) | {"change": 99.0})
    os.utime(folder / f"{2:08x}.parquet", ns=(1, 1))
    write_row(folder / f"{9:08x}.parquet", row(9, other=1))
    frame = table(read_rows(folder, index))
    assert frame["run"].tolist() == [f"{number:08x}" for number in (0, 2, 3, 4, 5, 9)]
    assert frame["change"][1] == 99.0
    index.unlink()
    pd.testing.assert_frame_equal(
        frame.sort_index(axis=1), table(read_rows(folder, index)).sort_index(axis=1)
    )


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense PAR1", None])
def test_a_damaged_file_is_named_and_only_that_run_is_left_out(folder, tmp_path, damage):
    bad = folder / f"{3:08x}.parquet"
    bad.write_bytes(bad.read_bytes()[:-40] if damage is None else damage)
    found = read_rows(folder, tmp_path / "index.parquet")
    assert list(found.damaged) == [bad]
    assert str(bad) in found.damaged[bad]
    assert len(found.table) == 5
    # it stays named: a damaged file is never in the index
    assert list(read_rows(folder, tmp_path / "index.parquet").damaged) == [bad]


def test_an_index_that_cannot_be_written_is_done_without(folder, tmp_path):
    missing = folder / f"{0:08x}.parquet" / "index.parquet"
    assert len(read_rows(folder, missing).table) == 6


def test_no_rows_are_a_table_of_none(tmp_path):
    found = read_rows(tmp_path / "nowhere", tmp_path / "index.parquet")
    assert len(found.table) == 0
    assert {"run", "trait"} <= set(found.table.column_names)
