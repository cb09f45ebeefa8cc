"""What cannot be compared is refused or not told; what is compared is of the same students."""

import math

import numpy as np
import pytest

from sublim_mech.stats import (
    Curve,
    equal_kl,
    full_fine_tuning_claim,
    inverted_u_claim,
    localisation_claim,
    trained_at_claim,
    transmission_claim,
)

HEIGHTS = {1: 0.0, 8: 0.5, 64: 0.1}


def own(seed, **columns):
    return {"trait": "owl", "row_seed": seed, "training_seed": 0, **columns}


def ranked(lr=1e-3, seeds=range(3), ranks=tuple(HEIGHTS), **columns):
    """LoRAs of one learning rate that peak in between."""
    return [
        own(seed, kind="lora", rank=rank, lr=lr, **columns)
        | {"specific": HEIGHTS[rank] + seed * rank / 1e3}
        for seed in seeds
        for rank in ranks
    ]


def measured(rows, kl):
    """The same, with the held-out KL of each row seed."""
    return [{**row, "kl": kl[row["row_seed"]]} for row in rows]


# ---------------------------------------------------------------------------------- learning rates


def test_rates_are_compared_on_the_students_that_all_have():
    """Seeds differ in KL: of its easiest seed alone a rate would look better than it is."""
    all_seeds = measured(ranked(), [0.001, 0.006, 0.007])
    one_seed = measured(ranked(2e-3, [0], [8]), [0.003])
    found = inverted_u_claim([*all_seeds, *one_seed])
    alone = inverted_u_claim(all_seeds)
    assert (found.label, found.p) == (alone.label, alone.p) == ("supported", alone.p)
    assert found.notes[0] == (
        "Rank 8: learning rate 0.001, of the lowest held-out KL over 1 student that 0.001, 0.002 "
        "have in common."
    )


def test_without_a_divergence_no_rate_is_taken():
    with pytest.raises(ValueError, match="rows have no column 'kl'"):
        inverted_u_claim([*ranked(), *ranked(2e-3)])
    assert inverted_u_claim(ranked()).label == "supported"
    nothing = dict.fromkeys(range(5))
    for other in (measured(ranked(2e-3, [3, 4]), [0.1] * 5), measured(ranked(2e-3), nothing)):
        first = measured(ranked(), nothing if other[0]["kl"] is None else [0.1] * 5)
        found = inverted_u_claim([*first, *other])
        assert found.label == "cannot tell"
        assert "rank 1: learning rates 0.001, 0.002 have no students with a held-out" in repr(found)
    some = inverted_u_claim([*measured(ranked(), [0.1] * 3), *measured(ranked(2e-3), nothing)])
    assert some.label == "supported"
    assert "learning rate 0.001, of the lowest held-out KL; of 0.002 there is none." in repr(some)


# -------------------------------------------------------------------------------------------- arms


def arms(shared, others):
    return [
        own(seed, where=where, kl=kl[seed], specific=height * (1 + seed / 10))
        for where, height, kl in (("shared", 0.5, shared), ("not shared", 0.1, others))
        for seed in range(4)
    ]


def test_imitation_that_nobody_measured_may_be_worse():
    alike = [0.01] * 4
    assert trained_at_claim(arms(alike, alike)).label == "supported"
    for rows in (arms(alike, [None] * 4), arms([math.nan] * 4, alike)):
        found = trained_at_claim(rows)
        assert found.label == "cannot tell"
        assert found.statements[0].holds
        assert "4 of 8 rows have no number (NaN) in 'kl', and are not compared." in found.notes
        assert "nan" not in repr(found)
    # of the seeds that are compared it is worse, whatever the others have
    for shared in ([0.01, 0.01, 0.01, None], [0.01, 0.01, 0.01, 9.0]):
        worse = trained_at_claim(arms(shared, [0.05, 0.05, 0.05, None]))
        assert worse.label == "cannot tell"
        assert "imitate worse" in repr(worse)
    three = arms(alike, [0.01, 0.01, 0.01, None])
    whole = [row for row in arms(alike, alike) if row["row_seed"] < 3]
    pair, without = trained_at_claim(three).statements[1], trained_at_claim(whole).statements[1]
    assert (pair.mean, pair.p, pair.data_sets) == (without.mean, without.p, 3)


# -------------------------------------------------------------------------------------------- where


def test_a_column_to_tell_by_is_one_of_the_rows():
    def placed(part, share):
        return [
            own(s, **{"share part": part, "graft total": 0.5, "ig shared share": share + s / 100})
            | {"ig shared token share": 0.25, "graft shared token share": 0.25}
            | {"graft shared sufficiency": 0.5 * share + s / 1000}
            for s in range(5)
        ]

    rows = [*placed("default", 0.9), *placed("quarter", 0.25)]
    assert len(localisation_claim(rows, by="share part").statements) == 4
    with pytest.raises(ValueError, match=r"no column 'share parts'; did you mean 'share part'"):
        localisation_claim(rows, by="share parts")
    for empty in (None, math.nan):
        with pytest.raises(ValueError, match="'share part' is empty in 1 of 10 rows"):
            localisation_claim([{**rows[0], "share part": empty}, *rows[1:]], by="share part")


# ------------------------------------------------------------------------------------ trait matrix


def squares(seeds, spread):
    return [
        {"trait": name, "row_seed": seed, "change owl": 0.0, "change cat": 0.0}
        | {f"change {name}": 0.05 + spread * seed}
        for seed in range(seeds)
        for name in ("owl", "cat")
    ]


def test_rows_that_are_left_out_of_the_trait_matrix_are_told():
    whole = squares(6, 0.05)
    some = [{**whole[0], "change owl": None}, *whole[1:]]
    note = "1 of 12 rows has no number (NaN) in 'change owl', and is left out."
    assert note in transmission_claim(some).notes
    assert transmission_claim(whole).notes[0].startswith("gamma")
    none = transmission_claim([{**row, "change owl": math.nan} for row in whole])
    assert none.label == "cannot tell"
    assert "12 of 12 rows have no number (NaN) in 'change owl'." in none.notes
    with pytest.raises(ValueError, match="no row seed has students of two traits"):
        transmission_claim(whole[::2])


@pytest.mark.parametrize("height", [0.0, 5.0])
def test_copies_of_a_row_seed_tell_nothing_of_the_trait_matrix(height):
    """Nor that it does not hold: they are one data set under several names."""
    rows = [{**row, f"change {row['trait']}": 0.05 + height} for row in squares(6, 0.0)]
    found = transmission_claim(rows)
    assert found.label == "cannot tell"
    assert math.isnan(found.p)
    assert "their values are identical" in repr(found.statements)
    assert "6 row seeds: their values are identical" in found.notes[0]
    assert transmission_claim(squares(6, 0.1)).label == "supported"


# ---------------------------------------------------------------------------------------- equal KL


def test_a_divergence_or_rank_that_is_not_there_is_named():
    rows = [
        own(seed, kind=kind, rank=8, kl=kl, specific=height + seed / 100)
        for kind, height in (("lora", 0.5), ("full", 0.1))
        for kl in (1e-3, 4e-3)
        for seed in range(3)
    ]
    beyond = full_fine_tuning_claim(rows, at=0.1)
    assert beyond.label == "cannot tell"
    assert "[held-out KL 0.1 is not reached by all, 0.001 to 0.004 is:" in repr(beyond)
    assert math.isfinite(full_fine_tuning_claim(rows, at=0.002).statements[0].mean)
    with pytest.raises(ValueError, match="rank=16: no LoRA of these rows has it; they have 8"):
        full_fine_tuning_claim(rows, rank=16)
    with pytest.raises(ValueError, match="rank=16: these rows have no LoRA; leave rank out"):
        full_fine_tuning_claim([row for row in rows if row["kind"] == "full"], rank=16)
    one = [Curve(np.array([1e-3, 4e-3]), np.array([0.5, 0.1]))]
    apart = [Curve(np.array([1e-2, 4e-2]), np.array([0.5, 0.1]))]
    told = repr(equal_kl(one, one, at=0.1))
    assert told.startswith("held-out KL 0.1 is not reached by all curves, 0.001 to 0.004 is (")
    assert repr(equal_kl(one, apart, at=0.1)).startswith(
        "no held-out KL is reached by all curves ("
    )
