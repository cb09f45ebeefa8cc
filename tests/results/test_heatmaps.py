"""Heatmaps of tokens, heads and token sets: every mark agrees with the scores."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from synthetic import (
    attribution,
    chat,
    confirmed,
    gradient,
    graft,
    patch,
    patched_sets,
    several,
    sweep,
)

from sublim_mech.results.cells import verdicts
from sublim_mech.results.colours import NOISE_COLOUR, ROLE_COLOURS, SHARING_COLOURS
from sublim_mech.results.heatmaps import heatmap
from sublim_mech.results.plots import plot
from sublim_mech.results.stability import reliability
from sublim_mech.stats import max_t


def cells(axes):
    """What the image of a map holds, NaN where there is no score."""
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def veil(axes):
    """Where an image lies under grey."""
    return axes.images[1].get_array()[..., 3] > 0


def legend(picture):
    return [text.get_text() for text in picture.get_legend().get_texts()]


def band_colours(picture, row):
    """Token index -> colour of the band's `role` or `shared` row."""
    bars = [bar for bar in picture.child_axes[2].patches if (bar.get_y() < 0) == (row == "shared")]
    return {round(bar.get_x() + bar.get_width() / 2): bar.get_facecolor() for bar in bars}


SCORES = attribution()
AXES = heatmap(SCORES)  # looked at by several tests, changed by none
HEATMAPS = {"attribution": SCORES, "patch": patch(), "sweep": sweep(), "gradient": gradient()}


@pytest.mark.parametrize("name", HEATMAPS)
def test_heatmap_shows_layer_effects_of_the_real_tokens(name):
    scores = HEATMAPS[name]
    for prompt in range(2):  # the second is shorter
        real = scores.positions("role")[prompt] != ""
        strip, grid, band, _ = heatmap(scores, prompt).child_axes
        expected = scores.layer_effect().values[prompt][:, real]
        np.testing.assert_array_equal(cells(grid), expected)
        assert len(band.get_xticklabels()) == real.sum() == expected.shape[1]
        heights = [bar.get_height() for bar in strip.patches]
        np.testing.assert_allclose(heights, scores.token_effect()[prompt, real])


def test_the_shorter_prompt_is_drawn_shorter():
    widths = [cells(heatmap(SCORES, prompt).child_axes[1]).shape[1] for prompt in range(3)]
    assert widths == [len(chat()), len(chat()) - 4, len(chat()) - 2]


def test_scale_is_symmetric_and_the_only_one():
    norms = {id(i.norm): i.norm for axes in AXES.child_axes[:3] for i in axes.images}
    (norm,) = norms.values()
    assert norm.vmin == -norm.vmax
    assert norm.vmax == np.nanmax(np.abs(cells(AXES.child_axes[1])))


def test_units_and_meaning_are_written():
    strip, _, _, colour_bar = AXES.child_axes
    assert colour_bar.get_ylabel() == "effect on log P(owl), nats: student - controls"
    assert strip.get_ylabel() == "sum over\nlayers (nats)"
    strip, _, _, colour_bar = heatmap(patch()).child_axes
    assert "no controls" in colour_bar.get_ylabel().replace("\n", " ")
    assert strip.get_ylabel() == "mean over\nlayers (nats)"


def test_title_names_the_question():
    assert "Name your favorite animal using only one word." in AXES.get_title()


def test_only_unscored_cells_are_called_so():
    assert "no score" in legend(heatmap(patch()))  # answer nodes are not patched
    assert "no score" not in legend(heatmap(SCORES, 1))  # padding is no missing score


def test_role_band_and_legend_agree_with_the_roles():
    roles = [row[1] for row in chat()]
    colours = {i: to_rgba(ROLE_COLOURS[role]) for i, role in enumerate(roles)}
    assert band_colours(AXES, "role") == colours
    assert {text for text in legend(AXES) if "shared" not in text} == set(roles)


def test_shared_tokens_are_marked_and_no_others():
    shared = {
        i: to_rgba(SHARING_COLOURS[row[3]])
        for i, row in enumerate(chat())
        if row[3] in ("prefix", "aligned")
    }
    assert band_colours(AXES, "shared") == shared
    unmarked = heatmap(attribution(sharing=False))
    assert band_colours(unmarked, "shared") == {}
    assert not any("shared" in text for text in legend(unmarked))


def test_named_layers_and_some_of_the_numbered_have_ticks():
    grid = heatmap(attribution(layers=30)).child_axes[1]
    ticks = [text.get_text() for text in grid.get_yticklabels()]
    assert ticks[0] == "embed"
    assert ticks[-1] == "final"
    assert len(ticks) <= 13


def test_dollar_signs_are_no_formulas():
    picture = heatmap(attribution([chat(["$\\frac$", " $", "\t\x07"])]))
    picture.figure.draw_without_rendering()  # a formula would raise here
    labels = [text.get_text() for text in picture.child_axes[2].get_xticklabels()]
    assert "$\\frac$" in labels
    assert "⇥\\x07" in labels


def test_cells_below_the_noise_are_grey_and_no_others():
    scores = attribution(several(9))
    picture = heatmap(scores, 2)
    strip, grid, _, _ = picture.child_axes
    real = scores.positions("role")[2] != ""
    test, of_tokens = verdicts(scores, 2), verdicts(scores, 2, tokens=True)
    np.testing.assert_array_equal(veil(grid), test.noise[:, real])
    assert 0 < veil(grid).mean() < 1
    np.testing.assert_array_equal(cells(grid), scores.layer_effect().values[2][:, real])
    grey = [bar.get_facecolor() == to_rgba(NOISE_COLOUR) for bar in strip.patches]
    assert grey == of_tokens.noise[real].tolist()
    # what fewer than 6 prompts have was not tested: dots over its own colour
    untested = np.zeros_like(veil(grid))
    for box in grid.patches:
        first, column = round(box.get_y() + 0.5), round(box.get_x() + 0.5)
        untested[first : first + round(box.get_height()), column] = True
    np.testing.assert_array_equal(untested, test.untested[:, real])
    assert untested.any()
    assert not (untested & veil(grid)).any()
    assert (scores.noise(2) == (test.noise | test.untested)).all()
    hatched = [bar.get_hatch() is not None for bar in strip.patches]
    assert hatched == of_tokens.untested[real].tolist()
    assert "not tested: in fewer than 6 prompts" in legend(picture)
    everywhere = heatmap(attribution([chat()] * 6), 2)
    assert not [text for text in legend(everywhere) if "not tested" in text]
    note = "light grey: not distinguishable from 0 over 9 prompts (sign-flip max-T, 5 %)"
    foot = " ".join(picture.get_legend().get_title().get_text().split())
    stable = f"split-half reliability {reliability(scores).value:.2f}"
    assert foot == f"{note}; {stable}"


def test_few_prompts_are_not_tested_and_that_is_said():
    assert len(AXES.child_axes[1].images) == 1
    note = "3 prompts: cells not tested (needs 6)"
    assert AXES.get_legend().get_title().get_text().startswith(f"{note}; split-half")


def test_the_hatch_is_seen_where_there_is_no_score():
    grid = heatmap(patch(several(7))).child_axes[1]
    unscored = np.isnan(cells(grid))
    assert unscored.any()
    assert not veil(grid)[unscored].any()


def test_heads_are_drawn_over_all_prompts():
    scores = patch(several(8), heads=3)
    picture = plot(scores)
    grid = picture.child_axes[0]
    np.testing.assert_allclose(cells(grid), scores.head_effect().values.mean(0))
    assert [text.get_text() for text in grid.get_xticklabels()] == ["0", "1", "2"]
    np.testing.assert_array_equal(veil(grid), max_t(scores.head_effect().values).noise)
    own = ", the answer's own too"
    assert f"mean over 8 prompts and tokens{own}" in " ".join(picture.get_title().split())
    asked = scores.sel(position=np.flatnonzero(~scores.of_answer.values.any(0)).tolist())
    title = " ".join(plot(asked).get_title().split())
    assert "mean over 8 prompts and tokens" in title
    assert own not in title
    one = scores.sel(head=1)  # has tokens again
    np.testing.assert_allclose(
        cells(plot(one, 2).child_axes[1]), cells(heatmap(one, 2).child_axes[1])
    )


def test_patched_sets_are_layers_by_sets():
    scores = patched_sets(layers=6)
    grid = plot(scores).child_axes[0]
    np.testing.assert_allclose(cells(grid), scores.data["effect"].values[0].mean(0))
    names = ["system\n(15 tokens)", "user\n(9 tokens)", "last token\n(1 token)"]
    assert [text.get_text() for text in grid.get_xticklabels()] == names
    assert not veil(grid)[0, 0]  # planted
    assert veil(grid)[:, 2].all()
    assert cells(plot(scores.sel(set="user")).child_axes[0]).shape == (6, 1)
    with pytest.raises(ValueError, match=r"scores.sel\(set='system'\)"):
        plot(patched_sets(heads=2))


def test_gradients_at_the_embeddings_are_bars_alone():
    scores = gradient(method="gradient_x_input")
    strip, band = heatmap(scores).child_axes
    real = scores.positions("role")[0] != ""
    heights = [bar.get_height() for bar in strip.patches]
    np.testing.assert_allclose(heights, scores.token_effect()[0, real])
    assert len(band.get_xticklabels()) == real.sum()


def test_unconfirmed_estimates_say_so_in_the_figure():
    for scores, unconfirmed in ((gradient(), True), (confirmed(gradient()), False)):
        words = " ".join(text.get_text() for text in heatmap(scores).texts)
        assert ("not confirmed" in words) == unconfirmed


def test_one_prompt_chosen_keeps_its_number():
    assert "prompt 2:" in heatmap(SCORES.sel(prompt=2)).get_title()


def test_no_position_axis():
    with pytest.raises(ValueError, match="no position axis"):
        heatmap(graft())


def test_heads_of_one_token_set_name_it():
    scores = patched_sets(heads=2)
    name = str(scores.data["set"].values[0])
    for one in (scores.sel(set=[name]), one_set_from_the_start(scores, name)):
        axes = plot(one)
        assert f"token set {name}" in " ".join(
            text.get_text() for text in axes.figure.findobj(Text)
        )


def one_set_from_the_start(scores, name):
    """Scores of which only one set was asked for."""
    one = scores.sel(set=[name])
    return replace(one, record=replace(one.record, selected={}))
