"""The kinds of scores: what is declared of them holds, and each shows itself."""

import pytest
import synthetic

from sublim_mech.results.kinds import KINDS

ALL = synthetic.all_scores()


def test_every_kind_is_here():
    assert {scores.kind for scores in ALL.values()} == set(KINDS)


def test_only_attributions_add_up():
    assert [name for name, kind in KINDS.items() if kind.additive] == ["attribution"]
    assert {scores.kind for scores in ALL.values() if scores.additive} == {"attribution"}


def test_only_gradients_are_estimates():
    assert [name for name, kind in KINDS.items() if kind.estimate] == ["gradient"]


@pytest.mark.parametrize("name", ALL)
def test_every_kind_shows_itself(name):
    scores = ALL[name]
    assert scores.title() in repr(scores)
    assert scores._repr_html_().startswith(("<p>", "<pre>", '<div class="slm">'))
    dims = set(scores.data["effect"].dims)
    if "direction" not in dims and not {"head", "set"} <= dims:  # else one must be chosen
        axes = scores.plot()
        axes.figure.draw_without_rendering()
        assert axes.get_title()
