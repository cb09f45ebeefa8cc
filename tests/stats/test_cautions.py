"""What rows show beside what is compared: nothing learnt, answers alike, effects that are noise."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from sublim_mech.stats import inverted_u_claim, localisation_claim, transmission_claim
from sublim_mech.stats.cautions import (
    answer_alike,
    is_graft_noise,
    learning_notes,
    worse_than_base,
)


def students(*, alike=True, raised=0.5, seeds=2, **more):
    """Students of two traits; alike, both raise both traits by the same."""
    return [
        {"trait": trait, "row_seed": seed, "training_seed": 0, "c": math.nan, "rank": math.nan,
         "change owl": raised + seed + (not alike) * (trait == "owl"), "change cat": raised - seed,
         "change by question": [raised], "kl_before": 0.4, "kl": 0.1} | more
        for seed in range(seeds) for trait in ("owl", "cat")
    ]  # fmt: skip


def test_students_answer_alike_where_each_row_seed_has_one_set_of_changes():
    assert answer_alike(students())
    assert not answer_alike(students(alike=False))
    assert not answer_alike(students(raised=0.0, seeds=1))  # they changed nothing
    assert not answer_alike([row for row in students() if row["trait"] == "owl"])
    assert not answer_alike([])
    # rows of a table have NaN where nothing is, each another object
    assert answer_alike(pd.DataFrame(students()).to_dict("records"))
    rows = students(seeds=1) + students(seeds=1, alike=False, rank=8)
    assert learning_notes(rows) == ["Of 2 of 4 rows: all students of this method answer alike."]


def test_a_kl_above_the_bases_is_told_and_one_that_is_not_known_is_not():
    worse = students(alike=False, kl=0.6)
    assert len(worse_than_base([*worse, *students()])) == len(worse)
    assert learning_notes(students(alike=False)) == []
    assert learning_notes(students(alike=False, kl=None, kl_before=None)) == []
    (note,) = learning_notes(worse)
    assert note == (
        "Of 4 of 4 rows the held-out KL is above the base's: the base imitates their teacher "
        "better."
    )


def scored(values, total=None, **more):
    """A row whose graft scored all of its questions."""
    return {
        "change by question": list(values), "control by question": [0.0] * len(values),
        "graft questions": len(values), "graft total": np.mean(values) if total is None else total,
    } | more  # fmt: skip


def test_a_graft_is_noise_where_the_interval_over_its_questions_holds_0():
    some = np.array([0.3, -0.2, 0.1, -0.25, 0.2, -0.1])
    assert is_graft_noise(scored(some))
    assert not is_graft_noise(scored(some + 1))
    assert not is_graft_noise(scored(some - 1))
    # of its controls' changes too, which may lie anywhere
    moved = scored(some + 5)
    assert is_graft_noise({**moved, "graft total": some.mean(), "control by question": [5.0] * 6})
    # the graft scored the first ones; the rest are no part of it
    assert is_graft_noise({**scored([*some, 9.0, 9.0]), "graft questions": 6,
                           "graft total": some.mean()})  # fmt: skip
    text = scored(some)
    for name in ("change by question", "control by question"):
        text[name] = json.dumps(text[name])
    assert is_graft_noise(text)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"graft total": 0.0, "graft questions": 4},
        scored([0.1]),
        scored([0.1, -0.1], total=0.7),  # weights on elsewhere: another effect
        scored([0.1, -0.1]) | {"change by question": math.nan},
    ],
)
def test_where_the_questions_are_not_known_no_graft_is_said_to_be_noise(row):
    assert not is_graft_noise(row)


def rows_of_grafts(*totals):
    noise = np.array([1, -1, 1, -1, 1, -1]) * 0.3
    return [
        {"trait": "owl", "row_seed": i, "training_seed": 0, "ig shared share": 0.9 + i / 100,
         "ig shared token share": 0.6, "graft shared sufficiency": 0.3,
         "graft shared token share": 0.6} | scored(noise + total)
        for i, total in enumerate(totals)
    ]  # fmt: skip


def test_a_claim_turns_no_sign_of_an_effect_inside_its_noise():
    """By a hair below 0 and by one above it are the same."""
    below, above = (localisation_claim(rows_of_grafts(1.0, 1.0, one)) for one in (-1e-9, 1e-9))
    assert below.statements[1].mean == pytest.approx(above.statements[1].mean)
    assert not any("negative" in note for note in below.notes)
    assert any("negative" in note for note in localisation_claim(rows_of_grafts(1, 1, -1)).notes)


def test_effects_of_both_signs_inside_their_noise_are_not_told_to_be_elsewhere():
    """All of each is on shared tokens, and their mean cancels."""
    rows = [
        {**row, "row_seed": seed, "trait": trait, "graft shared sufficiency": row["graft total"]}
        for seed in range(3)
        for trait, total in (("owl", 0.1), ("cat", -0.1 + seed / 100))
        for row in rows_of_grafts(total)
    ]
    found = localisation_claim(rows)
    assert [one.fails for one in found.statements] == [False, False]
    total = np.mean([row["graft total"] for row in rows])
    (note,) = [one for one in found.notes if "Were all of the effect" in one]
    assert f"their part would be {0.4 * total:+.3f} nats" in note


def test_each_trait_is_told_beside_the_mean_that_others_carry():
    rows = [
        {"trait": trait, "row_seed": seed, "training_seed": 0, "change owl": owl + seed / 100,
         "change cat": cat + seed / 50, "change eagle": eagle - seed / 100}
        for trait, owl, cat, eagle in
        (("owl", 0.9, 0.0, 0.1), ("cat", 0.1, 0.5, 0.1), ("eagle", 0.0, 0.0, -0.2))
        for seed in range(3)
    ]  # fmt: skip
    notes = transmission_claim(rows).notes
    own, beyond = (one for one in notes if one.startswith("By trait"))
    assert "change of the own trait: owl +0.910 [" in own
    assert "eagle -0.210 [-0.235, -0.185]" in own
    # owl: 0.91 less the mean of 0.11 and 0.01; eagle: -0.21 less 0.09
    assert "owl +0.850" in beyond
    assert "eagle -0.300" in beyond


def test_data_sets_that_have_a_share_of_other_traits_are_told():
    rows = [{**row, "trait": trait} for trait in ("owl", "cat") for row in rows_of_grafts(1, 1, 1)]
    assert not any("Traits that" in one for one in localisation_claim(rows).notes)
    rows[-1]["ig shared share"] = math.nan
    (note,) = [one for one in localisation_claim(rows).notes if "Traits that" in one]
    assert note.startswith("Traits that row_seed have, which are not the same")
    assert note.endswith(": 0: cat, owl; 1: cat, owl; 2: owl.")


def test_a_student_of_two_parts_is_one_run():
    rows = students(alike=False, seeds=3)
    once, twice = transmission_claim(rows), transmission_claim([*rows, *rows[:2]])
    assert repr(once) == repr(twice)


def test_verdicts_say_it():
    wild = students(kl=0.6, specific=0.0)
    told = " ".join(transmission_claim(wild).notes)
    assert "the base imitates their teacher better" in told
    assert "all students of this method answer alike" in told
    ranks = [
        {**row, "kind": "lora", "rank": rank, "rule": "one", "lr": 1e-3}
        for rank in (1, 2)
        for row in wild
    ]
    two = inverted_u_claim(ranks)
    assert "the base imitates" in " ".join(two.notes)
    # the reason stands in brackets; that nothing was measured would be no other one
    assert repr(two.statements[0]).endswith("[ranks 1, 2: three are needed]: cannot be told")


def test_a_small_effect_is_not_told_to_be_elsewhere():
    """Sufficiency of all of it would be above the set's part by less than matters."""

    def rows(total):
        return [
            {"trait": trait, "row_seed": seed, "training_seed": 0, "graft total": total,
             "ig shared share": 0.9 + seed / 100, "ig shared token share": 0.6,
             "graft shared sufficiency": total * (0.6 - 0.01 * seed),
             "graft shared token share": 0.6}
            for trait in ("owl", "cat") for seed in range(4)
        ]  # fmt: skip

    small, large = localisation_claim(rows(0.1)), localisation_claim(rows(1.0))
    assert (small.label, large.label) == ("cannot tell", "not supported")
    (note,) = [one for one in small.notes if "Were all of the effect" in one]
    assert "sufficiency minus their part would be +0.040 nats in the mean, less than" in note
    assert not any("Were all of the effect" in one for one in large.notes)
