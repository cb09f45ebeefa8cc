"""Rows of one's own that would be left out or misread are refused, and copies tell nothing."""

import math

import pytest

from sublim_mech.stats import (
    context_claim,
    full_fine_tuning_claim,
    inverted_u_claim,
    localisation_claim,
    verdicts,
)

HEIGHTS = {2: 0.1, 8: 0.5, 32: 0.2}


def own(seed):
    return {"trait": "owl", "row_seed": seed, "training_seed": 0}


def ranked(**changed):
    return [
        {**own(seed), "kind": "lora", "rank": rank, "specific": height + seed * rank / 1e3}
        | changed
        for seed in range(3)
        for rank, height in HEIGHTS.items()
    ]


def two_kinds(**changed):
    return [
        {**own(seed), "kind": kind, "kl": kl, "specific": height + seed / 100} | changed
        for seed in range(3)
        for kind, height in (("lora", 0.5), ("full", 0.1))
        for kl in (0.01, 0.1)
    ]


def placed(sign=1.0, **changed):
    """Students of whose effect 90 % lie on 60 % of the tokens."""
    return [
        {
            **own(seed), "ig shared share": 0.9 + seed / 100, "ig shared token share": 0.6,
            "graft shared sufficiency": sign * (0.45 + seed / 100), "graft total": sign * 0.5,
            "graft shared token share": 0.6,
        } | changed
        for seed in range(3)
    ]  # fmt: skip


def test_a_kind_that_no_claim_knows_is_named():
    with pytest.raises(ValueError, match=r"kind='LoRA' is none of lora, full; did you mean 'lora'"):
        inverted_u_claim(ranked(kind="LoRA"))
    with pytest.raises(ValueError, match="kind='dora' is none of"):
        full_fine_tuning_claim(two_kinds(kind="dora"))


def test_texts_are_no_numbers_and_ranks_are_whole():
    with pytest.raises(TypeError, match=r"'specific' is the text '0.3'; pass numbers"):
        inverted_u_claim(ranked(specific="0.3"))
    with pytest.raises(TypeError, match=r"'rank' is the text '8'"):
        inverted_u_claim(ranked(rank="8"))
    for rank in (math.nan, None, 0, 2.5):
        with pytest.raises(ValueError, match="of a LoRA; ranks are 1, 2"):
            inverted_u_claim(ranked(rank=rank))
    assert inverted_u_claim(ranked()).label == "supported"


def test_a_divergence_is_above_zero():
    for kl in (-0.01, 0.0):
        with pytest.raises(ValueError, match="a held-out KL is above 0"):
            full_fine_tuning_claim(two_kinds(kl=kl))


def test_percent_are_no_parts_of_one():
    with pytest.raises(ValueError, match=r"is 60; it is a part of 1, such as 0.7 for 70 %"):
        localisation_claim(placed(**{"graft shared token share": 60}))


def test_a_fall_sits_where_a_rise_of_the_same_shares_does():
    rise, fall = localisation_claim(placed()), localisation_claim(placed(-1.0))
    assert fall.label == rise.label == "supported"
    assert [one.mean for one in fall.statements] == pytest.approx(
        [one.mean for one in rise.statements]
    )
    assert any("3 of 3 rows have shares of a negative total effect" in note for note in fall.notes)
    assert not any("negative" in note for note in rise.notes)


def test_an_effect_inside_its_noise_has_no_direction():
    """Else its sign, which is chance, would be counted as an excess."""
    noise = placed(**{"ig shared share": math.nan, "graft total": -0.01})
    at_chance = {"graft shared sufficiency": -0.1}
    found = localisation_claim([{**row, **at_chance, "graft total": -0.01} for row in noise])
    assert found.statements[1].mean == pytest.approx(-0.1 + 0.6 * 0.01)


def test_one_number_in_all_data_sets_is_no_test():
    """As a data set that is copied under other seeds has it."""
    rows = [
        {**own(seed), "trained_in": "default", "evaluated_in": where, "specific": height}
        for seed in range(3)
        for where, height in (("default", 0.6), ("empty", 0.0))
    ]
    (found,) = verdicts([context_claim(rows)])
    assert found.label == "cannot tell"
    assert math.isnan(found.p)
    assert "+0.600 nats over 3 data sets; their values are identical" in repr(found)
    # but for rounding, too
    shaken = [{**row, "specific": row["specific"] + row["row_seed"] * 0.1} for row in rows]
    there, lost, _ = context_claim(shaken).statements
    assert there.holds
    assert not lost.holds
