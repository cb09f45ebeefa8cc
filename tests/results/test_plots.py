"""The picture that suits the cells; what no picture leaves out."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba
from synthetic import attribution, confirmed, effect, gradient, graft, patch, patched_sets

from sublim_mech.results.bars import role_bars
from sublim_mech.results.heatmaps import heatmap
from sublim_mech.results.plots import plot
from sublim_mech.results.report import POOR_AGREEMENT


@pytest.mark.parametrize("prompt", [3, -1])
@pytest.mark.parametrize("draw", [plot, heatmap])
def test_unknown_prompt(draw, prompt):
    with pytest.raises(IndexError, match=rf"prompt={prompt}.*3 prompts.*0 to 2"):
        draw(attribution(), prompt)


def test_a_picture_of_all_prompts_is_none_of_one():
    for scores in (graft(), effect(), patched_sets(), patch(heads=2)):
        with pytest.raises(ValueError, match=r"of one alone: scores\.sel\(prompt=\[1\]\)\.plot"):
            plot(scores, 1)
    with pytest.raises(ValueError, match="of all prompts together"):
        plot(attribution(), 1, by="role")
    assert "prompt 1" in plot(attribution(), 1).get_title()


@pytest.mark.parametrize(
    "scores", [patch(both=True), patch(both=True, heads=2), patched_sets(both=True)]
)
def test_both_directions_are_not_drawn_as_one(scores):
    with pytest.raises(ValueError, match=r"scores.sel\(direction='denoising'\)"):
        plot(scores)
    assert "direction noising" in plot(scores.sel(direction="noising")).get_title().replace(
        "\n", " "
    )


def warnings_of(axes):
    """What stands in red above the axes."""
    colours = [to_rgba(text.get_color()) for text in axes.texts]
    red = [colour[0] > 0.7 and colour[1] < 0.1 for colour in colours]
    return [text.get_text() for text, is_red in zip(axes.texts, red, strict=True) if is_red]


@pytest.mark.parametrize(
    "scores", [gradient(), patch(heads=2), attribution(), effect()], ids=lambda s: s.kind
)
def test_poor_agreement_stands_in_red_on_every_figure(scores):
    pictures = [plot]
    if "position" in scores.data["effect"].dims:
        pictures.append(role_bars)
    for picture in pictures:
        poor = confirmed(scores, poor=True)
        for title in (None, "mine", ""):
            (warned,) = warnings_of(picture(poor, title=title))
            assert warned.replace("\n", " ") == POOR_AGREEMENT
        assert warnings_of(picture(confirmed(scores))) == []


def test_nothing_is_left_in_pyplot():
    before = plt.get_fignums()
    for scores in (attribution(), patch(), graft(), effect()):
        plot(scores)
    role_bars(patch())
    assert plt.get_fignums() == before


def test_a_figure_is_also_written(tmp_path):
    for scores in (attribution(), patched_sets(), graft(), effect()):
        path = tmp_path / f"{scores.kind}.png"
        scores.plot(path=path)
        assert path.read_bytes().startswith(b"\x89PNG")
