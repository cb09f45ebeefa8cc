"""How figures look: their scale, their text, their files."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution

from sublim_mech.prompts import SHARED
from sublim_mech.results import bars, elements, heatmaps, notebook_figures, plots, style
from sublim_mech.results.colours import (
    COMPARED_COLOURS,
    NOISE_COLOUR,
    ROLE_COLOURS,
    SHARING_COLOURS,
    half_range,
)
from sublim_mech.results.curve_plots import SCAN_COLOURS


def image_of(values, noise=None):
    axes = style.new_figure(3, 2).subplots()
    return axes, elements.effect_image(axes, np.array(values), noise)


def test_the_scale_is_symmetric_and_red_is_positive():
    _, image = image_of([[-1.0, 3.0]])
    assert (image.norm.vmin, image.norm.vmax) == (-3, 3)
    red, _, blue, _ = image.cmap(image.norm(3.0))
    assert red > blue


def test_no_effect_at_all_is_drawn_as_zero():
    _, image = image_of([[0.0, 0.0]])
    assert image.norm(0) == 0.5
    assert half_range(np.array([np.nan, -2.0])) == 2


def test_grey_is_told_from_no_effect_and_from_no_score():
    values, noise = [[np.nan, 0.0, 1.0]], np.array([[False, True, False]])
    axes, image = image_of(values, noise)
    grey = np.array(to_rgba(NOISE_COLOUR)[:3])
    none = np.array(image.cmap(0.5)[:3])
    luminance = np.array([0.2126, 0.7152, 0.0722])
    veiled = 0.8 * grey + 0.2 * none
    assert none @ luminance - veiled @ luminance > 0.1  # also without any sense of colour
    veil = axes.images[1].get_array()[..., 3] > 0
    np.testing.assert_array_equal(veil, noise)
    assert axes.patch.get_hatch()  # seen where there is no score


def test_dollar_signs_are_no_formulas():
    figure = style.new_figure(3, 2)
    style.set_title(figure, r"$\frac$", "$")
    figure.draw_without_rendering()  # a formula would raise here


def test_long_titles_are_broken():
    figure = style.new_figure(3, 2)
    style.set_title(figure, "word " * 20, "second " * 20)
    first, *_, last = figure.get_suptitle().split("\n")
    assert len(first) <= 42
    assert last == "second " * 20
    figure = style.new_figure(3, 2)
    style.set_title(figure, "x" * 100)
    assert max(map(len, figure.get_suptitle().split("\n"))) <= 42


def picture(**wishes):
    return style.Picture(style.Wishes(**wishes), attribution(), width=6, height=2)


def test_warnings_stand_in_red():
    one = picture()
    one.warn(None)
    assert len(one.finish().texts) == 0
    one = picture()
    one.warn("beware")
    (text,) = one.finish().texts
    red, green, *_ = to_rgba(text.get_color())
    assert (text.get_text(), red > 0.7, green < 0.1) == ("beware", True, True)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"ax": [1, 2]}, r"ax=\[1, 2\]\): pass an Axes \(matplotlib's plt.subplots"),
        ({"title": 3}, r"title=3\): pass a text or None"),
        ({"labels": ["owl"]}, r"labels=\['owl'\]\): pass a dict"),
        ({"labels": {"user": 3}}, r"labels=\{'user': 3\}\): pass a dict"),
    ],
)
def test_wishes_of_the_wrong_kind(wish, message):
    scores = attribution()
    for draw in (scores.plot, plots.plot, bars.role_bars, bars.layer_bars, heatmaps.heatmap):
        with pytest.raises(TypeError, match=message):
            draw(scores, **wish) if draw != scores.plot else draw(**wish)


def test_only_names_of_the_scores_are_renamed():
    with pytest.raises(ValueError, match=r"labels: 'usr' is no name.*did you mean 'user'"):
        picture(labels={"usr": "question"})
    one = picture(labels={"student": "LoRA", 3: "deep", "log P(owl)": "owl"})
    assert one.name("3") == "deep"
    assert (
        one.renamed("effect on log P(owl): student - controls") == "effect on owl: LoRA - controls"
    )


def test_labels_of_layers_keep_their_distance():
    names = ["embed", *map(str, range(30)), "final"]
    for gap in (1, 2.4, 5):
        shown = elements.spaced(names, gap)
        assert {0, 31} <= set(shown)
        assert min(np.diff(shown)) >= gap
    assert elements.spaced(["0", "1", "2"]) == [0, 1, 2]


def test_a_notebook_shows_the_figure_without_magic():
    before = plt.get_fignums()
    axes = picture(ax=None).finish()
    with pytest.raises(NotImplementedError):  # there is none: a terminal prints what it is
        axes._ipython_display_()
    assert notebook_figures._waiting == []
    assert plt.get_fignums() == before


def test_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "new" / "figure.png"
    figure = style.new_figure(1, 1)
    assert style.write(figure, path) is figure
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        style.write(style.new_figure(2, 2), path)
    assert path.read_bytes() == before


def test_suffix_names_the_format(tmp_path):
    figure = style.new_figure(1, 1)
    style.write(figure, tmp_path / "figure.svg")
    style.write(figure, tmp_path / "none")
    assert [path.name for path in tmp_path.glob("none*")] == ["none.png"]
    with pytest.raises(IsADirectoryError):
        style.write(figure, tmp_path)
    assert b"<svg" in (tmp_path / "figure.svg").read_bytes()
    with pytest.raises(ValueError, match="xyz"):
        style.write(figure, tmp_path / "figure.xyz")
    assert not (tmp_path / "figure.xyz").exists()


def test_every_class_has_a_colour_of_its_own():
    for colours in (SHARING_COLOURS, ROLE_COLOURS, dict(enumerate(COMPARED_COLOURS))):
        assert len(set(colours.values())) == len(colours)
    # answer tokens are no class of prompt tokens; their role and their class look alike
    assert SHARING_COLOURS["answer"] == ROLE_COLOURS["answer"]
    # the curves of a scan stand above roles
    assert not set(SCAN_COLOURS.values()) & set(ROLE_COLOURS.values())
    # roles stand above what training shares
    assert not set(ROLE_COLOURS.values()) & {SHARING_COLOURS[name] for name in SHARED}
