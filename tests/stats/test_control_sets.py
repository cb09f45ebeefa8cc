"""`student - control` of several sets of controls is refused where it would be averaged."""

from __future__ import annotations

import pandas as pd
import pytest

from sublim_mech import stats
from sublim_mech.stats.control_sets import sets_of


def rows_of(*sets: tuple[str, ...], contexts: tuple[str, ...] = ("a", "b")) -> list[dict]:
    """Raw rows, as studies write them: students of each set of traits, in each context."""
    return [
        {"trained_in": "a", "evaluated_in": context, "trait": trait, "row_seed": seed,
         "training_seed": 0, "student": f"{seed}{trait}", "specific": 0.5 + seed / 50 - len(traits),
         "controls": " ".join(f"{seed}{other}" for other in traits if other != trait),
         "where": "shared", "kl": 0.01 + seed / 1000, "kind": "lora", "rank": 8, "lr": 1e-3}
        for traits in sets for seed in range(3) for trait in traits for context in contexts
    ]  # fmt: skip


def test_rows_of_several_sets_are_refused_by_every_claim_that_takes_controls_off():
    rows = rows_of(("owl", "cat"), ("owl", "cat", "eagle"))
    says = r"several sets of controls \(cat \+ owl; cat \+ eagle \+ owl\).*row\['part'\]"
    for claim in (stats.context_claim, stats.trained_at_claim, stats.inverted_u_claim,
                  stats.full_fine_tuning_claim):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            claim(rows)
        with pytest.raises(ValueError, match=says):
            claim(pd.DataFrame(rows))
    # a column without controls taken off is comparable
    changes = [{**row, "change": row["specific"]} for row in rows]
    assert stats.context_claim(changes, value="change").label == "cannot tell"


def test_rows_of_one_set_are_taken_whatever_is_missing():
    """Of an unfinished study some controls have no row of their own."""
    rows = rows_of(("owl", "cat", "eagle"))
    whole = stats.context_claim(rows)
    assert stats.context_claim(pd.DataFrame(rows)).statements == whole.statements
    lacking = [row for row in rows if row["student"] not in ("0cat", "1eagle", "2eagle")]
    assert set(sets_of(lacking)) == {""}
    assert len(stats.context_claim(lacking).statements) == len(whole.statements)
    owls = [row for row in rows if row["trait"] == "owl"]
    assert set(sets_of(owls)) == {""}
    bare = [{k: v for k, v in row.items() if k not in ("controls", "student")} for row in rows]
    assert stats.context_claim(bare).statements == whole.statements
