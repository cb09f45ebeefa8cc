"""Arms of the causal test: students that are trained at chosen tokens only."""

from __future__ import annotations

import dataclasses

import pytest
from small_studies import R2, small_study

import sublim_mech as sm
from sublim_mech import stats, studies
from sublim_mech.making.training import gates_of
from sublim_mech.storage.runs import open_run
from sublim_mech.studies import Part, Tasks
from sublim_mech.studies.arms import ARMS

RECORDED = {
    "shared": ("shared", "closed"),
    "not shared": ("not shared", "closed"),
    "prompt": ("everything", "closed"),
    "answer": ("answer", "only"),
}


@pytest.fixture(scope="module")
def arms(base_folder, tmp_path_factory):
    method = dataclasses.replace(R2, lrs=[1e-2])
    part = Part(name="p", methods=[method], where=tuple(ARMS))
    study = small_study(base_folder, part, contexts={"default": sm.Context()})
    out = tmp_path_factory.mktemp("arms") / "out"
    return study, out, studies.run(study, out, progress=False)


def test_students_are_trained_where_their_rows_say(arms):
    _, out, rows = arms
    assert rows["where"].tolist() == [arm for arm in ARMS for _ in range(2)]
    for row in rows.to_dict("records"):
        recorded = open_run(out / "students" / row["student"]).manifest.method.get("where")
        if row["where"] == "everywhere":
            assert recorded is None
        else:
            assert (recorded["mask"], recorded["answer"]) == RECORDED[row["where"]]
    assert (rows["kl"] != rows["kl_before"]).all()
    assert rows.groupby("trait")["kl"].nunique().tolist() == [5, 5]


@pytest.mark.parametrize("where", ["shared", "answer"])
def test_rows_have_the_change_as_trained_and_with_the_weights_on_everywhere(arms, where):
    study, out, rows = arms
    row = rows[(rows["where"] == where) & (rows["trait"] == "owl")].iloc[0]
    assert row["gates"] == "as trained"
    folder, control = (out / "students" / row[name] for name in ("student", "controls"))
    base = sm.load_base(study.base)
    for column, gated in (("", True), ("everywhere ", False)):
        own, other = (
            sm.models.load_student(base, one, name=name, gates=gates_of(one) if gated else None)
            for one, name in ((folder, "owl"), (control, "cat"))
        )
        pair = sm.load_pair(base, own, controls=[other])
        found = sm.evaluate(
            pair,
            study.traits,
            contexts={"default": study.contexts["default"]},
            questions=study.questions,
            progress=False,
        )
        told = found.table().loc[("default", "owl")]
        assert row[f"{column}change"] == pytest.approx(told["change"], abs=1e-5)
        assert row[f"{column}specific"] == pytest.approx(told["specific"], abs=1e-5)
    assert row["change"] != pytest.approx(row["everywhere change"], abs=1e-5)


def test_students_of_everywhere_are_those_of_studies_without_arms(arms):
    study, _, rows = arms
    part = dataclasses.replace(study.parts[0], where=("everywhere",))
    alone = Tasks(dataclasses.replace(study, parts=[part]))
    assert rows["run"].tolist()[:2] == [run.task.address for run in alone.runs]
    assert rows["gates"].isna().tolist() == [True] * 2 + [False] * 8


def test_the_claim_of_the_arms_is_told_of_their_rows(arms):
    rows = arms[2]
    found = stats.trained_at_claim(rows)
    assert found.label == "cannot tell"  # one row seed has no interval
    by_arm = rows.groupby("where")["specific"].mean()
    assert found.statements[0].mean == pytest.approx(by_arm["shared"])
    assert found.statements[1].mean == pytest.approx(by_arm["shared"] - by_arm["not shared"])
