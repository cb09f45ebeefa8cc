"""Least p, detectable effects and adjusted p against closed forms, statsmodels and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from sublim_mech.stats import (
    Spread,
    benjamini_hochberg,
    cluster_t,
    least_p,
    minimum_detectable_effect,
)


def test_least_p_is_one_in_all_assignments():
    assert least_p([2]) == 1 / 2
    assert least_p([4]) == 1 / 24
    assert least_p([3, 3, 3]) == pytest.approx(1 / 216)
    assert least_p([3, 1]) == 1 / 6
    with pytest.raises(ValueError, match="0; each row seed has at least 1"):
        least_p([3, 0])


@pytest.mark.parametrize("data_sets", [2, 3, 9, 30])
def test_the_detectable_effect_is_that_of_a_power_analysis(data_sets):
    found = minimum_detectable_effect(
        Spread(0.2, 0.1, 0.5), data_sets=data_sets, training_seeds=3, prompts=50
    )
    error = math.sqrt((0.2**2 + 0.1**2 / 3 + 0.5**2 / 150) / data_sets)
    assert found.standard_error == pytest.approx(error)
    power = TTestPower().power(found.effect / (error * math.sqrt(data_sets)), data_sets, 0.05)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_it_is_found_in_four_of_five_studies():
    plan = minimum_detectable_effect(Spread(0.05, 0.04), data_sets=3, training_seeds=3)
    rng, found = np.random.default_rng(0), 0
    data_set = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for _ in range(800):
        values = plan.effect + 0.05 * rng.normal(size=3)[data_set] + 0.04 * rng.normal(size=9)
        low, high = cluster_t(values, data_set)[2:]
        found += low > 0 or high < 0
    assert found / 800 == pytest.approx(0.8, abs=0.05)


def test_more_of_anything_finds_less_and_data_sets_count_most():
    spread = Spread(0.2, 0.1, 0.5)

    def effect(**plan):
        return minimum_detectable_effect(spread, **plan).effect

    base = effect(data_sets=3, training_seeds=3, prompts=10)
    assert effect(data_sets=3, training_seeds=3, prompts=20) < base
    assert effect(data_sets=3, training_seeds=6, prompts=10) < base
    assert effect(data_sets=6, training_seeds=3, prompts=10) < 0.6 * base


def test_one_data_set_finds_nothing():
    found = minimum_detectable_effect(Spread(0.2, 0.1), data_sets=1, training_seeds=9)
    assert math.isinf(found.effect)
    assert "no effect could be told" in repr(found)


@pytest.mark.parametrize(
    ("plan", "says"),
    [({"data_sets": 0}, "data_sets=0"), ({"data_sets": 2, "power": 0.05}, "power=0.05")],
)
def test_what_is_no_plan_is_refused(plan, says):
    with pytest.raises(ValueError, match=says):
        minimum_detectable_effect(Spread(0.2, 0.1), **plan)


def test_adjusted_p_are_those_of_scipy_and_statsmodels():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        p = rng.random(count) ** 3
        np.testing.assert_allclose(benjamini_hochberg(p), scipy_stats.false_discovery_control(p))
        theirs = multipletests(p, method="fdr_bh")[1]
        np.testing.assert_allclose(benjamini_hochberg(p), theirs)


def test_what_was_not_tested_does_not_count():
    p = np.array([[0.01, np.nan], [0.04, 0.5]])
    found = benjamini_hochberg(p)
    assert np.isnan(found[0, 1])
    np.testing.assert_allclose(found[np.isfinite(p)], benjamini_hochberg(p[np.isfinite(p)]))
    assert benjamini_hochberg(np.array([])).shape == (0,)
    with pytest.raises(ValueError, match=r"1\.5 is no probability"):
        benjamini_hochberg(np.array([1.5]))


def test_a_level_that_is_no_probability_is_named():
    for level in (5, 0, 1):
        with pytest.raises(ValueError, match=f"level={level}: a probability between 0 and 1"):
            minimum_detectable_effect(Spread(0.1, 0.1), data_sets=3, level=level)


def test_p_values_told_together_may_be_a_list():
    listed = [0.01, 0.04, 0.03]
    assert benjamini_hochberg(listed).tolist() == benjamini_hochberg(np.array(listed)).tolist()
