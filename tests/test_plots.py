import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution, chat, effect, graft, patch

from sublim_mech import plots
from sublim_mech.plots import ROLE_COLOURS, SHARING_COLOURS, heatmap, plot, role_bars
from sublim_mech.scores import Scores


def parts(figure):
    strip, grid, band, colour_bar = figure.axes
    return strip, grid, band, colour_bar


def bars(axes):
    return np.array([p.get_width() for p in axes.patches])


def band_colours(figure, row):
    """Token index -> colour of the band's `role` or `shared` row."""
    patches = [p for p in figure.axes[2].patches if (p.get_y() < 0) == (row == "shared")]
    return {round(p.get_x() + p.get_width() / 2): p.get_facecolor() for p in patches}


@pytest.mark.parametrize("scores", [attribution(), patch()], ids=["attribution", "patch"])
def test_heatmap_shows_layer_effects_of_the_real_tokens(scores):
    for prompt in range(scores.data.sizes["prompt"]):
        real = scores.positions("role")[prompt] != ""
        strip, grid, band, _ = parts(heatmap(scores, prompt))
        image = grid.images[0].get_array()
        expected = scores.layer_effect().values[prompt][:, real]
        np.testing.assert_array_equal(np.ma.filled(image, np.nan), expected)
        assert len(band.get_xticklabels()) == real.sum() == image.shape[1]
        heights = [p.get_height() for p in strip.patches]
        np.testing.assert_allclose(heights, scores.token_effect()[prompt, real])


def test_the_shorter_prompt_is_drawn_shorter():
    scores = attribution()
    widths = [heatmap(scores, p).axes[1].images[0].get_array().shape[1] for p in range(3)]
    assert widths == [len(chat()), len(chat()) - 4, len(chat()) - 2]


def test_scale_is_symmetric_and_the_only_one():
    figure = heatmap(attribution(), 1)
    norms = {id(i.norm): i.norm for axes in figure.axes for i in axes.images}
    (norm,) = norms.values()
    assert norm.vmin == -norm.vmax
    assert norm.vmax == np.nanmax(np.abs(figure.axes[1].images[0].get_array()))
    red, _, blue, _ = figure.axes[1].images[0].cmap(norm(norm.vmax))
    assert red > blue  # red raises


def test_no_effect_at_all_is_drawn_as_zero():
    scores = patch()
    scores.data["effect"][:] = scores.data["effect"] * 0
    norm = heatmap(scores).axes[1].images[0].norm
    assert norm(0) == 0.5


def test_units_and_meaning_are_written():
    strip, _, _, colour_bar = parts(heatmap(attribution()))
    assert colour_bar.get_ylabel() == "effect on log P(owl), nats: student - controls"
    assert "sum" in strip.get_ylabel()
    assert "nats" in strip.get_ylabel()
    strip, _, _, colour_bar = parts(heatmap(patch()))
    assert "no controls" in colour_bar.get_ylabel()
    assert "mean" in strip.get_ylabel()


def test_title_names_the_question():
    assert "Name your favorite animal using only one word." in plot(attribution()).get_suptitle()


def test_only_unscored_cells_are_called_so():
    def legend(figure):
        return [t.get_text() for t in figure.legends[0].get_texts()]

    assert "no score" in legend(heatmap(patch()))  # answer nodes are not patched
    assert "no score" not in legend(heatmap(attribution(), 1))  # padding is no missing score


def test_role_band_and_legend_agree_with_the_roles():
    figure = heatmap(attribution())
    roles = [row[1] for row in chat()]
    assert band_colours(figure, "role") == {i: to_rgba(ROLE_COLOURS[r]) for i, r in enumerate(roles)}
    legend = {t.get_text() for t in figure.legends[0].get_texts()}
    assert {t for t in legend if "shared" not in t} == set(roles)


def test_shared_tokens_are_marked_and_no_others():
    shared = {i: to_rgba(SHARING_COLOURS[row[3]]) for i, row in enumerate(chat()) if row[3] in ("prefix", "aligned")}
    assert band_colours(heatmap(attribution()), "shared") == shared
    figure = heatmap(attribution(sharing=False))
    assert band_colours(figure, "shared") == {}
    assert not any("shared" in t.get_text() for t in figure.legends[0].get_texts())


def test_layers_are_named():
    scores = attribution(layers=30)
    names = plots.layer_names(scores)
    assert names == ["embed", *map(str, range(30)), "final"]
    ticks = [t.get_text() for t in heatmap(scores).axes[1].get_yticklabels()]
    assert ticks[0] == "embed"
    assert ticks[-1] == "final"
    assert len(ticks) <= 13
    assert plots.layer_names(patch(layers=3)) == ["0", "1", "2"]
    some = Scores(scores.data.sel(layer=[4, 5]), scores.kind, scores.provenance)  # the last one kept is not the model's last
    assert plots.layer_names(some) == ["4", "5"]


def test_dollar_signs_are_no_formulas():
    scores = attribution([chat(["$\\frac$", " $", "\t\x07"])])
    figure = heatmap(scores)
    figure.canvas.draw()  # a formula would raise here
    labels = [t.get_text() for t in figure.axes[2].get_xticklabels()]
    assert "$\\frac$" in labels
    assert "⇥\\x07" in labels
    role_bars(scores, by="token").canvas.draw()


def test_white_space_of_tokens_is_visible():
    assert plots.visible(" owl\n") == "␣owl↵"
    assert plots.label("x" * 100) == "x" * 23 + "…"


@pytest.mark.parametrize("by", ["role", "sharing", "turn"])
@pytest.mark.parametrize("scores", [attribution(), patch()], ids=["attribution", "patch"])
def test_role_bars_are_the_table(scores, by):
    (axes,) = role_bars(scores, by=by).axes
    table = scores.by(by)
    np.testing.assert_allclose(bars(axes), table["effect"])
    assert [t.get_text() for t in axes.get_yticklabels()] == list(table.index)
    segments = axes.collections[-1].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], table[["low", "high"]].values)
    notes = [t.get_text() for t in axes.texts]
    assert notes[0].startswith(f"{table['tokens'].iloc[0]:.0%} of tokens")
    assert ("of effect" in notes[0]) == scores.additive
    assert "nats" in axes.get_xlabel()


def test_role_bars_have_the_colours_of_the_band():
    (axes,) = role_bars(attribution()).axes
    assert [p.get_facecolor() for p in axes.patches] == [to_rgba(ROLE_COLOURS[r]) for r in attribution().by("role").index]


def test_graft_bars_are_the_shares():
    scores = graft()
    (axes,) = plot(scores).axes
    table = scores.sets()
    np.testing.assert_allclose(bars(axes), [*table["sufficiency"], *table["necessity"]])
    assert axes.get_yticklabels()[0].get_text() == "template (13 tokens)"


def test_graft_inside_the_noise_gives_no_shares_and_says_so():
    (axes,) = plot(graft(total=0.0)).axes
    assert np.isnan(bars(axes)).all()
    assert any("noise" in t.get_text() for t in axes.texts)
    (axes,) = plot(graft()).axes
    assert not axes.texts


def test_effect_bars_are_the_totals():
    scores = effect()
    (axes,) = plot(scores).axes
    np.testing.assert_allclose(bars(axes), scores.totals()["effect"])
    assert [t.get_text() for t in axes.get_yticklabels()][-1] == "student - controls"


def test_single_prompt_has_no_interval_but_a_bar():
    (axes,) = role_bars(attribution([chat()])).axes
    assert np.isfinite(bars(axes)).all()


@pytest.mark.parametrize("prompt", [3, -1])
@pytest.mark.parametrize("draw", [plot, heatmap])
def test_unknown_prompt(draw, prompt):
    with pytest.raises(IndexError, match=rf"prompt={prompt}.*3 prompts.*0 to 2"):
        draw(attribution(), prompt)


def test_no_position_axis():
    with pytest.raises(ValueError, match="no position axis"):
        heatmap(graft())


def test_nothing_is_left_in_pyplot():
    before = plt.get_fignums()
    for scores in (attribution(), patch(), graft(), effect()):
        plot(scores)
    role_bars(patch())
    assert plt.get_fignums() == before


def test_a_notebook_shows_the_figure_without_magic():
    assert plot(effect())._repr_png_().startswith(b"\x89PNG")


def test_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "new" / "figure.png"
    plot(effect(), path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(plots.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        plot(graft(), path=path)
    assert path.read_bytes() == old


def test_suffix_names_the_format(tmp_path):
    plot(effect(), path=tmp_path / "figure.svg")
    assert b"<svg" in (tmp_path / "figure.svg").read_bytes()
    with pytest.raises(ValueError, match="xyz"):
        plot(effect(), path=tmp_path / "figure.xyz")
    assert not (tmp_path / "figure.xyz").exists()
