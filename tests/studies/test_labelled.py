"""Contrastive labels beside plain ones: of one c, by students that differ in nothing else."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from planted_rows import planted

from sublim_mech.studies.concluding import Evidence, students

PLAIN = {"labels": "plain", "c": None}


def rows_of(*cells: tuple[dict[str, Any], float, int]) -> pd.DataFrame:
    """Students of two traits of each cell: its columns, its trait, its row seeds."""
    return pd.concat(
        planted([(columns, value)], row_seeds=seeds, noise=0, traits=("owl", "cat"))
        for columns, value, seeds in cells
    )


def test_one_c_is_taken_and_named():
    rows = rows_of(({"c": 2.0}, 0.9, 2), ({"c": 4.0}, 0.5, 3), (PLAIN, 0.1, 3))
    chosen = Evidence(students(rows)).labelled()
    contrastive = chosen.rows[chosen.rows["labels"] == "contrastive"]
    assert set(contrastive["c"]) == {4.0}  # which has the most row seeds
    assert len(contrastive) == 6 == (chosen.rows["labels"] == "plain").sum()
    assert contrastive["specific"].mean() == pytest.approx(0.5)
    assert "c 4" in chosen.told
    assert "1 other setting" in chosen.told


def test_students_without_a_twin_are_left_out():
    rows = rows_of(({}, 0.5, 3), (PLAIN, 0.1, 1), ({"rank": 2.0}, 0.7, 3))
    chosen = Evidence(students(rows)).labelled().rows
    assert set(chosen["row_seed"]) == {0}
    assert sorted(chosen["labels"]) == ["contrastive"] * 2 + ["plain"] * 2
    assert not len(Evidence(students(rows_of(({}, 0.5, 3)))).labelled().rows)


def test_what_is_counted_is_what_the_choice_says():
    """The setting with the most students may have the fewest pairs."""
    more = {"rank": 2.0, "method": "r2"}
    rows = rows_of(({}, 0.5, 2), (PLAIN, 0.1, 2), (more, 0.7, 3), ({**PLAIN, **more}, 0.2, 1))
    chosen = Evidence(students(rows)).labelled()
    assert set(chosen.rows["row_seed"]) == {0, 1}
    assert "rank 2" not in chosen.setting
    assert (
        "1 other setting of it; the one with the most row seeds, then rows (of complete pairs "
        "alone, a student of either labels), then the lowest held-out KL is taken."
    ) in chosen.told
