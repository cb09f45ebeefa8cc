"""What an axis says is of what it shows: shares beside bars, steps of a training."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

from sublim_mech.results.bars import compare_bars, role_bars
from sublim_mech.results.curve_plots import step_curve

STEPS = {  # of a training, and whether they stand on a scale of ratios
    (2, 4, 8, 16, 32, 40): True,  # powers, and where the training ended
    (1, 2, 4, 8, 9): True,
    (1, 3, 10, 30, 100, 130): True,
    (1, 2, 5, 10, 20, 50): True,
    (2, 4, 8, 16, 32, 64, 128, 256): True,
    (1, 10, 100, 1000): True,
    (10, 20, 30, 40, 50): False,
    (10, 20, 30, 40, 45): False,
    (100, 200, 300, 400, 401): False,
    (5, 10, 15): False,
    (100, 200, 300, 400, 500, 600, 700, 800): False,
    (0, 10, 20, 40): False,  # 0 stands nowhere on such a scale
}


def noisy(scores):
    """The same attribution, whose prompts' effects are of either sign."""
    sign = np.resize([1, -1], scores.data.sizes["prompt"])
    effect = scores.data["effect"] * sign[None, :, None, None, None]
    return replace(scores, data=scores.data.assign(effect=effect))


def said(axes):
    return " ".join(axes.get_xlabel().split())


def beside(axes):
    return "\n".join(text.get_text() for text in axes.get_yticklabels())


@pytest.mark.parametrize("by", ["role", "turn"])
def test_shares_are_explained_where_there_are_some(by):
    scores = synthetic.attribution(synthetic.several(8))
    for drawn in (scores, noisy(scores), scores.sel(layer=2), synthetic.patch()):
        axes = role_bars(drawn, by=by)
        assert ("“of effect”:" in said(axes)) == ("of effect" in beside(axes))
    assert "of effect" in beside(role_bars(scores, by=by))
    assert "of effect" not in beside(role_bars(noisy(scores), by=by))
    assert (
        said(role_bars(scores.sel(layer=2), by=by)).count("on all prompt tokens, all cells;") == 1
    )


def test_shares_of_several_are_explained_and_so_is_none():
    scores = synthetic.attribution(synthetic.several(8))
    other = synthetic.attribution(synthetic.several(8), seed=1)
    both = compare_bars({"a": scores, "b": other}, by="role")
    assert "“of effect”: of each one's effect on all prompt tokens" in said(both)
    assert "“–”" not in said(both)
    one = compare_bars({"a": scores, "b": noisy(other)}, by="role")
    assert "/ – of effect" in beside(one)
    assert "“–”: inside its own noise" in said(one)
    neither = compare_bars({"a": noisy(scores), "b": noisy(other)}, by="role")
    assert "of effect" not in beside(neither) + said(neither)
    assert "of effect" not in said(compare_bars({"a": synthetic.graft(), "b": synthetic.graft()}))


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_powers_stand_on_a_scale_of_ratios_wherever_the_training_ended(steps):
    axes = step_curve(synthetic.stepped(synthetic.graft, steps))
    assert (axes.get_xscale() == "log") == STEPS[steps]
    assert ("on a scale of ratios" in said(axes)) == STEPS[steps]


@pytest.mark.parametrize(
    "steps", [(5, 10, 15), (1, 2, 3), (10, 20, 30, 45), (2, 4, 8, 16, 32, 40)], ids=str
)
def test_there_are_no_half_steps(steps):
    axes = step_curve(synthetic.stepped(synthetic.graft, steps))
    axes.figure.canvas.draw()
    low, high = axes.get_xlim()
    shown = [place for place in axes.get_xticks() if low <= place <= high]
    assert len(shown) > 1
    np.testing.assert_array_equal(shown, np.round(shown))
    texts = [text.get_text() for text in axes.get_xticklabels() if text.get_text()]
    assert all(float(text.replace("−", "-")).is_integer() for text in texts)
