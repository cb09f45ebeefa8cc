"""What traits differ by in all row seeds is no spread of a mean over row seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from sublim_mech import stats

SEEDS, TRAITS = (0, 1, 2, 3), ("owl", "cat", "eagle")


def design(training_seeds: int) -> tuple[list[int], list[str]]:
    cells = [(seed, trait) for seed in SEEDS for trait in TRAITS for _ in range(training_seeds)]
    return [seed for seed, _ in cells], [trait for _, trait in cells]


def without_means(values: np.ndarray, traits: list[str]) -> np.ndarray:
    own = pd.Series(values)
    return (own - own.groupby(traits).transform("mean")).to_numpy()


def test_one_run_per_trait_costs_a_factor_of_its_seeds():
    """r = y - mean of its trait: Var(r) = sigma^2 (S - 1) / S, so sigma^2 = Var(r) S / (S - 1)."""
    seeds, traits = design(1)
    values = np.random.default_rng(0).normal(size=len(seeds))
    found = stats.spread(values, seeds, trait=traits)
    naive = stats.spread(without_means(values, traits), seeds)
    s = len(SEEDS)
    assert found.training_seed**2 == pytest.approx(naive.training_seed**2 * s / (s - 1))
    # with training seeds too, both degrees of freedom stand in the factor
    seeds, traits = design(2)
    values = np.random.default_rng(1).normal(size=len(seeds))
    found = stats.spread(values, seeds, trait=traits)
    naive = stats.spread(without_means(values, traits), seeds)
    n, k = len(seeds), len(TRAITS)
    factor = (n - s) / (n - s - k + 1)
    assert found.training_seed**2 == pytest.approx(naive.training_seed**2 * factor)


def test_fixed_differences_of_traits_move_nothing():
    seeds, traits = design(2)
    values = np.random.default_rng(2).normal(size=len(seeds))
    shift = np.array([{"owl": 3.0, "cat": -1.0, "eagle": 40.0}[trait] for trait in traits])
    found, moved = (stats.spread(v, seeds, trait=traits) for v in (values, values + shift))
    assert (moved.data_set, moved.training_seed) == pytest.approx(
        (found.data_set, found.training_seed)
    )
    assert stats.spread(values + shift, seeds).training_seed > 10


def test_of_one_trait_it_is_the_spread_without_traits():
    seeds = [0, 0, 1, 1, 1, 2]
    values = np.random.default_rng(3).normal(size=6) + np.array(seeds)
    one, other = stats.spread(values, seeds), stats.spread(values, seeds, trait=["owl"] * 6)
    assert (one.data_set, one.training_seed) == pytest.approx((other.data_set, other.training_seed))


def test_unequal_numbers_agree_with_anova_of_statsmodels():
    seeds, traits = design(2)
    keep = [number for number in range(len(seeds)) if number not in (0, 5, 6, 7)]
    seeds, traits = [seeds[i] for i in keep], [traits[i] for i in keep]
    values = np.random.default_rng(4).normal(size=len(seeds)) + np.array(seeds)
    rows = pd.DataFrame({"y": values, "trait": traits, "seed": seeds})
    fitted = smf.ols("y ~ C(trait) + C(seed)", rows).fit()
    found = stats.spread(values, seeds, trait=traits)
    assert found.training_seed**2 == pytest.approx(fitted.mse_resid)


def test_simulated_spreads_are_found_whatever_traits_differ_by():
    """Means over studies of both variances are the true ones; some cells are missing."""
    rng = np.random.default_rng(5)
    seeds, traits = design(2)
    keep = [number for number in range(len(seeds)) if number not in (0, 1, 9, 20)]
    seeds, traits = [seeds[i] for i in keep], [traits[i] for i in keep]
    fixed = np.array([{"owl": 0.5, "cat": 0.0, "eagle": -0.4}[trait] for trait in traits])
    squares = []
    for _ in range(500):
        values = fixed + 0.3 * rng.normal(size=4)[seeds] + 0.1 * rng.normal(size=len(seeds))
        found = stats.spread(values, seeds, trait=traits)
        squares.append((found.data_set**2, found.training_seed**2))
    between, within = np.mean(squares, 0)
    assert within == pytest.approx(0.01, rel=0.05)
    assert between == pytest.approx(0.09, rel=0.12)


@pytest.mark.parametrize(
    ("seeds", "traits", "says"),
    [
        ([0, 0, 1], ["owl", "cat", "owl"], "3 runs of 2 data sets and 2 traits: needs two data"),
        ([0, 0, 1, 1], ["owl", "owl", "cat", "cat"], "each with two traits that the other has"),
        ([0, 0, 1, 1], ["owl", "cat"], "trait has 2 entries for 4 runs"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(seeds, traits, says):
    with pytest.raises(ValueError, match=says):
        stats.spread(np.arange(float(len(seeds))), seeds, trait=traits)
