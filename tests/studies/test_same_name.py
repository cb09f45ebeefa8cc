"""Two studies of one name in one folder: neither takes the other's report or configuration."""

from __future__ import annotations

import json
import warnings

import pytest
from planted_rows import planted
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.studies import Asking, Method, Part
from sublim_mech.studies.same_name import RECORD
from sublim_mech.studies.store import STUDIES, Store

ONE = Part(name="one", methods=[R2])
STUDY = small_study("base", ONE)
GROWN = small_study("base", ONE, Part(name="two", methods=[R2], row_seeds=[1]))
LARGER = small_study("base", Part(name="one", methods=[R2], row_seeds=[0, 1]))
OTHER = small_study("base", ONE, asking=Asking(questions=["Which plant?"], scored=3, points=2))


@pytest.fixture
def out(tmp_path):
    Store(tmp_path / "out").begin(STUDY)
    return tmp_path / "out"


def silently(call, *given):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return call(*given)


def test_reports_of_two_studies_stay_apart_and_a_grown_one_takes_its_own(out):
    first = silently(studies.report, STUDY, out).page
    assert first == out / "report" / "small" / "index.html"
    assert studies.Study.from_dict(json.loads((first.parent / RECORD).read_text())) == STUDY
    before = first.read_bytes()
    told = r"another study called 'small' \(asking\.questions: .*Give one of them another name"
    with pytest.warns(UserWarning, match=told):
        second = studies.report(OTHER, out).page
    assert first.read_bytes() == before
    assert second.parent.parent == first.parent.parent
    assert second != first
    with pytest.warns(UserWarning, match=told):
        assert studies.report(OTHER, out).page == second
    assert silently(studies.report, GROWN, out).page == first
    assert first.read_bytes() != before


def test_a_study_made_smaller_is_a_part_of_what_it_was(tmp_path):
    out = tmp_path / "out"
    Store(out).begin(LARGER)
    page = silently(studies.report, LARGER, out).page
    how = r"\(parts\.one\.row_seeds: \[0, 1\] there, \[0\] here\)"
    found = "All 2 runs here are among its 4"
    with pytest.warns(
        UserWarning, match=rf"a larger study of this name .*{how}\. {found}: what is"
    ):
        Store(out).begin(STUDY)
    assert [one.name for one in (out / STUDIES).iterdir()] == ["small.json"]
    assert studies.read_study(out / STUDIES / "small.json") == LARGER
    with pytest.warns(UserWarning, match=rf"held the report of a larger study .*{how}\. {found}"):
        assert studies.report(STUDY, out).page == page
    assert studies.Study.from_dict(json.loads((page.parent / RECORD).read_text())) == STUDY
    assert silently(studies.report, LARGER, out).page == page
    with pytest.warns(UserWarning, match="the report is now of these alone"):
        assert studies.report(STUDY, out, page.parent).page == page


def test_another_study_says_which_runs_and_students_it_shares(out):
    fewer = small_study("base", ONE, focus=["owl"])  # the other student was its control
    told = r"Of the 1 run here 0 are among its own, of the 1 student 1\."
    with pytest.warns(UserWarning, match=rf"another study .*focus: .*{told}"):
        Store(out).begin(fewer)


def test_a_report_says_which_runs_and_students_it_shares(out, tmp_path):
    fewer = small_study("base", ONE, focus=["owl"])
    silently(studies.report, STUDY, out)
    told = r"focus: .*\. Of the 1 run here 0 are among its own, of the 1 student 1\. This one's"
    with pytest.warns(UserWarning, match=told):
        studies.report(fewer, out)
    silently(studies.report, STUDY, out, tmp_path / "told")
    with pytest.raises(FileExistsError, match=r"of the 1 student 1\. Name another folder"):
        studies.report(fewer, out, tmp_path / "told")


def test_a_study_of_which_nothing_was_run_is_told_from_another_of_its_name(out, tmp_path, capsys):
    assert not studies.status(STUDY, out).missing
    assert not studies.status(GROWN, out).missing
    told = f"out='{out}': another study of the name 'small' was run there, this one was not"
    assert studies.status(OTHER, out).missing == told
    studies.write_study(OTHER, tmp_path / "other.toml")
    assert main(["status", str(tmp_path / "other.toml"), "--out", str(out)]) == 1
    assert "this one was not" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="another study of this name"):
        Store(out).begin(OTHER)
    assert not studies.status(OTHER, out).missing
    assert not studies.status(STUDY, out).missing


def test_a_folder_that_was_named_is_not_taken_from_another_study(out, tmp_path):
    page = studies.report(STUDY, out, tmp_path / "told").page
    before = page.read_bytes()
    with pytest.raises(FileExistsError, match=r"to='.*told' holds the report of another study"):
        studies.report(OTHER, out, tmp_path / "told")
    with pytest.raises(FileExistsError, match=r"to='.*told' holds the report of a study"):
        studies.report_rows(planted([({}, 0.5)]), tmp_path / "told")
    assert page.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"to='.*is a file"):
        studies.report(STUDY, tmp_path / "nothing was run here", tmp_path / "file")


def test_a_configuration_that_is_no_earlier_one_of_the_study_is_kept(out):
    folder = out / STUDIES
    silently(Store(out).begin, GROWN)
    assert [path.name for path in folder.iterdir()] == ["small.json"]
    with pytest.warns(UserWarning, match=r"another study of this name was run .*small-\w{8}\.json"):
        Store(out).begin(OTHER)
    (kept,) = folder.glob("small-*.json")
    assert studies.read_study(kept) == GROWN
    assert studies.read_study(folder / "small.json") == OTHER


def test_a_third_study_is_compared_with_all_that_were_run_there(tmp_path):
    """Not with the last one alone: it may be the first one again, or a part of it."""
    out, folder = tmp_path / "out", tmp_path / "out" / STUDIES
    silently(Store(out).begin, LARGER)
    with pytest.warns(UserWarning, match="another study of this name"):
        Store(out).begin(OTHER)
    (kept,) = folder.glob("small-*.json")
    assert studies.read_study(kept) == LARGER
    # a part of the first one: that one stays, and what is done of it is found again
    with pytest.warns(UserWarning, match=rf"a larger study .*All 2 runs here .* as {kept}"):
        Store(out).begin(STUDY)
    assert studies.read_study(folder / "small.json") == OTHER
    # a third one, which is neither: both are told
    third = small_study("base", ONE, focus=["owl"])
    told = rf"another study .*asking\.questions.* {kept.name} is a further one \(.*among its"
    with pytest.warns(UserWarning, match=told):
        Store(out).begin(third)
    assert len(list(folder.glob("small-*.json"))) == 2
    # the first one again: it is kept once
    with pytest.warns(UserWarning, match="another study .*focus"):
        Store(out).begin(LARGER)
    assert studies.read_study(folder / "small.json") == LARGER
    held = [studies.read_study(path) for path in folder.glob("small-*.json")]
    assert sorted(held, key=repr) == sorted([OTHER, third], key=repr)


def test_a_study_that_is_called_as_if_kept_is_left_alone(tmp_path):
    out = tmp_path / "out"
    alike = small_study("base", ONE, name="small-0123abcd")
    silently(Store(out).begin, alike)
    silently(Store(out).begin, STUDY)
    page = silently(studies.report, alike, out).page
    assert silently(studies.report, STUDY, out).page != page
    names = sorted(path.name for path in (out / STUDIES).iterdir())
    assert names == ["small-0123abcd.json", "small.json"]


def test_a_third_report_finds_its_own_among_all(tmp_path):
    out = tmp_path / "out"
    Store(out).begin(OTHER)
    first = silently(studies.report, OTHER, out).page
    with pytest.warns(UserWarning, match="another study called 'small'"):
        second = studies.report(LARGER, out).page
    with pytest.warns(UserWarning, match=rf"{second.parent} held the report of a larger study"):
        assert studies.report(STUDY, out).page == second
    with pytest.warns(UserWarning, match=rf"another study .* is in {second.parent}"):
        assert studies.report(LARGER, out).page == second  # which it has grown to again
    assert first.parent.name == "small"
    assert len(list((out / "report").iterdir())) == 2


# -------------------------------------------------------------------------------- one student twice


def test_one_student_under_two_names_is_refused_before_anything_runs(tmp_path):
    steps = {"ranks": [2], "steps": 4, "warmup": 1}
    one, other = Method(name="mine", **steps), Method(name="yours", **steps)
    together = [Part(name="p", methods=[one, other])]
    apart = [Part(name="p", methods=[one]), Part(name="q", methods=[other])]
    for parts, where in ((together, "part 'p'"), (apart, "parts 'p' and 'q'")):
        twice = small_study("base", *parts)
        for call in (studies.plan, lambda study: studies.run(study, tmp_path / "out")):
            with pytest.raises(ValueError, match=rf"{where}: methods 'mine' and 'yours' train the"):
                call(twice)
        students = [run.task.own.student.address for run in studies.Tasks(twice).runs]
        assert len(set(students)) == len(students) / 2
    assert not (tmp_path / "out").exists()


def test_a_point_of_two_scaling_rules_may_have_two_names():
    rules = [
        Method(name=name, ranks=[8], alpha=alpha) for name, alpha in (("a", 8.0), ("b", "rank"))
    ]
    planned = studies.plan(small_study("base", Part(name="p", methods=rules)))
    assert (planned.runs, planned.stages["students"].to_do) == (4, 2)
