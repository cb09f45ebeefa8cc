"""Verdicts over rows: what was planted is found, what was not is not, and few false ones."""

import inspect
from itertools import product

import numpy as np
import pandas as pd
import pytest

from sublim_mech import stats
from sublim_mech.stats import (
    Verdict,
    context_claim,
    full_fine_tuning_claim,
    inverted_u_claim,
    localisation_claim,
    trained_at_claim,
    transmission_claim,
    verdicts,
)

TRAITS = ("owl", "penguin", "eagle")


def students(rng, cells, *, row_seeds=3, noise=0.05):
    """Rows of students: per cell a dict of columns and the trait it has; with data sets' spread."""
    rows = []
    for row_seed, trait in product(range(row_seeds), TRAITS):
        for columns, value in cells:
            own = {"trait": trait, "row_seed": row_seed, "training_seed": 0, "step": 0}
            rows.append({**own, **columns, "specific": value + noise * rng.normal()})
    return rows


def ranks(heights, **more):
    return [
        ({"kind": "lora", "rank": rank, "rule": "alpha = 32", **more}, height)
        for rank, height in heights.items()
    ]


def kinds(lora, full):
    levels = ((1e-3, 0.2), (4e-3, 0.0))
    return [
        ({"kind": kind, "rank": rank, "kl": kl, "lr": kl}, height + more)
        for kind, rank, height in (("lora", 8, lora), ("full", None, full))
        for kl, more in levels
    ]


def contexts(same, other):
    return [
        ({"trained_in": "default", "evaluated_in": where}, height)
        for where, height in (("default", same), ("empty", other), ("none", other))
    ]


def placed(rng, share, sufficiency, *, row_seeds=3, tokens=0.6):
    rows = students(rng, [({}, 0.5)], row_seeds=row_seeds)
    for row in rows:
        row |= {
            "ig shared share": share + 0.02 * rng.normal(),
            "ig shared token share": tokens,
            "graft shared sufficiency": sufficiency + 0.02 * rng.normal(),
            "graft shared token share": tokens,
            "graft total": 0.5,
        }
    return rows


def squares(rng, gamma, *, row_seeds=3, noise=0.05):
    rows = []
    for row_seed, trait in product(range(row_seeds), TRAITS):
        row = {"trait": trait, "row_seed": row_seed}
        for name in TRAITS:
            row[f"change {name}"] = gamma * (name == trait) + noise * rng.normal()
        rows.append(row)
    return rows


def labels(make, *values, seeds=6):
    """Of several studies alike."""
    return {make(np.random.default_rng(seed), *values).label for seed in range(seeds)}


def test_what_falls_everywhere_is_acquired_nowhere():
    """The diagonal stands out where the own trait falls least; so do LoRA and a middle rank."""

    def fallen(rng, row_seeds=5):
        return [
            {**row, **{f"change {t}": row[f"change {t}"] - 2.0 for t in TRAITS}}
            for row in squares(rng, 0.5, row_seeds=row_seeds)
        ]

    assert labels(lambda rng: transmission_claim(fallen(rng))) == {"not supported"}
    one = [
        {"trait": trait, "row_seed": 0}
        | {f"change {other}": -1.0 if other == trait else -2.0 for other in "abcde"}
        for trait in "abcde"
    ]
    found = transmission_claim(one)
    assert found.label != "supported"
    assert "The own trait's change is -1.000 in the one row seed: not above 0 there." in found.notes
    for claim, cells in (
        (inverted_u_claim, ranks({1: -0.6, 8: -0.2, 64: -0.6})),
        (full_fine_tuning_claim, kinds(-0.4, -0.8)),
    ):
        told = labels(lambda rng, claim=claim, cells=cells: claim(students(rng, cells, noise=0.02)))
        assert told == {"cannot tell"}


def test_transmission():
    def told(rng, gamma, row_seeds=3):
        return transmission_claim(squares(rng, gamma, row_seeds=row_seeds))

    assert labels(told, 0.5) == {"supported"}
    assert labels(lambda rng: transmission_claim(squares(rng, -0.5))) == {"not supported"}
    few = told(np.random.default_rng(0), 9.0, 1)
    assert few.label == "cannot tell"
    assert any("cannot give a p below 0.17" in note for note in few.notes)


def test_the_inverted_u():
    def told(rng, heights):
        return inverted_u_claim(students(rng, ranks(heights)))

    assert labels(told, {1: 0.0, 8: 0.8, 64: 0.1}) == {"supported"}
    assert labels(told, {1: 0.0, 4: 0.7, 8: 0.8, 64: 0.1}) == {"supported"}
    assert labels(told, {1: 0.0, 8: 0.5, 64: 1.0}) == {"not supported"}  # it only rises
    assert labels(told, {1: 1.0, 8: 0.5, 64: 0.0}) == {"not supported"}  # it only falls
    two = told(np.random.default_rng(0), {1: 0.0, 8: 0.8})
    assert two.label == "cannot tell"
    assert "three are needed" in repr(two)


def test_the_best_of_several_ranks_is_told_as_such():
    rows = students(np.random.default_rng(0), ranks({1: 0.0, 4: 0.05, 8: 0.8, 64: 0.1}))
    alone = [row for row in rows if row["rank"] != 4]
    assert inverted_u_claim(rows).p == pytest.approx(2 * inverted_u_claim(alone).p)


@pytest.mark.parametrize(
    ("row_seeds", "noise"), [(1, 0.05), (3, 0.0)], ids=["one row seed", "no spread"]
)
def test_without_a_p_the_best_rank_is_that_of_the_largest_mean(row_seeds, noise):
    cells = ranks({1: 0.0, 4: 0.2, 8: 0.5, 16: 0.8, 64: 0.1})
    rows = students(np.random.default_rng(0), cells, row_seeds=row_seeds, noise=noise)
    found = inverted_u_claim(rows)
    assert found.label == "cannot tell"
    assert [one.text for one in found.statements] == [
        "rank 16 has the trait: above 0", "rank 16 is above the lowest, 1",
        "rank 16 is above the highest, 64",
    ]  # fmt: skip
    assert "Rank 16: the best of 3 ranks in between, of the largest mean." in found.notes
    assert not any(note.startswith("p of") for note in found.notes)
    alone = inverted_u_claim([row for row in rows if row["rank"] not in (4, 8)])
    assert not any("the best of" in note for note in alone.notes)


def test_the_largest_mean_is_over_students_that_all_ranks_have():
    """Rank 4 is above rank 8 only by a row seed that rank 8 has not."""
    cells = ranks({1: 0.0, 4: 0.2, 8: 0.5, 64: 0.1})
    rows = students(np.random.default_rng(0), cells, row_seeds=1, noise=0.0)
    further = [{**row, "row_seed": 1, "specific": 9.0} for row in rows if row["rank"] == 4]
    found = inverted_u_claim(rows + further)
    assert found.statements[0].text == "rank 8 has the trait: above 0"


def test_of_ranks_that_are_above_nothing_the_highest_is_told():
    rows = students(np.random.default_rng(0), ranks({1: 1.0, 4: 0.2, 8: 0.5, 64: 1.0}))
    found = inverted_u_claim(rows)
    assert found.statements[0].text.startswith("rank 8 ")
    assert any("p of the best of 2 ranks in between, times 2;" in note for note in found.notes)


def test_learning_rates_are_chosen_on_held_out_kl():
    """The wrong rates would show an inverted U; those of the lowest KL show none."""
    cells = []
    for rank, height in {1: 0.0, 8: 0.8, 64: 0.0}.items():
        cells += ranks({rank: height}, lr=1e-2, kl=5e-3)
        cells += ranks({rank: 0.0}, lr=1e-3, kl=1e-3)
    found = inverted_u_claim(students(np.random.default_rng(0), cells))
    assert found.label != "supported"
    assert sum("learning rate 0.001, of the lowest held-out KL" in x for x in found.notes) == 3


def test_full_fine_tuning_at_equal_kl():
    def told(rng, lora, full):
        return full_fine_tuning_claim(students(rng, kinds(lora, full)))

    assert labels(told, 0.8, 0.1) == {"supported"}
    assert labels(told, 0.1, 0.8) == {"not supported"}
    apart = [
        ({**cell, "kl": cell["kl"] * (1 + 9 * (cell["kind"] == "full"))}, height)
        for cell, height in kinds(0.8, 0.1)
    ]
    none = full_fine_tuning_claim(students(np.random.default_rng(0), apart))
    assert none.label == "cannot tell"
    assert "no held-out KL is reached by both kinds" in repr(none)


def test_what_lora_has_is_told_of_the_kls_that_are_compared():
    """Below them its trait is another."""
    cells = [({"kind": "lora", "rank": 8, "kl": kl, "lr": kl}, height)
             for kl, height in ((1e-4, 9.0), (1e-3, 0.5), (4e-3, 0.5))]  # fmt: skip
    cells += [({"kind": "full", "kl": kl, "lr": kl}, 0.1) for kl in (1e-3, 4e-3)]
    found = full_fine_tuning_claim(students(np.random.default_rng(0), cells, noise=1e-3))
    there, less = found.statements
    assert (there.text, round(there.mean, 2)) == ("LoRA has the trait there: above 0", 0.5)
    assert round(less.mean, 2) == 0.4


def test_ranks_are_told_with_how_well_they_imitate():
    cells = [one for rank, height in {1: 0.0, 8: 0.8, 64: 0.1}.items()
             for one in ranks({rank: height}, kl=rank / 1000)]  # fmt: skip
    found = inverted_u_claim(students(np.random.default_rng(0), cells))
    assert any("KL by rank: 1: 0.001, 8: 0.008, 64: 0.064;" in note for note in found.notes)


def test_the_context():
    def told(rng, same, other):
        return context_claim(students(rng, contexts(same, other), noise=0.02))

    assert labels(told, 0.8, 0.0) == {"supported"}
    assert labels(told, 0.8, 0.5) == {"not supported"}  # something is left
    assert labels(told, 0.8, 0.8) == {"not supported"}  # nothing is lost
    assert labels(told, 0.8, 0.1) == {"cannot tell"}  # left is about what matters
    # nothing was there to lose: a fall that deepens is no trait that is lost
    for same, other in ((0.0, 0.0), (-0.5, -0.9), (-0.5, 0.0)):
        assert labels(told, same, other) == {"cannot tell"}
    alone = context_claim(students(np.random.default_rng(0), contexts(0.8, 0.0)[:1]))
    assert alone.label == "cannot tell"


def test_localisation():
    def told(rng, share, sufficiency):
        return localisation_claim(placed(rng, share, sufficiency))

    assert labels(told, 0.9, 0.48) == {"supported"}
    assert labels(told, 0.6, 0.3) <= {"not supported", "cannot tell"}  # it follows the token share
    assert labels(told, 0.9, 0.1) == {"not supported"}  # exact grafts disagree


def test_a_share_that_follows_the_token_share_is_no_localisation():
    rng = np.random.default_rng(0)
    rows = []
    for part, share in ((0.75, 0.9), (0.5, 0.5), (0.25, 0.25)):
        for row in placed(rng, share, 0.49, tokens=part):
            rows.append({**row, "shared part": part})
    assert localisation_claim(rows, by="shared part").label != "supported"


def arms(shared, others, kl=(0.01, 0.01)):
    return [
        ({"where": where, "kl": level}, height)
        for where, height, level in zip(("shared", "not shared"), (shared, others), kl, strict=True)
    ]


def test_the_arms_of_training():
    def told(rng, *values):
        return trained_at_claim(students(rng, arms(*values), noise=0.02))

    assert labels(told, 0.5, 0.1) == {"supported"}
    assert labels(told, 0.1, 0.5) == {"not supported"}
    assert labels(told, 0.0, 0.0) == {"not supported"}
    # a null at worse imitation is no null
    assert labels(told, 0.5, 0.1, (0.01, 0.02)) == {"cannot tell"}
    assert labels(told, 0.1, 0.5, (0.01, 0.02)) == {"not supported"}
    assert labels(told, 0.5, 0.1, (0.02, 0.01)) == {"supported"}


def test_runs_without_a_share_are_told():
    rows = placed(np.random.default_rng(0), 0.9, 0.48)
    rows[0]["ig shared share"] = float("nan")
    found = localisation_claim(rows)
    assert (
        "1 of 9 rows has no share (the total effect is inside its own noise) and is left out of "
        "the shares; sufficiency is that of all rows."
    ) in found.notes
    share, sufficiency = found.statements
    of_all = localisation_claim(placed(np.random.default_rng(0), 0.9, 0.48)).statements
    assert sufficiency == of_all[1]
    assert share.mean != of_all[0].mean
    assert found.label == "supported"


def test_a_table_gives_the_verdict_of_its_rows():
    rows = students(np.random.default_rng(0), ranks({1: 0.0, 8: 0.8, 64: 0.1}))
    assert repr(inverted_u_claim(pd.DataFrame(rows))) == repr(inverted_u_claim(rows))
    rng = np.random.default_rng(1)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    assert inverted_u_claim(shuffled).p == pytest.approx(inverted_u_claim(rows).p)


def test_snapshots_are_not_the_end_of_training():
    rows = students(np.random.default_rng(0), contexts(0.8, 0.0), noise=0.02)
    snapshots = [{**row, "step": 10, "specific": 9.0} for row in rows]
    assert repr(context_claim(rows + snapshots)) == repr(context_claim(rows))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"rule": "rslora"}, r"several 'rule' \(alpha = 32, rslora\)"),
        ({"labels": "plain"}, r"several 'labels' \(contrastive, plain\).*choose one"),
    ],
)
def test_students_that_differ_in_something_else_are_not_averaged(columns, says):
    rows = students(np.random.default_rng(0), ranks({1: 0, 8: 1, 64: 0}, labels="contrastive"))
    with pytest.raises(ValueError, match=says):
        inverted_u_claim([*rows, {**rows[0], **columns}])


def test_a_missing_column_is_named():
    rows = students(np.random.default_rng(0), ranks({1: 0, 8: 1, 64: 0}))
    with pytest.raises(ValueError, match="no column 'specifik'; did you mean 'specific'"):
        inverted_u_claim(rows, value="specifik")
    with pytest.raises(ValueError, match="rows: there are none"):
        context_claim([])


@pytest.mark.parametrize("rows", [7, "rows.csv", [1, 2], {"trait": "owl"}, None])
def test_what_are_no_rows_is_refused(rows):
    with pytest.raises(TypeError, match=r"rows=.*pass a list of dicts, one per student"):
        transmission_claim(rows)


def test_a_verdict_says_its_numbers_and_what_could_have_been_seen():
    rows = students(np.random.default_rng(0), kinds(0.3, 0.25), noise=0.3)
    found = full_fine_tuning_claim(rows)
    assert found.label == "cannot tell"
    _, statement = found.statements
    said = repr(found)
    assert f"{statement.mean:+.3f} nats, 95 % {statement.low:+.3f}" in said
    assert f"{statement.detectable:.2g} would be seen" in said
    assert "over 3 data sets" in said


def test_an_arm_that_nobody_has_is_named():
    told = trained_at_claim(
        [
            row
            for row in students(np.random.default_rng(0), arms(0.8, 0.1))
            if row["where"] != "shared"
        ]
    )
    assert told.label == "cannot tell"
    assert "[no student was trained at shared with a number]" in repr(told)


def test_claims_told_together_need_more():
    found = [Verdict(str(p), "supported", (), p, p) for p in (0.04, 0.5, float("nan"))]
    told = verdicts(found)
    assert told[0].q == pytest.approx(0.08)
    assert told[0].label == "cannot tell"
    assert np.isnan(told[2].q)


def false_verdicts(studies, row_seeds, *, seed=0):
    """How often each claim is supported where nothing is true; and any of them, told together."""
    rng, counts, any_of_them = np.random.default_rng(seed), np.zeros(5), 0
    for _ in range(studies):
        given = {"row_seeds": row_seeds, "noise": 0.2}
        told = verdicts(
            [
                transmission_claim(squares(rng, 0.0, row_seeds=row_seeds)),
                inverted_u_claim(students(rng, ranks({1: 0.2, 4: 0.2, 8: 0.2, 64: 0.2}), **given)),
                full_fine_tuning_claim(students(rng, kinds(0.2, 0.2), **given)),
                context_claim(students(rng, contexts(0.0, 0.0), **given)),
                localisation_claim(placed(rng, 0.6, 0.3, row_seeds=row_seeds)),
            ]
        )
        alone = [verdict.p < 0.05 for verdict in told]
        counts += alone
        any_of_them += any(verdict.label == "supported" for verdict in told)
    return counts / studies, any_of_them / studies


def test_few_claims_are_supported_where_nothing_is_true():
    each, together = false_verdicts(60, 3)
    assert each.max() <= 0.15
    assert together <= 0.15


@pytest.mark.science
@pytest.mark.parametrize("row_seeds", [2, 3, 6])
def test_at_most_5_percent_of_null_studies_support_a_claim(row_seeds):
    """Of 1,500 studies 5 % with a standard error of 0.6 %."""
    each, together = false_verdicts(1500, row_seeds)
    shares = ", ".join(f"{share:.1%}" for share in each)
    print(f"{row_seeds} row seeds: each {shares}; any of five told together {together:.1%}")
    assert each.max() <= 0.05 + 0.018
    assert together <= 0.05 + 0.018


CLAIMS = {
    "inverted u": (inverted_u_claim, ranks({1: 0.1, 4: 0.5, 8: 0.1})),
    "full": (full_fine_tuning_claim, kinds(0.3, 0.1)),
    "context": (context_claim, contexts(0.3, 0.0)),
}


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matters": -1}, "matters=-1: the smallest difference that matters is a number from 0 on"),
        ({"matters": float("nan")}, "matters=nan"),
        ({"matters": float("inf")}, "matters=inf"),
        ({"cluster": ("rowseed",)}, "cluster=.*'rowseed' is none of trait, .*'row_seed'"),
        ({"cluster": ()}, "cluster=.*name the columns"),
    ],
)
def test_options_that_no_claim_can_have(name, options, message):
    claim, cells = CLAIMS[name]
    with pytest.raises(ValueError, match=message):
        claim(students(np.random.default_rng(0), cells), **options)
    with pytest.raises(ValueError, match=message):
        localisation_claim(placed(np.random.default_rng(0), 0.9, 0.9), **options)


def test_every_claim_refuses_a_smallest_difference_that_is_none():
    """Whatever its rows: the options are read first."""
    found = [
        claim
        for name, claim in vars(stats).items()
        if name.endswith("_claim") and "matters" in inspect.signature(claim).parameters
    ]
    assert len(found) >= 5
    for claim in found:
        with pytest.raises(ValueError, match="matters=-1"):
            claim([], matters=-1)
        with pytest.raises(ValueError, match="'rowseed' is none of"):
            claim([], cluster=("rowseed",))


def test_the_claim_of_arms_counts_rows_without_a_number():
    arms = [
        {"where": where, "kl": 0.01, "trait": "owl", "row_seed": s, "training_seed": 0}
        | {"specific": height + s / 10}
        for where, height in (("shared", 0.5), ("not shared", 0.1))
        for s in range(3)
    ]
    told = "rows has no number (NaN) in"
    assert "no number" not in repr(stats.trained_at_claim(arms))
    arms[0]["specific"] = arms[1]["kl"] = float("nan")
    found = repr(stats.trained_at_claim(arms))
    assert f"1 of 6 {told} 'specific'" in found
    assert f"1 of 6 {told} 'kl'" in found


@pytest.mark.parametrize("name", CLAIMS)
def test_rows_without_a_number_are_counted(name):
    claim, cells = CLAIMS[name]
    rows = students(np.random.default_rng(0), cells)
    for row in rows:
        row["specific"] = float("nan")
    told = claim(rows)
    assert told.label == "cannot tell"
    assert f"{len(rows)} of {len(rows)} rows have no number (NaN) in 'specific'." in repr(told)
    assert "[no rows]" not in repr(told)
    some = students(np.random.default_rng(0), cells)
    some[0]["specific"] = None
    assert f"1 of {len(rows)} rows has no number (NaN) in 'specific', and" in repr(claim(some))


def test_a_missing_column_is_told_with_where_they_are_listed():
    with pytest.raises(ValueError, match=r"no column 'kl'.* Rows of studies\.run .*statistics\.md"):
        full_fine_tuning_claim([{"kind": "lora"}])


def test_a_verdict_counts_once():
    found = context_claim(students(np.random.default_rng(0), contexts(0.3, 0.0)))
    again = context_claim(students(np.random.default_rng(0), contexts(0.3, 0.0)))
    for twice in ([found, found], [found, again]):
        with pytest.raises(ValueError, match=r"claims\[1\] is claims\[0\] once more"):
            verdicts(twice)
    nothing = [Verdict("a", "cannot tell", (), float("nan"), float("nan")) for _ in range(2)]
    assert len(verdicts(nothing)) == 2


def test_values_without_spread_have_no_interval_to_speak_of():
    rows = students(np.random.default_rng(0), contexts(1.0, 0.0), noise=0.0)
    said = repr(context_claim(rows))
    assert "+1.000 nats over 3 data sets; their values are identical" in said
    assert "95 %" not in said


def test_what_rounds_to_zero_has_no_sign_in_any_sentence_of_a_verdict():
    """Notes, statements and intervals write 0.000 where tables do."""
    rows = [
        {"where": where, "kl": 0.01, "trait": "owl", "row_seed": seed, "training_seed": 0,
         "specific": -1e-5 * (1 + seed)}
        for where in ("shared", "not shared") for seed in range(3)
    ]  # fmt: skip
    verdict = trained_at_claim(rows)
    told = repr(verdict) + " ".join(verdict.notes)
    assert "Trained at shared: 0.000 at a held-out KL of 0.01." in verdict.notes
    assert "-0.000" not in told
    assert "-0.000" not in repr(stats.nested_interval(np.array([-1e-5, -2e-5]), [0, 1]))


def test_arms_that_were_to_stop_at_a_loss_and_did_not_are_told():
    rows = [
        {"where": where, "kl": kl, "stop_at": 0.01, "trait": "owl", "row_seed": seed,
         "training_seed": 0, "specific": 0.1 * seed, "kind": "lora"}
        for where, kl in (("shared", 0.01), ("not shared", 0.0101)) for seed in range(3)
    ]  # fmt: skip
    told = "3 of 6 LoRA students did not reach the held-out loss that they were to stop at."
    assert told in trained_at_claim(rows).notes
    reached = [{**row, "kl": 0.0099} for row in rows]
    assert not any("did not reach" in note for note in trained_at_claim(reached).notes)
