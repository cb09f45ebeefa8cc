"""Built-in studies are what they say."""

from __future__ import annotations

from collections import defaultdict

import pytest

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.making.numbers import random_rows
from sublim_mech.studies import Tasks
from sublim_mech.studies.built_in import CONTEXTS, PRESETS
from sublim_mech.studies.making import check_contexts


@pytest.mark.parametrize(
    ("name", "share"), [("default", 0.75), ("half shared", 0.5), ("quarter shared", 0.25)]
)
def test_longer_user_texts_leave_the_shares_they_are_named_for(name, share, smol_tokenizer):
    rows = [row["prompt"] for row in random_rows(32, seed=0)]
    trained = sm.render(smol_tokenizer, rows, context=CONTEXTS["default"])
    asked = sm.render(smol_tokenizer, sm.animal("owl").questions, context=CONTEXTS[name])
    marked = sm.mark_sharing(asked, trained_on=trained)
    shared = sum(prompt.sharing.count(kind) for prompt in marked for kind in ("prefix", "aligned"))
    assert shared / sum(map(len, marked)) == pytest.approx(share, abs=0.04)


def test_texts_of_built_in_contexts_name_no_trait():
    for name in ("half shared", "quarter shared"):
        assert (
            sm.prompts.match(CONTEXTS[name].user_prefix, [*map(sm.animal, sm.prompts.ANIMALS)])
            is None
        )


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("paper")])
def test_presets_can_be_planned_and_their_contexts_differ(name, smol_tokenizer):
    study = PRESETS[name]()
    check_contexts(study, smol_tokenizer)
    planned = studies.plan(study)
    assert planned.seconds > 0
    assert planned.runs == len(studies.Tasks(study).runs)


def test_the_laptop_study_begins_with_the_headline_row_seed_by_row_seed():
    runs = studies.Tasks(studies.laptop()).runs
    first = [(run.cell.row_seed, run.cell.training_seed) for run in runs[:18]]
    assert first == [(0, 0)] * 6 + [(1, 0)] * 6 + [(2, 0)] * 6
    headline = {
        (run.cell.row_seed, run.cell.training_seed, run.cell.setting.name, run.cell.trait)
        for run in runs
        if run.cell.part.startswith("headline")
    }
    assert len(headline) == 3 * 3 * 2 * 3


def test_every_student_of_the_laptop_study_is_made_of_three_row_seeds():
    """One data set gives no interval: it can support and refute nothing."""
    seeds = defaultdict(set)
    for run in Tasks(studies.laptop()).runs:
        cell = run.cell
        asked = (cell.trained_in, cell.evaluated_in, cell.label, cell.where, cell.training_seed)
        seeds[cell.trait, cell.setting, *asked].add(cell.row_seed)
    assert len(seeds) > 100
    assert all(of_one == {0, 1, 2} for of_one in seeds.values())
