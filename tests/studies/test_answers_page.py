"""Generated answers in the report of a study: rates in its table, and what students say."""

from __future__ import annotations

import re
import shutil
from html import unescape

import pandas as pd
import pytest
from planted_rows import planted
from small_studies import QUESTIONS, R2, small_study

from sublim_mech import studies
from sublim_mech.storage.files import write_dataset
from sublim_mech.studies import Asking, Part, Tasks, answers_page
from sublim_mech.studies.answers_page import answers_section
from sublim_mech.studies.concluding import students
from sublim_mech.studies.measured import ANSWERS, read_answers
from sublim_mech.studies.reporting import _methods
from sublim_mech.studies.store import Store

FIRST, LONG = "I <b>love</b> owls & cats", "owl " * 100


@pytest.fixture(scope="module")
def asked(base_folder, tmp_path_factory):
    """Two contexts and two training seeds, six questions, two samples."""
    asking = Asking(questions=QUESTIONS, samples=2, temperature=0.7, max_new_tokens=2)
    part = Part(name="one", methods=[R2], training_seeds=[3, 4], evaluated_in=("default", "bare"))
    study = small_study(base_folder, part, asking=asking)
    out = tmp_path_factory.mktemp("answers") / "out"
    studies.run(study, out, progress=False)
    return study, out


@pytest.fixture
def mine(asked, tmp_path):
    """The same in a folder that a test may change."""
    study, out = asked
    shutil.copytree(out, tmp_path / "out")
    return study, tmp_path / "out"


def path_of(study, out, *, trait="owl", training_seed=3, evaluated_in="default"):
    """The student's file of answers."""
    (run,) = [
        run for run in Tasks(study).runs
        if (run.cell.trait, run.cell.training_seed, run.cell.evaluated_in)
        == (trait, training_seed, evaluated_in)
    ]  # fmt: skip
    return Store(out).path(run.task.own)


def say(path, *texts):
    """Have the first sample of the first questions be other texts."""
    found = read_answers(path)
    answers = found["answer"].values.astype(object)
    answers[: len(texts), 0] = texts
    found["answer"] = (("question", "sample"), answers.astype(str))
    write_dataset(path, found, ANSWERS, {})


def section(study, out):
    page = studies.report(study, out).page.read_text("utf-8")
    found = re.findall("<details><summary>Answers</summary>.*?</details>", page, re.DOTALL)
    return found[0] if found else ""


def test_answers_stand_beside_the_bases_and_a_controls(mine):
    study, out = mine
    say(path_of(study, out), FIRST, LONG, "")
    told = section(study, out)
    assert "Sample 1 of 2, drawn at temperature 0.7, to the first 5 of 6 questions" in told
    captions = re.findall("<caption>(.*?)</caption>", told)
    assert captions == [
        f"{trait}: r2, c = 4, everywhere, default → {asked}; row seed 0, training seed 3"
        for asked in ("default", "bare") for trait in ("owl", "cat")
    ]  # fmt: skip
    first = told.partition("</table>")[0]
    assert "<th>question</th><th>base</th><th>student (owl)</th><th>control (cat)</th>" in first
    lines = [re.findall("<td>(.*?)</td>", line, re.DOTALL) for line in first.split("<tr>")[2:]]
    assert [line[0] for line in lines] == list(QUESTIONS[:5])
    own = [line[2] for line in lines]
    assert own[0] == "I &lt;b&gt;love&lt;/b&gt; owls &amp; cats"
    assert own[1] == LONG[:199] + "…"
    assert own[2] == "(empty)"
    # the control is the other trait's student
    (control,) = {read_answers(path_of(study, out, trait="cat"))["answer"].values[0, 0].strip()}
    assert unescape(lines[0][3]) == control or not control


def test_a_file_that_cannot_be_read_is_left_out_for_the_next_run(mine):
    study, out = mine
    path_of(study, out).write_bytes(b"damaged")
    path_of(study, out, evaluated_in="bare").unlink()
    path_of(study, out, training_seed=4, evaluated_in="bare").unlink()
    captions = re.findall("<caption>(.*?)</caption>", section(study, out))
    assert [one.split(":")[0] for one in captions] == ["owl", "cat", "cat"]
    assert captions[0].endswith("default → default; row seed 0, training seed 4")
    assert captions[1].endswith("default → default; row seed 0, training seed 3")


def test_only_runs_that_are_finished_are_shown(asked):
    study, out = asked
    runs = [run for run in Tasks(study).runs if run.cell.training_seed == 4]
    (told,) = answers_section(study, Store(out), {run.task.address for run in runs})
    assert "training seed 4<" in told
    assert "training seed 3<" not in told
    assert answers_section(study, Store(out), set()) == []


def test_of_many_traits_the_first_are_shown(asked, monkeypatch):
    study, out = asked
    monkeypatch.setattr(answers_page, "TRAITS", 1)
    (told,) = answers_section(study, Store(out), {run.task.address for run in Tasks(study).runs})
    captions = re.findall("<caption>(.*?):", told)
    assert captions == ["owl", "owl"]  # in two contexts
    assert "at most 1 trait;" in told


def test_a_study_without_answers_has_no_section(made):
    assert section(made.study, made.out) == ""


def test_rates_are_columns_of_the_table_where_there_are_some():
    rows = students(planted([({}, 0.5)], row_seeds=2))
    assert "names it" not in "".join(_methods(rows))
    empty = rows.assign(rate=float("nan"), **{"base rate": float("nan")})
    assert "names it" not in "".join(_methods(empty))
    rows["rate"], rows["base rate"] = 0.25 + 0.01 * rows["row_seed"], 0.125
    others = students(planted([({"rank": 16.0}, 0.5)], row_seeds=2))
    page = "".join(_methods(pd.concat([rows, others], ignore_index=True)))
    assert "<th>names it</th><th>base names it</th>" in page
    assert "<td>0.255 [0.191, 0.319]</td><td>0.125 (no interval: 2 data sets alike)</td>" in page
    assert "<td>–</td><td>–</td></tr>" in page
    assert "Names it: the part of generated answers that name the trait." in page
