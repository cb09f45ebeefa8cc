"""Exported rows: read back as they were, and whatever else is in a file is told in one message."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pandas as pd
import pytest
from planted_rows import contexts, planted

from sublim_mech import studies
from sublim_mech.__main__ import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def rows() -> pd.DataFrame:
    """As `export` writes them; one of their contexts is called `none`."""
    table = planted(contexts(0.5, 0.0))
    table["run"] = [f"{number:024x}" for number in range(len(table))]
    return table.replace({"trained_in": {"default": "none"}, "evaluated_in": {"default": "none"}})


def as_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def as_parquet(table: pd.DataFrame) -> bytes:
    made = io.BytesIO()
    table.to_parquet(made, index=False)
    return made.getvalue()


@pytest.mark.parametrize(("name", "write"), [("a.csv", as_csv), ("a.parquet", as_parquet)])
def test_rows_are_read_as_they_were_written(name, write, tmp_path):
    (tmp_path / name).write_bytes(write(rows()))
    again = studies.read_export(tmp_path / name)
    assert again.columns.tolist() == rows().columns.tolist()
    assert again["trained_in"].tolist() == rows()["trained_in"].tolist()
    assert again["specific"].tolist() == pytest.approx(rows()["specific"].tolist(), rel=1e-14)


WHOLE = as_csv(rows())
DAMAGED = {
    "cut.csv": (WHOLE[:-40], r"is damaged or no table \(line \d+ has \d+ fields"),
    "empty.csv": (b"", "is damaged or no table"),
    "head.csv": (WHOLE.partition(b"\n")[0] + b"\n", "it has no row"),
    "foreign.csv": (b"name,age\nAda,36\n", "holds no rows of a study: it has no column 'run'"),
    "other.csv": (b"run,trait\n1,owl\n", "holds no rows of a study: rows have no column"),
    "binary.csv": (bytes(range(128, 256)) * 9, "is damaged or no table"),
    "texts.csv": (as_csv(rows().assign(kl="low")), "'kl' is the text 'low'"),
    "no_trait.csv": (as_csv(rows().assign(trait="")), "'trait' is empty in row 0"),
    "cut.parquet": (as_parquet(rows())[:-9], "is damaged or no table"),
    "text.parquet": (WHOLE, "is damaged or no table"),
    "rows.xlsx": (WHOLE, r"exported rows are a \.csv or \.parquet file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_holds_no_rows_is_told_in_one_message(name, tmp_path, monkeypatch):
    content, says = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^path='.*{name}'.*{says}"):
        studies.read_export(tmp_path / name)
    # and the script of the findings says that, and writes nothing
    monkeypatch.syspath_prepend(str(EXAMPLES))
    findings = importlib.import_module("findings")
    words = ["findings.py", "--rows", str(tmp_path / name), "--page", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", [*words, "--figures", str(tmp_path / "figures")])
    with pytest.raises(SystemExit, match=name):
        findings.told(findings.main)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*rows.csv': no such file"):
        studies.read_export(tmp_path / "rows.csv")


def test_a_context_that_pandas_took_for_nothing_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_bytes(as_csv(rows().replace("none", "None")))
    misread = pd.read_csv(tmp_path / "rows.csv")
    assert misread["trained_in"].isna().any()
    with pytest.raises(ValueError, match=r"rows: 'trained_in' is empty in row \d+.*read_export"):
        studies.report_rows(misread, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_rows_in_place_of_a_study_are_told_so(tmp_path, capsys):
    assert main(["report", "rows.csv", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "STUDY='rows.csv' holds rows and no study" in told
    assert "read_export('rows.csv')" in told
