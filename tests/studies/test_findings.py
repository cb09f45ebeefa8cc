"""The page of findings: what it says is in the rows, and what is not there is named."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from planted_rows import everything

from sublim_mech import studies
from sublim_mech.studies import Tasks
from sublim_mech.studies.concluding import Evidence, conclusions, students

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("findings")


@pytest.fixture
def exported(made: Any, tmp_path: Path) -> Path:
    studies.export(made.study, made.out, tmp_path / "rows.csv")
    return tmp_path / "rows.csv"


def write(findings: Any, study: Any, rows: pd.DataFrame, folder: Path) -> str:
    return write_all(
        findings, study, {str(EXAMPLES.parent / "docs/findings/rows.csv"): rows}, folder
    )


def write_all(findings: Any, study: Any, tables: dict[str, pd.DataFrame], folder: Path) -> str:
    findings.write_page(study, tables, folder / "findings.md", folder / "figures")
    return (folder / "findings.md").read_text()


def test_a_finished_study_lacks_nothing_and_every_picture_is_there(
    findings, made, exported, tmp_path
):
    page = write(findings, made.study, studies.read_export(exported), tmp_path)
    assert "Nothing is missing." in page
    assert f"{len(made.rows)} of {len(made.rows)} runs" in page
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert linked
    assert {tmp_path / link for link in linked} <= set((tmp_path / "figures").glob("*.png"))


def test_a_number_of_the_page_comes_out_of_the_rows_with_pandas_alone(
    findings, made, exported, tmp_path, monkeypatch
):
    page = write(findings, made.study, studies.read_export(exported), tmp_path)
    (code,) = re.findall(r"^```\n(import pandas.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "docs" / "findings").mkdir(parents=True)
    exported.rename(tmp_path / "docs" / "findings" / "rows.csv")
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    quoted = re.search(r"# ([+-][\d.]+)$", code, re.MULTILINE)
    assert quoted
    assert f"{float(said.getvalue()):+.3f}" == quoted[1]
    first = page.partition("## All students")[2].split("\n|---")[1].split("\n")[1]
    assert quoted[1] in first.split("|")[-3]


def test_an_unfinished_study_names_the_parts_that_are_not_there(findings, made, exported, tmp_path):
    rows = studies.read_export(exported)
    some = rows[(rows["part"] != "plain") & (rows["trait"] != "cat")]
    page = write(findings, made.study, some, tmp_path)
    assert "**Not there: scored (2 missing), bare (1 missing), plain (2 missing).**" in page
    assert "| plain | 0 of 2 |" in page
    assert "## Contrastive labels" not in page


def test_rows_of_another_device_fill_in_what_the_first_lack(findings, made, exported, tmp_path):
    """A student that both made is the first's, and is compared; addresses know the device."""
    rows = studies.read_export(exported)
    on_card = replace(made.study, computing=replace(made.study.computing, device="cuda"))
    address = {
        here.task.address: there.task.address
        for here, there in zip(Tasks(made.study).runs, Tasks(on_card).runs, strict=True)
    }
    other = rows.assign(run=rows["run"].map(address), device="cuda", student="its own")
    other["change"] += 0.25
    first = rows[rows["part"] != "plain"]
    page = write_all(findings, made.study, {"one.csv": first, "card.csv": other}, tmp_path)
    assert "Nothing is missing." in page
    both = len(first.drop_duplicates(["student", "evaluated_in"]))
    assert f"{both} students (each context counted) stand in `one.csv` and in `card.csv`" in page
    assert f"- `card.csv`: {len(other)} rows; base:" in page
    assert "Change differs by 0.250 nats in the mean and 0.250 at most" in page
    equal = {"one.csv": first, "card.csv": other.assign(change=rows["change"])}
    alike = write_all(findings, made.study, equal, tmp_path)
    assert "held-out KL are the same to the last digit" in alike
    joined = findings.joined([first, other])
    assert (joined["device"] == "cuda").sum() == (rows["part"] == "plain").sum() > 0
    assert len(joined) == len(rows)
    assert "0 of 2" in write_all(
        findings, made.study, {"one.csv": first, "again.csv": first}, tmp_path
    )


def test_a_student_is_taken_from_the_file_that_asked_it_in_the_most_contexts(
    findings, made, exported
):
    """So that its contexts are of one training; what that file lacks the others have."""
    rows = studies.read_export(exported)
    student = [name for name in findings.CELL if name != "evaluated_in"]
    asked = rows.groupby(student, dropna=False)["evaluated_in"].transform("nunique")
    rows = rows[asked > 1]
    fewer, card = rows[rows["trained_in"] == rows["evaluated_in"]], rows.assign(device="cuda")
    assert 0 < len(fewer) < len(rows)
    assert set(findings.joined([fewer, card])["device"]) == {"cuda"}
    assert set(findings.joined([card, fewer])["device"]) == {"cuda"}
    assert set(findings.joined([rows, card])["device"]) == {"cpu"}


def test_contrast_is_the_difference_of_students_that_differ_in_nothing_else(
    findings, made, exported, tmp_path
):
    page = write(findings, made.study, studies.read_export(exported), tmp_path)
    rows = made.rows[(made.rows["method"] == "r2") & (made.rows["evaluated_in"] == "default")]
    by_kind = rows.drop_duplicates(["student"]).pivot(
        index="trait", columns="labels", values="specific"
    )
    expected = (by_kind["contrastive"] - by_kind["plain"]).mean()
    line = next(x for x in page.split("\n") if x.startswith("| contrastive - plain"))
    assert f"{expected:+.3f}" in line


def test_verdicts_are_those_of_the_rows_told_together(findings, made, tmp_path):
    rows = everything().assign(run="none")
    page = write(findings, made.study, rows, tmp_path)
    evidence = Evidence(students(rows))
    told = conclusions(evidence)
    assert told[-1].claim.startswith("Training at the shared")
    for one in told:
        section = page.partition(f"## {one.claim}\n")[2].partition("\n## ")[0]
        assert findings.SAID[one.label][1:] in section
        for statement in one.statements:
            assert (
                f"{statement.mean:+.3f}" in section
                or "not measured" in repr(statement)
                or (statement.mean != statement.mean)
            )
    assert "0 of " in page


def test_what_stands_around_the_marks_stays_and_the_same_rows_give_the_same_page(
    findings, made, exported, tmp_path
):
    page = tmp_path / "findings.md"
    page.write_text(f"# Mine\n\nBefore.\n\n{findings.BEGIN}\nold\n{findings.END}\n\nAfter.\n")
    rows = studies.read_export(exported)
    first = write(findings, made.study, rows, tmp_path)
    assert first.startswith("# Mine\n\nBefore.\n")
    assert first.endswith("\n\nAfter.\n")
    assert "\nold\n" not in first
    (tmp_path / "figures" / "of-rows-that-are-gone.png").write_bytes(b"")
    assert write(findings, made.study, rows, tmp_path) == first
    assert not (tmp_path / "figures" / "of-rows-that-are-gone.png").exists()
    page.write_text("# No marks\n")
    with pytest.raises(ValueError, match="has no marks"):
        write(findings, made.study, rows, tmp_path)


def test_texts_that_pandas_takes_for_nothing_stay_texts(findings, made, exported):
    rows = studies.read_export(exported)
    for name in ("trait", "trained_in", "evaluated_in", "where", "labels", "method"):
        assert rows[name].tolist() == made.rows[name].tolist()


def test_the_committed_page_has_its_marks(findings):
    text = (EXAMPLES.parent / "docs" / "findings.md").read_text()
    assert text.count(findings.BEGIN) == text.count(findings.END) == 1
