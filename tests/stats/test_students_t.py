"""t, F and power against scipy and statsmodels, which compute them in other ways."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from sublim_mech.stats import power_of_t, quantile_of_f, quantile_of_t, two_sided_p

FREEDOM = (1.0, 2.0, 2.5, 9.0, 99.5, 10_000.0)


@pytest.mark.parametrize("df", FREEDOM)
def test_t_is_scipys(df):
    for t in (0.0, 0.1, -1.0, 4.3, 30.0, 1e3):
        expected = 2 * scipy_stats.t.sf(abs(t), df)
        assert two_sided_p(t, df) == pytest.approx(expected, rel=1e-10)
    for probability in (1e-6, 0.025, 0.5, 0.9, 0.975, 0.9999):
        expected = scipy_stats.t.ppf(probability, df)
        assert quantile_of_t(probability, df) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_t_of_one_and_two_degrees_of_freedom_in_closed_form():
    assert quantile_of_t(0.75, 1) == pytest.approx(1)  # Cauchy
    assert two_sided_p(math.sqrt(2), 2) == pytest.approx(1 - math.sqrt(2) / 2)
    assert math.isnan(two_sided_p(math.nan, 3))


@pytest.mark.parametrize(("df", "below"), [(1, 1), (2, 6), (30, 4), (500, 3)])
def test_f_is_scipys(df, below):
    for probability in (0.025, 0.5, 0.975):
        expected = scipy_stats.f.ppf(probability, df, below)
        assert quantile_of_f(probability, df, below) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("df", [1, 2, 3, 8, 40])
def test_power_is_that_of_the_noncentral_t(df):
    assert power_of_t(0, df) == pytest.approx(0.05)
    critical = scipy_stats.t.ppf(0.975, df)
    for effect in (0.5, 2.0, 4.0):
        tails = scipy_stats.nct.sf(critical, df, effect), scipy_stats.nct.cdf(-critical, df, effect)
        assert power_of_t(effect, df) == pytest.approx(sum(tails), abs=1e-9)
        # statsmodels: effect in standard deviations, of n = df + 1
        theirs = TTestPower().power(effect / math.sqrt(df + 1), df + 1, 0.05)
        assert power_of_t(effect, df) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: two_sided_p(1.0, 0.0), "df=0.0: degrees of freedom are above 0"),
        (lambda: quantile_of_t(1.0, 3), "probability=1.0"),
        (lambda: quantile_of_f(0.5, 3, -1), "df_below=-1"),
        (lambda: power_of_t(1.0, 3, level=0.0), "level=0.0"),
    ],
)
def test_what_is_no_probability_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_power_by_simulation():
    """One-sample t of three: the share of rejections."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(40_000, 3)) + 3.0
    t = samples.mean(1) / (samples.std(1, ddof=1) / math.sqrt(3))
    share = np.mean(np.abs(t) > quantile_of_t(0.975, 2))
    assert share == pytest.approx(power_of_t(3.0 * math.sqrt(3), 2), abs=0.01)
