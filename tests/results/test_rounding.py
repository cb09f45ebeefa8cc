"""An effect of the size of rounding is told as that, and has no shares."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

import sublim_mech as sm
from sublim_mech.results.rounding import FLOOR, floor_at, floor_of, is_rounding
from sublim_mech.results.scores import Scores

SIZE = 1e-7


def as_small_as_rounding(scores: Scores, size: float = SIZE) -> Scores:
    """The same scores, all effects that much smaller."""
    data = scores.data.copy(deep=True)
    data["student"] = data["base"] + size * (data["student"] - data["base"])
    data["effect"] = size * data["effect"]
    return replace(scores, data=data)


def test_rounding_is_relative_to_the_metric_not_to_its_noise():
    scores = synthetic.graft()
    small = as_small_as_rounding(scores)
    largest = np.abs(small.data["base"].values).max()
    assert floor_at(np.array([-8.8])) == pytest.approx(1.7e-5, rel=0.02)
    assert floor_of(small) == pytest.approx(FLOOR * np.finfo(np.float32).eps * largest, rel=0.1)
    assert is_rounding(small.total.values, small)
    assert not is_rounding(0 * small.total.values, small)  # that is exactly nothing
    assert not is_rounding(scores.total.values, scores)
    # one prompt that moved is an effect
    one = small.total.values.copy()
    one[0] = 0.01
    assert not is_rounding(one, small)
    # probabilities have small numbers of their own
    tiny = floor_at(np.array([7e-5]), np.array([7.1e-5]))
    assert tiny < 1e-9


def test_a_graft_of_rounding_has_no_shares_and_no_headline_of_the_controls():
    scores = synthetic.graft()
    assert not scores.sets()["sufficiency"].isna().any()
    assert "rounding" not in repr(scores)
    small = as_small_as_rounding(scores)
    assert small.sets().filter(like="ness").isna().all(axis=None)
    assert small.sets().filter(like="suff").isna().all(axis=None)
    told = (
        "the total effect is of the size of rounding (at most "
        f"{np.abs(small.total.values).max():.1g} nats on any prompt): no shares are given"
    )
    assert told in repr(small)
    assert "inside its own noise" not in repr(small)
    assert "the controls'" not in repr(small)
    one = replace(small, data=small.data.isel(prompt=[0]))
    assert one.sets()["sufficiency"].isna().all()
    assert "of the size of rounding" in repr(one)


def test_an_attribution_of_rounding_concludes_nothing():
    scores = synthetic.attribution(synthetic.several(8))
    small = as_small_as_rounding(scores, 1e-8)
    told = "no shares: the effect on the prompt's tokens, all cells, is of the size of rounding"
    assert told not in repr(scores)
    assert told in repr(small)
    assert small.by("role")["share"].isna().all()
    found = sm.concentration(small, on="shared")
    assert np.isnan([found.share, found.p, found.answer_share]).all()
    assert "No conclusion" in repr(found)
    assert "is of the size of rounding" in repr(found)
    assert np.isnan(
        sm.concentration(replace(small, data=small.data.isel(prompt=[0])), on="shared").share
    )
