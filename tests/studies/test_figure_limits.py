"""What limits the figures of a study stands below them and in their captions, and nothing else."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from planted_rows import INVERTED_U, contexts, everything, placed, planted, ranks

from sublim_mech.results.study_figures import concentration_figure, rank_figure, trained_at_figure
from sublim_mech.results.study_limits import (
    in_a_line,
    of_concentrations,
    of_contexts,
    of_places,
    of_ranks,
    of_traits,
)
from sublim_mech.studies.concluding import Evidence, students
from sublim_mech.studies.reporting import drawn

NONE = pd.DataFrame()


def texts(limits):
    return [limit.text for limit in limits]


def at(place, value, *, seeds=6, control=0.1, noise=0.02):
    """Students trained at some tokens."""
    rows = planted([({"where": place}, value)], row_seeds=seeds, noise=noise)
    rows["control"] = control
    rows["change"] = rows["specific"] + control
    return rows


def test_of_many_row_seeds_with_controls_that_stay_nothing_is_said():
    assert of_ranks(students(planted(ranks({1: 0.4, 8: 0.5}), row_seeds=6)), NONE) == []
    assert of_places(at("prompt", 0.5, control=0.0)) == []
    assert of_traits(planted([({}, 0.5)], row_seeds=6)) == []


def test_few_row_seeds_are_told_as_few_prompts_are():
    def told(seeds):
        return texts(of_places(at("prompt", 0.5, seeds=seeds)))

    assert told(1) == ["one row seed: no intervals"]
    assert told(3) == ["3 row seeds: 95 % by Student's t, which takes their means as normal"]
    both = pd.concat([at("prompt", 0.5, seeds=1), at("answer", 0.5, seeds=6)])
    assert texts(of_places(both)) == ["one row seed (prompt): no intervals"]


def test_row_seeds_that_have_other_traits_are_told():
    rows = at("prompt", 0.5)
    last = (rows["row_seed"] == 5) & (rows["trait"] == rows["trait"].iloc[0])
    both = pd.concat([rows[~last], at("answer", 0.5)])
    told = "row seeds have other traits, and differ by these too (prompt)"
    assert told in texts(of_places(both))
    assert not any("other traits" in one for one in texts(of_places(rows)))


def test_effects_inside_their_noise_are_named_with_the_groups_they_are_of():
    rows = pd.concat([at("prompt", 0.5), at("answer", 0.0, noise=0.3), at("shared", 0.5)])
    assert texts(of_places(rows)) == ["student - control is inside its own noise (answer)"]
    alone = texts(of_places(at("answer", 0.0, noise=0.3)))
    assert alone == ["student - control is inside its own noise"]
    fell = planted([({}, 0.0)], row_seeds=6, noise=0.3)
    fell["change"] = fell["specific"]
    assert any("change of the own trait is inside its own noise" in one for one in texts(
        of_traits(fell)
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("value", "control", "told"),
    [
        (0.5, -0.1, None),  # a fifth
        (0.5, -0.3, r"0.30 of 0.50 nats (60%) are the controls' fall"),
        (0.5, -0.8, "the headline is the controls': they fall by 0.80 nats, beyond"),
        (-0.5, 0.3, r"0.30 of 0.50 nats (60%) are the controls' rise"),
    ],
)
def test_what_the_controls_have_is_told_as_of_scores(value, control, told):
    said = "; ".join(texts(of_places(at("prompt", value, control=control, noise=1e-4))))
    assert (told or "") in said
    assert bool(said) == bool(told)


def test_of_several_groups_one_line_says_what_the_controls_have():
    rows = pd.concat([at(f"place {i}", 0.5, control=-0.3) for i in range(5)] + [at("other", 0.5)])
    assert texts(of_places(rows)) == [
        "more than 25% of the headline are the controls' fall (place 0, place 1, place 2 and 2 "
        "more)"
    ]
    everywhere = rows[rows["where"] != "other"]
    assert texts(of_places(everywhere))[0].endswith("are the controls' fall (all of them)")


def test_students_that_are_their_base_and_those_without_controls_are_told():
    rows = at("prompt", 0.5).assign(moved=True)
    rows.loc[[0, 1], "moved"] = False
    assert texts(of_places(rows)) == ["2 of 18 students equal their base: no weight differs"]
    alone = at("prompt", 0.5).assign(specific=float("nan"), control=float("nan"))
    assert texts(of_places(alone)) == [
        "no controls given: part of any change may come from training on any numbers"
    ]


def test_a_log_probability_at_its_ceiling_is_told():
    rows = at("prompt", 4.99, noise=1e-4, control=0.0)
    (line,) = texts(of_places(rows))
    assert line.startswith("log P(the trait is named) is at its ceiling of 0")
    assert of_places(rows.assign(**{"base level": -0.01, "change": 0.0})) == []
    rows.loc[rows.index[:4], "change"] = 1.0  # of 18
    (line,) = texts(of_places(rows))
    assert line.startswith("log P(the trait is named) is at its ceiling of 0 in 14 of 18 rows")


def test_shares_of_a_fall_and_of_nothing_are_told_student_by_student():
    rows = pd.concat([placed(0.9, 0.45)] * 2).reset_index(drop=True)
    rows["row_seed"] = [i // 3 for i in range(len(rows))]
    rows["ig shared gap"] = 0.001
    assert texts(of_concentrations(rows, "evaluated_in")) == [
        "completeness gap at most 0.10%, of any student"
    ]
    rows.loc[[0, 1], "graft total"] = -0.5
    rows.loc[2, "ig shared share"] = float("nan")
    rows.loc[2, "graft total"] = 1e-9
    told = texts(of_concentrations(rows, "evaluated_in"))
    assert told[0] == (
        "1 of 24 students (eagle, row seed 0): the total effect is inside its own noise: no shares "
        "are given"
    )
    assert told[1] == "row seeds have other traits, and differ by these too"  # eagle has no share
    assert told[2] == (
        "2 of 24 students: the total effect is negative; shares are parts of a fall or of what the "
        "controls rose further"
    )
    fell = rows.assign(control=-0.3, change=0.2, specific=0.5)
    assert any(
        one.endswith("controls' fall: shares hold that too")
        for one in texts(of_concentrations(fell, "evaluated_in"))
    )
    # what has no share has no part of a graft either
    figure = concentration_figure(rows, "evaluated_in")
    heights = [line.get_ydata() for line in figure.axes[0].lines]
    assert max(abs(float(y)) for ys in heights for y in ys) < 2


def test_students_that_act_where_they_were_trained_are_told_with_what_they_do_everywhere():
    """0 by construction is no measured 0: what the weights do everywhere stands beside it."""
    everywhere_on, here = at("everywhere", 0.5), at("answer", 0.0, noise=0.0)
    here["gates"], here["everywhere specific"] = "as trained", 0.3
    rows = pd.concat([everywhere_on, here], ignore_index=True)
    (line,) = [one for one in texts(of_places(rows)) if "as trained" in one]
    assert line.startswith(
        "answer: asked as trained, weights on at these tokens alone (what is "
        "read before them cannot change); with weights on everywhere student - control is: "
        "answer +0.300"
    )
    assert not any("as trained" in one for one in texts(of_places(everywhere_on)))


def test_contexts_are_named_by_training_and_evaluation():
    rows = planted(contexts(0.5, 0.0), noise=0.05)
    here = rows["evaluated_in"] == "empty"  # around 0
    rows.loc[here, "specific"] -= rows.loc[here, "specific"].mean()
    (line,) = [one for one in texts(of_contexts(rows)) if "noise" in one]
    assert line == "student - control is inside its own noise (default → empty)"


def test_every_figure_says_it_below_and_every_caption_in_full():
    rows = everything()
    rows["control"] = -2.0
    rows["change"] = rows["specific"] - 2.0
    found = list(drawn(Evidence(students(rows))))
    assert len(found) == 7
    for name, _, figure, caption in found:
        words = " ".join(" ".join(text.get_text() for text in figure.texts).split())
        assert "4 row seeds: 95 % by Student's t" in words, name
        assert "4 row seeds: 95 % by Student's t" in caption, name
        if name != "traits":  # where controls stand beside each other
            assert "the headline is the controls'" in words, name
            assert "the headline is the controls'" in caption.lower(), name


@pytest.mark.parametrize("draw", [lambda rows: rank_figure(rows, NONE, "alpha = 32"),
                                  lambda rows: trained_at_figure(rows)])  # fmt: skip
def test_the_lines_stand_below_axes_and_legend_inside_the_figure(draw):
    rows = students(planted(ranks(INVERTED_U), row_seeds=2, noise=0.3))
    figure = draw(rows)
    FigureCanvasAgg(figure).draw()
    (foot,) = figure.texts
    box = foot.get_window_extent()
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= box.y1 - 1
    assert figure.axes[0].get_tightbbox().y0 >= legend.get_window_extent().y1 - 1
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0


def test_a_sentence_of_nothing_is_none():
    assert in_a_line([]) == ""
    assert in_a_line(of_places(at("prompt", 0.5, seeds=1))) == "One row seed: no intervals."
