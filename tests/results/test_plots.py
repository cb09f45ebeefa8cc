import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution, chat, confirmed, effect, gradient, graft, patch, patched_sets, several, sweep

from sublim_mech.results import plots
from sublim_mech.results.plots import ROLE_COLOURS, SHARING_COLOURS, heatmap, plot, role_bars
from sublim_mech.results.scores import POOR, Scores
from sublim_mech.stats import max_t


def parts(figure):
    strip, grid, band, colour_bar = figure.axes
    return strip, grid, band, colour_bar


def bars(axes):
    return np.array([p.get_width() for p in axes.patches])


def band_colours(figure, row):
    """Token index -> colour of the band's `role` or `shared` row."""
    patches = [p for p in figure.axes[2].patches if (p.get_y() < 0) == (row == "shared")]
    return {round(p.get_x() + p.get_width() / 2): p.get_facecolor() for p in patches}


HEATMAPS = {"attribution": attribution(), "patch": patch(), "sweep": sweep(), "gradient": gradient()}


@pytest.mark.parametrize("scores", HEATMAPS.values(), ids=HEATMAPS)
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
    names = scores.layer_names()
    assert names == ["embed", *map(str, range(30)), "final"]
    ticks = [t.get_text() for t in heatmap(scores).axes[1].get_yticklabels()]
    assert ticks[0] == "embed"
    assert ticks[-1] == "final"
    assert len(ticks) <= 13
    assert patch(layers=3).layer_names() == ["0", "1", "2"]
    assert sweep(layers=2).layer_names() == ["embed", "0", "1", "final"]
    some = Scores(scores.data.sel(layer=[4, 5]), scores.kind, scores.provenance)  # the last one kept is not the model's last
    assert some.layer_names() == ["4", "5"]


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


def veil(axes):
    """Where an image lies under grey."""
    return axes.images[1].get_array()[..., 3] > 0


def test_cells_below_the_noise_are_grey_and_no_others():
    scores = attribution(several(9))
    figure = heatmap(scores, 2)
    strip, grid, _, _ = parts(figure)
    real = scores.positions("role")[2] != ""
    np.testing.assert_array_equal(veil(grid), scores.noise(2)[:, real])
    assert 0 < veil(grid).mean() < 1
    np.testing.assert_array_equal(np.ma.filled(grid.images[0].get_array(), np.nan), scores.layer_effect().values[2][:, real])
    grey = [p.get_facecolor() == to_rgba(plots._NOISE) for p in strip.patches]
    assert grey == scores.noise(2, tokens=True)[real].tolist()
    note = "light grey: not distinguishable from 0 over 9 prompts (sign-flip max-T, 5 %)"
    assert figure.legends[0].get_title().get_text() == note


def test_few_prompts_are_not_tested_and_that_is_said():
    figure = heatmap(attribution())
    assert len(figure.axes[1].images) == 1
    assert figure.legends[0].get_title().get_text() == "3 prompts: cells not tested (needs 6)"


def test_grey_is_told_from_no_effect_and_from_no_score():
    figure = heatmap(patch(several(7)))
    grid = figure.axes[1]
    figure.canvas.draw()
    grey = np.array(to_rgba(plots._NOISE)[:3])
    none = np.array(grid.images[0].cmap(0.5)[:3])
    luminance = np.array([0.2126, 0.7152, 0.0722])
    assert none @ luminance - (0.8 * grey + 0.2 * none) @ luminance > 0.1  # also without any sense of colour
    assert grid.patch.get_hatch()
    unscored = np.isnan(np.ma.filled(grid.images[0].get_array(), np.nan))
    assert unscored.any()
    assert not veil(grid)[unscored].any()  # the hatch is seen there


def test_heads_are_drawn_over_all_prompts():
    scores = patch(several(8), heads=3)
    figure = plot(scores)
    grid = figure.axes[0]
    np.testing.assert_allclose(grid.images[0].get_array(), scores.head_effect().values.mean(0))
    assert [t.get_text() for t in grid.get_xticklabels()] == ["0", "1", "2"]
    np.testing.assert_array_equal(veil(grid), max_t(scores.head_effect().values).noise)
    assert "mean over 8 prompts and tokens" in figure.get_suptitle()
    np.testing.assert_allclose(
        plot(scores.sel(head=1), 2).axes[1].images[0].get_array().filled(np.nan),
        heatmap(scores.sel(head=1), 2).axes[1].images[0].get_array().filled(np.nan),
    )


def test_patched_sets_are_layers_by_sets():
    scores = patched_sets(layers=6)
    grid = plot(scores).axes[0]
    np.testing.assert_allclose(grid.images[0].get_array(), scores.data["effect"].values[0].mean(0))
    assert [t.get_text() for t in grid.get_xticklabels()] == [
        "system\n(15 tokens)",
        "user\n(9 tokens)",
        "last token\n(1 tokens)",
    ]
    assert not veil(grid)[0, 0]  # planted
    assert veil(grid)[:, 2].all()
    assert plot(scores.sel(set="user")).axes[0].images[0].get_array().shape == (6, 1)
    with pytest.raises(ValueError, match=r"scores.sel\(set='system'\)"):
        plot(patched_sets(heads=2))


@pytest.mark.parametrize("scores", [patch(both=True), patch(both=True, heads=2), patched_sets(both=True)])
def test_both_directions_are_not_drawn_as_one(scores):
    with pytest.raises(ValueError, match=r"scores.sel\(direction='denoising'\)"):
        plot(scores)
    assert "direction noising" in plot(scores.sel(direction="noising")).get_suptitle()


def test_gradients_at_the_embeddings_are_bars_alone():
    scores = gradient(method="gradient_x_input")
    figure = heatmap(scores)
    strip, band = figure.axes
    real = scores.positions("role")[0] != ""
    np.testing.assert_allclose([p.get_height() for p in strip.patches], scores.token_effect()[0, real])
    assert len(band.get_xticklabels()) == real.sum()


@pytest.mark.parametrize("scores", [gradient(), patch(heads=2), attribution(), effect()], ids=lambda s: s.kind)
def test_poor_agreement_stands_in_red_on_every_figure(scores):
    def red(figure):
        texts = [axes.title for axes in figure.axes if axes.get_title()]
        return [t.get_text() for t in texts if to_rgba(t.get_color())[0] > 0.7 > 0.1 > to_rgba(t.get_color())[1]]

    draw = [plot, *([role_bars] if "position" in scores.data["effect"].dims else [])]
    for picture in draw:
        assert red(picture(confirmed(scores, poor=True))) == [POOR]
        assert red(picture(confirmed(scores))) == []


def test_unconfirmed_estimates_say_so_in_the_figure():
    assert "not confirmed" in heatmap(gradient()).get_suptitle()
    assert "not confirmed" not in heatmap(confirmed(gradient())).get_suptitle()


def test_one_prompt_chosen_keeps_its_number():
    assert "prompt 2:" in heatmap(attribution().sel(prompt=2)).get_suptitle()


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
