"""The claims of `stats` read the rows that studies write."""

from __future__ import annotations

import pytest

from sublim_mech import stats


def chosen(made, *parts, **where):
    found = made.rows[made.rows["part"].isin(parts)]
    for column, value in where.items():
        found = found[found[column] == value]
    return found


def means(verdict):
    return [statement.mean for statement in verdict.statements]


def test_every_claim_is_told_of_real_rows(made):
    scored, loras = chosen(made, "scored"), chosen(made, "scored", method="r2")
    full = chosen(made, "scored", method="full")
    contexts = chosen(made, "scored", "bare", method="r2")
    bare = chosen(made, "bare")
    told = {
        "transmission": stats.transmission_claim(loras),
        "rank": stats.inverted_u_claim(scored),
        "full": stats.full_fine_tuning_claim(scored),
        "context": stats.context_claim(contexts),
        "where": stats.localisation_claim(loras),
    }
    # one row seed has no interval
    assert {verdict.label for verdict in told.values()} == {"cannot tell"}
    there, lost, left = means(told["context"])
    assert there == pytest.approx(loras["specific"].mean())
    assert lost == pytest.approx(loras["specific"].mean() - bare["specific"].mean())
    assert left == pytest.approx(bare["specific"].mean())
    share, effect = means(told["where"])
    excess = loras["ig shared share"] - loras["ig shared token share"]
    assert share == pytest.approx(excess.mean(), nan_ok=True)
    part = loras["graft shared token share"] * loras["graft total"]
    # a fall outside its noise is shared out as one
    falls = (loras["graft total"] < 0) & excess.notna()
    along = 1 - 2 * falls.astype(float)
    beyond = along * (loras["graft shared sufficiency"] - part)
    assert effect == pytest.approx(beyond.mean())
    assert len(full) == len(loras)
