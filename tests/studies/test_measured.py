"""A row says what the instruments say when they are asked one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.storage.runs import open_run

PART = {"default": "scored", "bare": "bare"}


def pick(made, **where):
    found = made.rows
    for column, value in where.items():
        found = found[found[column.replace("__", " ")] == value]
    (index,) = found.index
    return found.loc[index]


def folder_of(made, address):
    return made.out / "students" / address


@pytest.mark.parametrize(
    ("method", "context"), [("r2", "default"), ("full", "default"), ("r2", "bare")]
)
def test_changes_and_controls_are_those_of_evaluate(made, method, context):
    row = pick(made, part=PART[context], trait="owl", method=method, evaluated_in=context)
    pair = sm.load_pair(
        made.study.base,
        folder_of(made, row["student"]),
        controls=[folder_of(made, row["controls"])],
    )
    found = sm.evaluate(
        pair,
        made.study.traits,
        contexts={context: made.study.contexts[context]},
        questions=made.study.questions,
        progress=False,
    )
    told = found.table().loc[(context, "owl")]
    assert row["base level"] == pytest.approx(told["base"], abs=1e-5)
    assert row["change"] == pytest.approx(told["change"], abs=1e-5)
    assert row["specific"] == pytest.approx(told["specific"], abs=1e-5)
    assert row["control"] == pytest.approx(row["change"] - row["specific"], abs=1e-9)
    change = found.change.sel(model="student", context=context)
    np.testing.assert_allclose(row["change by question"], change.sel(trait="owl").values, atol=1e-5)
    others = change.sel(trait=["cat", "dog"]).mean()
    assert row["others"] == pytest.approx(float(others), abs=1e-5)
    assert row["change dog"] == pytest.approx(float(change.sel(trait="dog").mean()), abs=1e-5)


def test_scores_are_those_of_graft_and_attribute(made):
    row = pick(made, part="scored", trait="cat", method="r2", evaluated_in="default")
    pair = sm.load_pair(
        made.study.base,
        folder_of(made, row["student"]),
        controls=[folder_of(made, row["controls"])],
    )
    asked = sm.render(pair.tokenizer, made.study.questions[: made.study.asking.scored])
    prompts, trait = sm.mark_sharing(asked, pair), sm.animal("cat")
    graft = sm.graft(pair, prompts, trait, "sharing", progress=False)
    shared = graft.headline.sel(set="shared").mean("prompt")
    for measure in ("sufficiency", "necessity"):
        told = float(shared.sel(measure=measure))
        assert row[f"graft shared {measure}"] == pytest.approx(told, abs=1e-5)
    assert row["graft total"] == pytest.approx(float(graft.total.mean()), abs=1e-5)
    attributed = sm.attribute(pair, prompts, trait, points=2, progress=False)
    found = sm.concentration(attributed, on="shared")
    assert row["ig shared token share"] == pytest.approx(found.token_share)
    assert row["ig shared share"] == pytest.approx(found.share, abs=1e-3, nan_ok=True)
    # the classes, and the answer's own tokens, are all there is
    parts = [row[f"ig {name}"] for name in ("shared", "not shared", "answer")]
    gap = float(attributed.missing.mean())
    assert sum(parts) == pytest.approx(row["ig total"] - gap, abs=1e-5)
    # the graft and the attribution are of the same effect
    assert row["ig total"] == pytest.approx(row["graft total"], abs=1e-5)


def test_trainings_stop_with_their_twins_and_say_so(made):
    for trait in ("owl", "cat"):
        where = {"part": "scored", "trait": trait, "evaluated_in": "default"}
        lora, full = (pick(made, method=name, **where) for name in ("r2", "full"))
        run = open_run(folder_of(made, full["student"]))
        assert full["stop_at"] == lora["kl"]
        assert full["steps"] == run.manifest.results["steps"]
        log = [json.loads(x) for x in (run.path / "log.jsonl").read_text().splitlines()]
        before_last = [line["held_out"] for line in log[1:-1] if "held_out" in line]
        assert all(loss > full["stop_at"] for loss in before_last)
        assert full["kl"] <= full["stop_at"] or full["steps"] == 4


def test_labels_are_contrastive_or_plain_as_asked(made):
    teachers = made.rows.groupby("part")["teacher"].unique()
    assert [word.split(",")[0] for word in teachers["scored"]] == ["contrastive teacher"]
    assert teachers["plain"].tolist() == ["plain prompted teacher"]


def test_rows_carry_what_they_depend_on(made):
    assert set(made.rows["threads"]) == {1}
    assert set(made.rows["base"]) == {made.study.base}
    assert made.rows["versions"].str.contains("torch").all()
    assert made.rows["base_hash"].nunique() == 1


def test_csv_and_parquet_hold_the_rows(made, tmp_path):
    import pandas as pd

    studies.export(made.study, made.out, tmp_path / "rows.csv")
    flat = pd.read_csv(tmp_path / "rows.csv")
    assert flat["specific"].tolist() == pytest.approx(made.rows["specific"].tolist())
    assert json.loads(flat["change by question"][0]) == list(made.rows["change by question"][0])
    studies.export(made.study, made.out, tmp_path / "rows.parquet")
    again = pd.read_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(again, made.rows, check_dtype=False)
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        studies.export(made.study, made.out, tmp_path / "rows.xlsx")


def test_snapshots_are_asked_as_the_student_was_then(base_folder, tmp_path):
    from small_studies import small_study

    method = studies.Method(
        name="r2", ranks=[2], steps=4, warmup=1, evaluate_every=4, snapshots=[2]
    )
    study = small_study(base_folder, studies.Part(name="p", methods=[method], focus=["owl"]))
    rows = studies.run(study, tmp_path / "out", progress=False).set_index("step")
    run = open_run(tmp_path / "out/students" / rows.loc[2, "student"])
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert rows.loc[2, "kl"] == log[2]["held_out"] != rows.loc[0, "kl"]
    pair = sm.load_pair(study.base, run.snapshots[2])
    asked = sm.evaluate(pair, study.traits, questions=study.questions, progress=False)
    told = float(asked.change.sel(trait="owl").mean())
    assert rows.loc[2, "change"] == pytest.approx(told, abs=1e-5)
    assert np.isnan(rows.loc[2, "specific"])  # one trait has no control
