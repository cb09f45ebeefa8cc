"""An effect of the size of rounding is told as that, and has no shares."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

import sublim_mech as sm
from sublim_mech.results.record import BaseSource, Compute
from sublim_mech.results.rounding import FLOOR, floor_at, floor_of, is_rounding, known_to
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


def of_type(scores: Scores, dtype: str) -> Scores:
    """The same scores, of models in another floating-point type."""
    return synthetic.recorded(scores, base=BaseSource("base", "0" * 8, dtype))


def test_one_prompt_of_models_in_half_precision_is_known_to_their_roundings():
    """Bounds by hand: of two values, each known to two roundings of 2^-7 or 2^-10."""
    scores = synthetic.graft()
    largest = np.abs(scores.total.values).max()
    scores = as_small_as_rounding(scores, 0.1 / largest)
    one = replace(scores, data=scores.data.isel(prompt=[int(np.abs(scores.total.values).argmax())]))
    size = max(float(np.abs(one.data[name]).max()) for name in ("base", "student"))
    assert known_to(of_type(one, "bfloat16")) == pytest.approx(4 * 2**-7 * size)
    assert known_to(of_type(one, "float16")) == pytest.approx(4 * 2**-10 * size)
    assert known_to(one) == floor_of(one) == known_to(of_type(one, "float64"))
    assert 4 * 2**-10 * size < 0.1 < 4 * 2**-7 * size

    told = "the total effect is of the size of rounding (at most 0.1 nats on any prompt)"
    for dtype, hidden in (("float32", False), ("float16", False), ("bfloat16", True)):
        same = of_type(one, dtype)
        assert same.sets()["sufficiency"].isna().all() == hidden
        assert (told in repr(same)) == hidden
        # whatever is known to less than fp32 is said to be, with shares or without
        assert (f"models in {dtype}: up to" in repr(same)) == (dtype != "float32")
    # the interval of several prompts has what rounding does to them
    assert not of_type(scores, "bfloat16").sets()["sufficiency"].isna().any()


def test_one_prompt_in_half_products_is_known_to_the_error_that_was_measured():
    scores = synthetic.graft()
    one = replace(scores, data=scores.data.isel(prompt=[0]))
    size = float(np.abs(one.total.values).max())
    for error, hidden in ((1.1 * size, True), (0.9 * size, False)):
        same = synthetic.recorded(one, compute=Compute("bfloat16", error))
        assert same.sets()["sufficiency"].isna().all() == hidden
