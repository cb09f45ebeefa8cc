"""Intervals over data sets, against closed forms, statsmodels, and their own promise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.weightstats import DescrStatsW

from sublim_mech.stats import (
    FEWEST_DATA_SETS,
    Spread,
    cluster_t,
    intraclass_correlation,
    nested_bootstrap,
    nested_interval,
    spread,
)


def study(rng, data_sets, seeds, prompts=1, sizes=(1.0, 0.5, 0.5)):
    """Values `(run, prompt)` and data sets of a balanced nested design."""
    of_data = np.repeat(rng.normal(size=data_sets) * sizes[0], seeds)
    values = of_data[:, None] + rng.normal(size=(data_sets * seeds, 1)) * sizes[1]
    values = values + rng.normal(size=(data_sets * seeds, prompts)) * sizes[2] * (prompts > 1)
    return values, [f"rows {i // seeds}" for i in range(data_sets * seeds)]


def test_t_is_that_of_the_means_of_data_sets():
    values, data_set = study(np.random.default_rng(0), 5, 3, 4)
    means = values.reshape(5, 12).mean(1)
    found = nested_interval(values, data_set)
    theirs = DescrStatsW(means)
    assert (found.t_low, found.t_high) == pytest.approx(theirs.tconfint_mean())
    assert found.standard_error == pytest.approx(theirs.std_mean)
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)
    # balanced: the same as the regression on a constant with cluster-robust errors (CR1)
    codes = np.repeat(range(5), 3)
    options = {"groups": codes, "use_correction": True, "df_correction": True}
    robust = OLS(values.mean(1), np.ones(15)).fit(cov_type="cluster", cov_kwds=options)
    assert found.standard_error == pytest.approx(robust.bse[0])


def test_every_data_set_counts_alike():
    found = nested_interval(np.array([1.0, 1.0, 1.0, 4.0]), ["a", "a", "a", "b"])
    assert found.mean == 2.5
    assert found.standard_error == pytest.approx(1.5)
    assert (found.data_sets, found.runs) == (2, 4)


def test_order_and_names_of_data_sets_do_not_matter():
    values, data_set = study(np.random.default_rng(1), 4, 2)
    order = np.random.default_rng(2).permutation(8)
    one = nested_interval(values, data_set)
    other = nested_interval(values[order], [(data_set[i], 7) for i in order])
    assert (one.mean, one.t_low, one.p) == pytest.approx((other.mean, other.t_low, other.p))


def test_below_fifteen_data_sets_t_decides():
    rng = np.random.default_rng(3)
    few, data_set = study(rng, FEWEST_DATA_SETS - 1, 2)
    found = nested_interval(few, data_set)
    assert found.decides == "t"
    assert (found.low, found.high) == (found.t_low, found.t_high)
    many, data_set = study(rng, FEWEST_DATA_SETS, 2)
    found = nested_interval(many, data_set)
    assert found.decides == "bootstrap"
    assert (found.low, found.high) == (found.bootstrap_low, found.bootstrap_high)


def test_one_data_set_has_no_interval():
    found = nested_interval(np.array([0.3, 0.4]), ["a", "a"])
    assert np.isnan([found.low, found.high, found.bootstrap_low, found.p]).all()
    assert not found.excludes_zero
    assert "no interval over data sets" in repr(found)


def test_data_sets_that_are_all_the_same():
    found = nested_interval(np.array([0.25] * 3), [1, 2, 3])
    assert (found.low, found.high, found.p) == (0.25, 0.25, 0)
    assert nested_interval(np.zeros(3), [1, 2, 3]).p == 1


def test_the_bootstrap_is_as_wide_as_the_spreads_say():
    """Without double counting: its spread is the standard error of the design."""
    values, data_set = study(np.random.default_rng(4), 40, 3, 5, sizes=(0.3, 1.0, 1.0))
    low, high = nested_bootstrap(values, data_set, draws=8000)
    error = spread(values, data_set).standard_error(40, 3, 5)
    reach = scipy_stats.t.ppf(0.975, 39) * error
    assert high - low == pytest.approx(2 * reach, rel=0.06)


def test_the_bootstrap_of_single_runs_is_the_plain_one():
    values = np.random.default_rng(5).normal(size=(60, 1))
    low, high = nested_bootstrap(values, list(range(60)), draws=8000)
    error = values.std(ddof=1) / math.sqrt(60)
    reach = scipy_stats.t.ppf(0.975, 59) * error
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.05)


def test_prompts_that_all_runs_share_are_drawn_once():
    """A prompt's own level does not average out over runs."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(1, 10)) + 0.01 * rng.normal(size=(40, 10))
    own = nested_bootstrap(values, list(range(40)))
    shared = nested_bootstrap(values, list(range(40)), same_prompts=True)
    assert shared[1] - shared[0] > 3 * (own[1] - own[0])


def test_same_seed_same_bounds():
    values, data_set = study(np.random.default_rng(7), 4, 2, 3)
    assert nested_bootstrap(values, data_set) == nested_bootstrap(values, data_set, seed=0)
    assert nested_bootstrap(values, data_set) != nested_bootstrap(values, data_set, seed=1)


@pytest.mark.parametrize(
    ("values", "data_set", "says"),
    [
        (np.zeros((2, 2, 2)), ["a", "b"], r"shape \(2, 2, 2\)"),
        (np.zeros(0), [], r"shape \(0,\)"),
        (np.zeros(3), ["a", "b"], "data_set has 2 entries for 3 runs"),
        (np.array([1.0, np.nan]), ["a", "b"], "NaN or infinite"),
    ],
)
def test_what_cannot_be_a_study_is_refused(values, data_set, says):
    with pytest.raises(ValueError, match=says):
        nested_interval(values, data_set)


# ------------------------------------------------------------------------------------------ spreads


def test_spreads_are_those_of_a_mixed_model():
    """Balanced: REML equals the analysis of variance."""
    values, data_set = study(np.random.default_rng(8), 12, 4)
    table = pd.DataFrame({"y": values.mean(1), "data": data_set})
    fitted = MixedLM.from_formula("y ~ 1", table, groups="data").fit(reml=True)
    found = spread(values, data_set)
    assert found.data_set == pytest.approx(math.sqrt(float(fitted.cov_re.iloc[0, 0])), rel=1e-3)
    assert found.training_seed == pytest.approx(math.sqrt(fitted.scale), rel=1e-3)
    icc = intraclass_correlation(values, data_set).icc
    assert icc == pytest.approx(
        found.data_set**2 / (found.data_set**2 + found.training_seed**2), rel=1e-9
    )


def test_spreads_are_found_again():
    values, data_set = study(np.random.default_rng(9), 400, 3, 6, sizes=(1.0, 0.5, 2.0))
    found = spread(values, data_set)
    sizes = found.data_set, found.training_seed, found.prompt
    assert sizes == pytest.approx((1.0, 0.5, 2.0), rel=0.1)


def test_the_design_effect_is_the_variance_over_that_of_independent_runs():
    values, data_set = study(np.random.default_rng(10), 6, 3)
    found = intraclass_correlation(values, data_set)
    assert found.design_effect == pytest.approx(1 + 2 * found.icc)
    assert found.independent_runs == pytest.approx(18 / found.design_effect)
    same = intraclass_correlation(np.repeat(np.arange(4.0), 3), list(np.repeat(range(4), 3)))
    assert (same.icc, same.design_effect, same.independent_runs) == (1, 3, 4)


def test_the_interval_of_the_correlation_covers_it():
    rng, inside = np.random.default_rng(11), 0
    for _ in range(300):
        found = intraclass_correlation(*study(rng, 8, 3, sizes=(1.0, 1.0, 0.0)))
        inside += found.low <= 0.5 <= found.high
    assert 0.91 <= inside / 300 <= 0.985


def test_unequal_data_sets_have_their_own_size():
    """n0 of Searle et al.: (N - sum n^2 / N) / (G - 1)."""
    values, data_set = np.array([1.0, 3.0, 5.0, 8.0, 8.0]), ["a", "a", "b", "b", "b"]
    between = 2 * (2 - 5) ** 2 + 3 * (7 - 5) ** 2
    within, average = (1 + 1 + 4 + 1 + 1) / 3, 5 - 13 / 5
    icc = (between - within) / (between + (average - 1) * within)
    assert intraclass_correlation(values, data_set).icc == pytest.approx(icc)


def test_spreads_need_two_seeds_and_two_data_sets():
    for data_set in (["a", "a"], ["a", "b"]):
        with pytest.raises(ValueError, match="needs two data sets"):
            spread(np.array([1.0, 2.0]), data_set)
    with pytest.raises(ValueError, match="training_seed=-1"):
        Spread(1.0, -1)


# ----------------------------------------------------------------------------------------- coverage


def coverage(studies, data_sets, seeds, prompts, sizes, *, seed=0):
    rng, inside = np.random.default_rng(seed), 0
    for _ in range(studies):
        values, data_set = study(rng, data_sets, seeds, prompts, sizes)
        low, high = cluster_t(values, data_set)[2:]
        if data_sets >= FEWEST_DATA_SETS:
            low, high = nested_bootstrap(values, data_set, draws=1000)
        inside += low < 0 < high
    return inside / studies


def test_intervals_cover_the_truth():
    """Of 1,000 studies 95 % with a standard error of 0.7 %."""
    assert 0.93 <= coverage(1000, 3, 3, 1, (1.0, 0.5, 0.0)) <= 0.97


@pytest.mark.science
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 0.3, 0.3), (0.3, 1, 1)])
@pytest.mark.parametrize("design", [(2, 1, 1), (3, 3, 10), (10, 3, 1), (15, 3, 10), (30, 2, 1)])
def test_intervals_of_nested_data_cover_93_to_97_percent(design, sizes):
    share = coverage(1500, *design, sizes)
    print(f"{design} {sizes}: {share:.1%}")
    assert 0.93 <= share <= 0.97


def test_no_spread_is_told_and_levels_are_probabilities():
    assert "identical" in repr(nested_interval(np.array([0.1, 0.1, 0.1]), [1, 2, 3]))
    assert "identical" not in repr(nested_interval(np.array([0.1, 0.1, 0.2]), [1, 2, 3]))
    with pytest.raises(ValueError, match="level=5: a probability"):
        cluster_t(np.array([1.0, 2.0]), [1, 2], level=5)
