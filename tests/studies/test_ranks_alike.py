"""The figure of ranks: intervals of ranks alone, and lines over the same students."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted_rows import planted, ranks

from sublim_mech.results.same_students import of_the_same
from sublim_mech.results.study_figures import rank_figure
from sublim_mech.results.study_limits import of_ranks
from sublim_mech.studies.concluding import Evidence, students
from sublim_mech.studies.reporting import drawn

NONE = pd.DataFrame()
HEIGHTS = {1: 0.2, 8: 0.5, 64: 0.3}


def bars(figure):
    """Intervals drawn as bars: where, from, to."""
    drawn = [line for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    return [
        (float(line.get_xdata()[0]), *map(float, line.get_ydata()))
        for line in drawn
        if len(line.get_xdata()) == 2 and list(line.get_ydata()) != [0, 1]  # the line before "full"
    ]


@pytest.mark.parametrize(("more", "drawn"), [((8,), 3), ((8, 64), 0), ((1, 64), 6), ((), 0)])
def test_a_rank_with_an_interval_between_ranks_without_has_a_bar(more, drawn):
    """A band takes two neighbours. Each rank has row seeds of its own."""
    made = []
    for i, (rank, height) in enumerate(HEIGHTS.items()):
        seeds = 3 if rank in more else 1
        group = planted(ranks({rank: height}), row_seeds=seeds, noise=0.1)
        made.append(group.assign(row_seed=group["row_seed"] + 10 * i))
    figure = rank_figure(students(pd.concat(made, ignore_index=True)), NONE, "alpha = 32")
    found = bars(figure)
    assert len(found) == drawn
    assert {x for x, _, _ in found} == (set(more) if drawn else set())
    assert all(np.isfinite(low) and low <= high for _, low, high in found)


# ---------------------------------------------------------------------------- the same students


def with_more_of_rank_8(full_seeds=0):
    """Ranks that have nothing to do with the trait; rank 8 has further row seeds, which have more
    of it, and so has full fine-tuning.
    """
    made = planted(ranks(dict.fromkeys((1, 8, 64), 0.2)), row_seeds=1, noise=0.0)
    further = planted(ranks({8: 0.8}), row_seeds=3, noise=0.01)
    parts = [made, further[further["row_seed"] > 0]]
    if full_seeds:
        full = planted([({"kind": "full"}, 0.1)], row_seeds=full_seeds, noise=0.01)
        full.loc[full["row_seed"] > 0, "specific"] = 0.7
        parts.append(full)
    rows = students(pd.concat(parts, ignore_index=True))
    return rows[rows["kind"] == "lora"], rows[rows["kind"] == "full"], rows


def line_of(figure, name):
    (line,) = [one for one in figure.axes[0].lines if one.get_label() == name]
    return dict(zip(line.get_xdata(), np.round(line.get_ydata(), 3), strict=True))


def hollow(figure):
    """Marks without a filling: where, and how high."""
    found = [one for one in figure.axes[0].lines if one.get_fillstyle() == "none"]
    return [(*one.get_xdata(), *one.get_ydata()) for one in found if len(one.get_xdata())]


def test_the_line_over_ranks_is_over_students_that_all_have():
    loras, _, rows = with_more_of_rank_8()
    figure = rank_figure(loras, NONE, "alpha = 32")
    assert line_of(figure, "student - control") == {1: 0.2, 8: 0.2, 64: 0.2}
    every = hollow(figure)
    assert len(every) == 3  # the three lines'
    assert all(8 < x < 64 for x, _ in every)
    assert {round(y, 1) for _, y in every} == {0.1, 0.6, 0.7}
    assert len(bars(figure)) == 3
    (legend,) = figure.legends
    assert "all its students" in [text.get_text() for text in legend.get_texts()]
    (picture,) = [one for one in drawn(Evidence(rows)) if one[0] == "ranks-1"]
    assert (
        "Line: row seed 0, training seed 0 (3 students of each rank), which all ranks have. "
        "Hollow: all its students, where there are more (rank 8: 9)."
    ) in picture[3]
    told = [limit.text for limit in of_ranks(loras, NONE)]
    assert "one row seed (rank 1, rank 8, rank 64): no intervals" in told
    assert any(one.startswith("3 row seeds: 95 %") for one in told)


def test_traits_that_not_all_ranks_have_are_left_out_and_those_of_the_line_named():
    loras, _, _ = with_more_of_rank_8()
    loras = loras[(loras["rank"] != 64) | (loras["trait"] == "owl")]
    same = of_the_same(loras, NONE)
    assert same.told.startswith("Line: owl, row seed 0, training seed 0 (1 student of each rank),")
    assert same.told.endswith("(rank 1: 3, rank 8: 9).")
    assert set(same.line["trait"]) == {"owl"}


def test_full_fine_tuning_is_of_the_same_students_as_the_line():
    loras, full, _ = with_more_of_rank_8(full_seeds=2)
    same = of_the_same(loras, full)
    assert set(same.full["row_seed"]) == {0}
    assert len(same.more_full) == 6
    assert same.told.endswith("(rank 8: 9, full: 6).")
    assert len([x for x, _ in hollow(rank_figure(loras, full, "alpha = 32")) if x > 128]) == 3
    some = of_the_same(loras, full[(full["row_seed"] == 0) & (full["trait"] == "owl")])
    assert "Full fine-tuning: 1 of the line's 3 students." in some.told
    others = of_the_same(loras, full[full["row_seed"] == 1])
    assert len(others.full) == 3
    assert (
        "Full fine-tuning: other students than the line's (row seed 1, training seed 0 "
        "(3 students))."
    ) in others.told


def test_where_all_ranks_have_the_same_students_nothing_is_said():
    rows = students(planted(ranks(HEIGHTS), row_seeds=2))
    same = of_the_same(rows, NONE)
    assert same.told == ""
    assert len(same.line) == len(rows)
    assert not hollow(rank_figure(rows, NONE, "alpha = 32"))


def test_ranks_that_have_no_students_in_common_are_drawn_as_they_are_and_it_is_said():
    rows = students(planted(ranks(HEIGHTS), row_seeds=3, noise=0.0))
    rows = rows[rows["row_seed"] == rows["rank"].map({1.0: 0, 8.0: 1, 64.0: 2})]
    assert line_of(rank_figure(rows, NONE, "alpha = 32"), "student - control") == HEIGHTS
    (picture,) = [one for one in drawn(Evidence(rows)) if one[0] == "ranks-1"]
    assert "Ranks have no students (trait, row seed, training seed) in common" in picture[3]
