"""Points, bars and lines of a report are of students of one training each, and say of which."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from planted_rows import planted

from sublim_mech.results.study_figures import capacity_figure, rank_figure
from sublim_mech.results.study_limits import stages
from sublim_mech.studies.concluding import Evidence, choose, of_one_training, students
from sublim_mech.studies.reporting import _methods, drawn

RATES = {5e-4: (0.1, 2e-3), 1e-3: (0.5, 1e-3), 2e-3: (-0.6, 3e-3)}
"""Learning rate -> what its students have, and their held-out KL."""


@pytest.fixture(scope="module")
def rows():
    """Ranks, one of them at three learning rates; and full fine-tuning that stops, or does not."""
    cells = [({"rank": float(rank)}, 0.2) for rank in (1, 64)]
    cells += [({"rank": 8.0, "lr": lr, "kl": kl}, height) for lr, (height, kl) in RATES.items()]
    made = planted(cells, noise=0.0, row_seeds=3)
    full = {"kind": "full", "lr": 2e-5}
    stopped = planted([({**full, "kl": 1e-3}, 0.4)], noise=0.0, row_seeds=3)
    went_on = planted([({**full, "kl": 2e-4}, 0.0)], noise=0.0, row_seeds=2)
    went_on["method"] = "full, not stopped"
    return students(pd.concat([made, stopped, went_on], ignore_index=True))


def heights(figure, name):
    """What a line of a figure shows, by where."""
    (line,) = [one for one in figure.axes[0].lines if one.get_label() == name]
    return dict(zip(line.get_xdata(), np.round(line.get_ydata(), 6), strict=True))


def test_a_rank_is_drawn_at_the_learning_rate_of_its_verdict(rows):
    ((_, chosen, fulls),) = Evidence(rows).ranks()
    loras, full, told = of_one_training(chosen.rows, fulls)
    figure = rank_figure(loras, full, "alpha = 32")
    assert heights(figure, "student - control") == {1: 0.2, 8: 0.5, 64: 0.2}
    assert set(full["specific"].round(6)) == {0.4}
    (picture,) = [one for one in drawn(Evidence(rows)) if one[0] == "ranks-1"]
    assert "Rank 8: learning rate 0.001, of the lowest held-out KL." in picture[3]
    assert "Full fine-tuning: kind full, lr 2e-05, method full." in picture[3]
    assert all(one in picture[3] for one in told)


def test_a_point_of_a_capacity_is_of_students_of_one_method(rows):
    there = heights(capacity_figure(rows), "full")
    assert {round(kl, 7): height for kl, height in there.items()} == {2e-4: 0.0, 1e-3: 0.4}
    assert {"full, lr 2e-05 (full)", "full, lr 2e-05 (full, not stopped)"} < set(stages(rows))
    assert "rank 8, alpha = 32, lr 0.001" in stages(rows)


def test_a_line_of_the_table_is_of_one_method_and_contrast(rows):
    """Means of students that differ in more than their seeds are of nobody."""
    weak, strong = (rows[rows["rank"] == 1].assign(c=c, specific=c / 10) for c in (2.0, 8.0))
    page = "".join(_methods(pd.concat([rows, weak, strong], ignore_index=True)))
    lines = page.partition("</table>")[0].split("<tr>")
    cells = [re.sub("<[^>]+>", "|", line) for line in lines]
    for c in (2, 8):
        (line,) = [one for one in cells if f"contrastive, c = {c}, everywhere" in one]
        assert f"+0.{c}00" in line
    (went_on,) = [one for one in cells if "full, lr 2e-05 (full, not stopped)" in one]
    (stopped,) = [one for one in cells if "full, lr 2e-05 (full)" in one]
    assert "+0.400" in stopped
    assert "|0.000 (no interval" in went_on


def test_a_setting_whose_imitation_is_not_known_is_never_the_best_imitator():
    rows = pd.DataFrame(
        [{"method": method, "row_seed": seed, "kl": kl}
         for method, kl in (("unknown", float("nan")), ("known", 0.5)) for seed in range(3)]
    )  # fmt: skip
    chosen = choose(rows, ("method",))
    assert chosen.setting == "method known"
    assert "then the lowest held-out KL is taken" in chosen.told
    unknown = choose(rows.assign(kl=float("nan")), ("method",))
    assert "lowest" not in unknown.told


def test_of_several_training_contexts_the_first_is_taken():
    """Held-out KLs of two contexts are of two teachers: the lower one says nothing."""
    settings = ("default", 1e-3, 0.5), ("default", 2e-3, 0.4), ("ChatGPT", 1e-3, 0.1)
    rows = pd.DataFrame(
        [{"trained_in": context, "lr": lr, "row_seed": seed, "kl": kl}
         for context, lr, kl in settings for seed in range(3)]
    )  # fmt: skip
    chosen = choose(rows, ("trained_in", "lr"))
    assert chosen.setting == "trained_in default, lr 0.002"
    assert "then the training context that comes first, then the lowest held-out KL" in chosen.told
    assert choose(rows[rows["trained_in"] == "default"], ("trained_in", "lr")).contexts == 1
