"""Bars: their lengths, intervals and notes are those of the tables."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution, chat, effect, graft, patch

from sublim_mech.results.bars import role_bars
from sublim_mech.results.colours import OTHER_COLOUR, ROLE_COLOURS
from sublim_mech.results.plots import plot
from sublim_mech.results.tables import size_in_words


def lengths(axes):
    return np.array([bar.get_width() for bar in axes.patches])


def below(axes):
    """What limits the numbers."""
    return " ".join(text.get_text() for text in axes.texts)


def rows(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


@pytest.mark.parametrize("by", ["role", "sharing", "turn"])
@pytest.mark.parametrize("scores", [attribution(), patch()], ids=["attribution", "patch"])
def test_role_bars_are_the_table(scores, by):
    axes = role_bars(scores, by=by)
    table = scores.by(by)
    np.testing.assert_allclose(lengths(axes), table["effect"])
    named = [row.split("\n") for row in rows(axes)]
    assert [name for name, *_ in named] == list(table.index)
    intervals = [segment[:, 0] for segment in axes.collections[-1].get_segments()]
    np.testing.assert_allclose(intervals, table[["low", "high"]].values)
    _, size, *share = named[0]
    assert size == size_in_words(table.iloc[0])
    assert len(share) == scores.additive
    assert not any("nan" in row for row in rows(axes))
    assert "nats" in axes.get_xlabel()


def test_role_bars_have_the_colours_of_the_band():
    axes = role_bars(attribution())
    names = attribution().by("role").index
    expected = [to_rgba(ROLE_COLOURS.get(name, OTHER_COLOUR)) for name in names]
    assert [bar.get_facecolor() for bar in axes.patches] == expected


def test_dollar_signs_are_no_formulas():
    scores = attribution([chat(["$\\frac$", " $", "\t\x07"])])
    role_bars(scores, by="token").figure.draw_without_rendering()  # a formula would raise here


def test_graft_bars_are_the_shares():
    axes = plot(graft())
    table = graft().sets()
    np.testing.assert_allclose(lengths(axes), [*table["sufficiency"], *table["necessity"]])
    assert rows(axes)[0] == "template\n13 tokens"


def test_graft_bars_of_one_measure():
    scores = graft().sel(measure="necessity")
    axes = plot(scores)
    np.testing.assert_allclose(lengths(axes), scores.sets()["necessity"])


def test_graft_inside_the_noise_gives_no_shares_and_says_so():
    axes = plot(graft(total=0.0))
    assert np.isnan(lengths(axes)).all()
    assert any("noise" in text.get_text() for text in axes.texts)
    axes = plot(graft())
    assert not axes.texts


def test_effect_bars_are_the_totals():
    axes = plot(effect())
    np.testing.assert_allclose(lengths(axes), effect().totals()["effect"])
    assert rows(axes)[-1] == "student - controls"


def test_single_prompt_has_no_interval_but_a_bar():
    axes = role_bars(attribution([chat()]))
    assert np.isfinite(lengths(axes)).all()


def test_bars_of_one_prompt_have_no_interval_and_say_so():
    for scores in (graft(prompts=1), effect(prompts=1), attribution([chat()])):
        pictures = [plot(scores)] if scores.kind != "attribution" else []
        pictures += [role_bars(scores), plot(scores, by="layer")] if not pictures else []
        for axes in pictures:
            assert "mean and 95 % interval" not in " ".join(axes.get_xlabel().split())
            assert "one prompt: no intervals" in below(axes)
    assert "mean and 95 % interval over prompts" in plot(graft(prompts=6)).get_xlabel()


def test_bars_of_few_prompts_promise_no_95_per_cent():
    axes = plot(graft(prompts=3))
    assert " ".join(axes.get_xlabel().split()).endswith("mean and interval over 3 prompts")
    assert "3 prompts: too few for 95 % intervals" in below(axes)


def test_bars_of_attributions_carry_what_their_cells_miss():
    scores = attribution()
    half = replace(scores, data=scores.data.assign(student=2 * scores.data["student"] + 6.0))
    for one in (scores, half):
        gap = abs(float(one.missing.mean() / one.total.mean()))
        assert f"completeness gap {gap:.2%}" in below(role_bars(one))
    assert "gap" not in below(role_bars(patch()))
