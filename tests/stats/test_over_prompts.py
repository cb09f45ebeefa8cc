"""Intervals and nulls against closed forms, exhaustive lists and their own promises."""

import math
import warnings
from itertools import product

import numpy as np
import pytest

from sublim_mech.stats import (
    Interval,
    bootstrap_weights,
    max_t,
    mean_interval,
    ratio_interval,
    wilson,
)

RNG = np.random.default_rng(0)


def test_bootstrap_weights_are_counts_over_n():
    weights = bootstrap_weights(7, draws=500)
    assert weights.shape == (500, 7)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights * 7, np.round(weights * 7), atol=1e-12)
    np.testing.assert_allclose(weights.mean(0), 1 / 7, atol=0.02)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4)])
def test_the_interval_of_constant_data_is_the_constant(shape):
    interval = mean_interval(np.full(shape, 2.5))
    for bound in (interval.mean, interval.low, interval.high):
        np.testing.assert_allclose(bound, np.full(shape[1:], 2.5))
    assert np.all(interval.excludes_zero)


def test_the_mean_is_the_mean_and_the_interval_that_of_its_standard_error():
    x = RNG.normal(3, 2, size=(400, 6))
    interval = mean_interval(x)
    np.testing.assert_allclose(interval.mean, x.mean(0))
    error = x.std(0) / 20
    np.testing.assert_allclose(interval.low, x.mean(0) - 1.96 * error, atol=0.15 * error.max())
    np.testing.assert_allclose(interval.high, x.mean(0) + 1.96 * error, atol=0.15 * error.max())


def test_columns_are_resampled_alike_and_apart_from_each_other():
    x = RNG.normal(size=(12, 3))
    whole = mean_interval(x)
    for column in range(3):
        alone = mean_interval(x[:, column])
        np.testing.assert_allclose([whole.low[column], whole.high[column]], [alone.low, alone.high])


def test_intervals_commute_with_scale_and_shift():
    x = RNG.normal(size=20)
    plain, moved = mean_interval(x), mean_interval(3 * x + 1)
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(getattr(moved, name), 3 * getattr(plain, name) + 1)


def test_a_single_prompt_has_no_interval():
    one = mean_interval(np.array([4.0]))
    assert one.mean == 4
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes_zero
    share = ratio_interval(np.array([[1.0, 2.0]]), np.array([4.0]))
    np.testing.assert_array_equal(share.mean, [0.25, 0.5])
    assert np.isnan([share.low, share.high]).all()


def test_two_prompts_have_an_interval():
    """A quarter of the resamples is one prompt twice, a quarter the other: the interval is both."""
    interval = mean_interval(np.array([1.0, 4.0]))
    assert (interval.low, interval.high) == (1, 4)
    ratio = ratio_interval(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    assert (ratio.low, ratio.high) == (0.5, 2)


def test_a_ratio_of_proportional_data_is_known_exactly():
    total = RNG.uniform(1, 2, size=30)
    shares = np.array([[0.2, 0.5], [-1.0, 0.0]])
    interval = ratio_interval(total[:, None, None] * shares, total)
    for bound in (interval.mean, interval.low, interval.high):
        np.testing.assert_allclose(bound, shares, atol=1e-12)


def test_a_ratio_is_of_means_not_a_mean_of_ratios():
    total, part = np.array([1.0, 3.0, 2.0]), np.array([1.0, 0.0, 2.0])
    interval = ratio_interval(part, total)
    assert interval.mean == pytest.approx(0.5)
    assert interval.low <= interval.mean <= interval.high


def test_over_a_total_of_one_a_ratio_is_the_mean_with_its_interval():
    x = RNG.normal(size=(12, 3))
    ratio, mean = ratio_interval(x, np.ones(12)), mean_interval(x)
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(getattr(ratio, name), getattr(mean, name), atol=1e-12)


def test_a_bootstrap_resamples_two_thousand_times_from_seed_zero():
    """As the documentation says; other numbers would change every published interval a little."""
    np.testing.assert_array_equal(bootstrap_weights(4), bootstrap_weights(4, draws=2000, seed=0))
    x = RNG.normal(size=9)
    assert mean_interval(x).low == mean_interval(x, seed=0).low


def test_no_ratio_where_the_total_is_inside_its_noise():
    total = np.array([1.0, -1.1, 0.9, -0.8])
    interval = ratio_interval(np.stack([total, 2 * total], 1), total)
    assert np.isnan([interval.mean, interval.low, interval.high]).all()


def test_a_count_has_no_noise_so_a_ratio_of_a_few_is_known():
    """Tokens of one row in four: their mean is known, and resamples without that row have none."""
    tokens, sums = np.array([0.0, 2.0, 0.0, 0.0]), np.array([0.0, 3.0, 0.0, 0.0])
    found = ratio_interval(sums, tokens, counts=True)
    assert found.mean == 1.5
    assert np.isnan([found.low, found.high]).all()
    nothing = ratio_interval(0 * sums, 0 * tokens, counts=True)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
    assert np.isnan(ratio_interval(sums, tokens).mean)  # of an effect it would be noise


def test_counts_that_all_prompts_have_change_no_interval():
    tokens, sums = RNG.integers(1, 9, size=12).astype(float), RNG.normal(size=12)
    one, other = ratio_interval(sums, tokens), ratio_interval(sums, tokens, counts=True)
    assert (one.mean, one.low, one.high) == (other.mean, other.low, other.high)


def test_an_interval_excludes_zero_on_either_side():
    low, high = np.array([1.0, -2, -1, np.nan, 0, -1]), np.array([2.0, -1, 1, np.nan, 1, 0])
    interval = Interval((low + high) / 2, low, high)
    assert interval.excludes_zero.tolist() == [True, True, False, False, False, False]


def test_the_same_seed_gives_the_same_bytes():
    x = RNG.normal(size=(9, 4))
    for make in (mean_interval, lambda x, seed: ratio_interval(x, x[:, 0] + 9, seed=seed)):
        first, again, other = make(x, seed=1), make(x, seed=1), make(x, seed=2)
        assert first.low.tobytes() == again.low.tobytes()
        assert first.low.tobytes() != other.low.tobytes()


# --------------------------------------------------------------------------------------- sign flips


def t_of(x):
    """Student's t of every column over the prompts that have it, by its definition."""
    n = np.isfinite(x).sum(0)
    return np.nanmean(x, 0) / (np.nanstd(x, 0, ddof=1) / np.sqrt(n))


def brute_force(x):
    """Adjusted p of every column by listing every pattern of signs."""
    observed = np.abs(t_of(x))
    patterns = [np.array(signs)[:, None] for signs in product((1, -1), repeat=len(x))]
    largest = np.array([np.abs(t_of(x * pattern)).max() for pattern in patterns])
    return [np.mean(largest >= t * (1 - 1e-9)) for t in observed]


def correlated(n, cells, rng):
    """Null maps whose neighbouring cells go together (0.8), with heavy tails (symmetric)."""
    x = rng.standard_t(4, size=(n, cells))
    for c in range(1, cells):
        x[:, c] = 0.8 * x[:, c - 1] + 0.6 * x[:, c]
    return x


def test_signs_of_a_case_done_by_hand():
    x = np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    cells = max_t(x)
    assert cells.n == 6
    assert cells.mean == 3.5
    assert cells.t == pytest.approx(3.5 / np.sqrt(3.5 / 6))  # variance of 1 to 6 is 3.5
    assert cells.p == 2 / 64  # only all signs equal reach it
    assert max_t(-x).p == 2 / 64
    assert max_t(-x).t == -cells.t
    # the sum of signed numbers is 19 or more in 4 of 64 patterns: all plus, or minus the 1
    assert max_t(np.array([-1.0, 2, 3, 4, 5, 6])[:, None]).p == 4 / 64


def test_all_patterns_are_listed_for_few_prompts():
    x = RNG.normal(size=(8, 4)) + np.array([0, 0.3, 0.6, 1.2])
    cells = max_t(x)
    np.testing.assert_allclose(cells.t, t_of(x))
    np.testing.assert_allclose(cells.p, brute_force(x))


def test_missing_prompts_are_left_out_cell_by_cell():
    x = RNG.normal(size=(9, 4)) + 0.8
    x[:3, 1], x[5, 2] = np.nan, np.nan
    cells = max_t(x)
    assert cells.n.tolist() == [9, 6, 8, 9]
    np.testing.assert_allclose(cells.t, t_of(x))
    np.testing.assert_allclose(cells.p, brute_force(x))
    few = x.copy()
    few[:4, 3] = np.nan  # five prompts are too few, and such a cell costs the others nothing
    assert np.isnan(max_t(few).p[3])
    np.testing.assert_array_equal(max_t(few).p[:3], max_t(x[:, :3]).p)
    assert np.isnan(max_t(x[:5]).p).all()
    assert max_t(few).noise[3]


def test_of_twelve_prompts_all_patterns_are_taken_of_thirteen_random_ones():
    x = RNG.normal(size=(13, 5)) + 0.4
    for prompts, patterns in ((12, 2**12), (13, 5001)):
        counts = max_t(x[:prompts]).p * patterns
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert max_t(x[:12], seed=1).p.tolist() == max_t(x[:12]).p.tolist()
    assert max_t(x, seed=1).p.tolist() != max_t(x).p.tolist() == max_t(x, seed=0).p.tolist()


def test_a_p_of_five_percent_is_not_below_it():
    cells = max_t(RNG.normal(size=(30, 2)) + 10, draws=19)
    assert cells.p.tolist() == [0.05, 0.05]
    assert cells.noise.all()


def test_random_signs_come_near_all_of_them():
    x = RNG.normal(size=(13, 3)) + np.array([0, 0.4, 0.8])
    np.testing.assert_allclose(max_t(x, draws=20_000).p, brute_force(x), atol=0.01)
    assert max_t(x, seed=1).p.tolist() == max_t(x, seed=1).p.tolist()
    assert max_t(RNG.normal(size=(30, 3)) + 10, draws=999).p.tolist() == [1 / 1000] * 3  # never 0


@pytest.mark.parametrize("copies", [50, 700])  # of 700, patterns are tried in two parts
def test_copies_of_a_cell_cost_nothing(copies):
    x = RNG.normal(size=(11, 1)) + 0.5
    np.testing.assert_array_equal(max_t(np.tile(x, copies)).p, np.full(copies, max_t(x).p))


def test_cells_without_spread():
    x = np.tile([[0.0, 2.0]], (7, 1))
    cells = max_t(x)
    assert cells.t.tolist() == [0, np.inf]
    assert cells.p.tolist() == [1, 2 / 128]


def test_one_prompt_has_no_standard_error_two_have():
    assert np.isnan(max_t(np.array([[0.0, 2.0]])).t).all()
    x = np.array([[1.0], [2.0]])
    np.testing.assert_allclose(max_t(x).t, t_of(x))


def test_tests_do_not_depend_on_the_unit():
    x = RNG.normal(size=(9, 4)) + 0.5
    plain, small = max_t(x), max_t(x / 1024)
    np.testing.assert_array_equal(small.t, plain.t)
    np.testing.assert_array_equal(small.p, plain.p)


def test_axes_are_kept():
    x = RNG.normal(size=(7, 3, 4))
    flat, grid = max_t(x.reshape(7, -1)), max_t(x)
    for name in ("n", "mean", "t", "p"):
        np.testing.assert_array_equal(getattr(grid, name), getattr(flat, name).reshape(3, 4))


@pytest.mark.parametrize(("prompts", "draws"), [(9, None), (20, 400)])
def test_one_null_map_in_twenty_has_a_cell_below_five_percent(prompts, draws):
    rng = np.random.default_rng(3)
    options = {} if draws is None else {"draws": draws}
    maps = 600
    whole = single = 0
    for _ in range(maps):
        x = correlated(prompts, 30, rng)
        cells = max_t(x, **options)
        whole += cells.p.min() < 0.05
        single += max_t(x[:, :1], **options).p[0] < 0.05
    # three standard errors of a share of 5 % of 600 are 2.7 %
    assert 0.023 < whole / maps < 0.077
    assert 0.023 < single / maps < 0.077


def test_a_planted_cell_is_found_and_no_other():
    rng = np.random.default_rng(4)
    times_found = 0
    for _ in range(40):
        x = correlated(20, 200, rng) / 2
        x[:, 77] += 3
        noise = max_t(x, draws=500).noise
        times_found += not noise[77]
        assert noise[(np.arange(200) < 60) | (np.arange(200) > 90)].sum() > 165
    assert times_found >= 38


# -------------------------------------------------------------------------------------- proportions


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_the_literature_and_inverts_the_score_test(count, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    interval = wilson(count, n)
    assert interval == pytest.approx((low, high), abs=5e-5)
    z = 1.959963984540054
    for end in interval:
        if 0 < end < 1:
            assert abs(count / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))
    assert wilson(n - count, n) == pytest.approx((1 - interval[1], 1 - interval[0]))


@pytest.mark.parametrize(("count", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_impossible_counts(count, n):
    with pytest.raises(ValueError, match=f"count={count}, n={n}"):
        wilson(count, n)


def test_numbers_of_no_prompt_and_of_others_are_refused():
    for nothing in (np.array([]), np.zeros((0, 3)), np.array(1.0)):
        with pytest.raises(ValueError, match=r"values has shape .*one number of each prompt"):
            mean_interval(nothing)
    assert np.isnan(mean_interval(np.array([1.0, np.nan])).mean)
    values = np.arange(1.0, 7.0)
    with pytest.raises(ValueError, match=r"denominator has shape \(3,\), numerator \(6,\)"):
        ratio_interval(values, values[:3])
    with pytest.raises(ValueError, match=r"denominator of shape \(6,\)"):
        ratio_interval(values, values[:, None])


def test_a_ratio_whose_resamples_may_be_0_has_no_bounds_and_warns_of_nothing():
    total = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert mean_interval(total).excludes_zero
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ratio_interval(2 * total, total)
    assert found.mean == 2
    assert np.isnan([found.low, found.high]).all()
