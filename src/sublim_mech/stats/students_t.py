"""Student's t and Fisher's F: probabilities, quantiles and power, without scipy.

Both follow from the regularised incomplete beta function I_x(a, b), evaluated as a continued
fraction (DLMF 8.17.22, https://dlmf.nist.gov/8.17; Lentz's method). Quantiles are found by
bisection; power integrates the normal distribution over the sampling distribution of the spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..arguments import checked

_TINY = 1e-300
_STEPS = 1000  # of the continued fraction; 50 are enough unless a degree of freedom is huge


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the distribution function of a beta variable."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below the mean
        return 1 - _incomplete_beta(1 - x, b, a)
    logged = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    logged -= math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    fraction = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = 1 + term / c
            c = c if abs(c) > _TINY else _TINY
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(logged) * fraction


def _bisect(rising: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a rising function reaches a value, between two bounds."""
    while True:
        middle = (low + high) / 2
        if not low < middle < high:  # no number is left between them
            return middle
        if rising(middle) < target:
            low = middle
        else:
            high = middle


def _check_freedom(**degrees: float) -> None:
    for name, value in degrees.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: degrees of freedom are above 0.")


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value}: a probability between 0 and 1 is needed.")


@checked
def two_sided_p(t: float, df: float) -> float:
    """Probability that |t| is at least this large, with `df` degrees of freedom.

    Args:
        t: the statistic; NaN gives NaN.
        df: degrees of freedom, above 0.

    Raises:
        ValueError: no degrees of freedom.

    Example:
        >>> from sublim_mech.stats import two_sided_p
        >>> round(two_sided_p(4.303, 2), 3)
        0.05

    Source: Student 1908; DLMF 8.17.
    """
    _check_freedom(df=df)
    if math.isnan(t):
        return math.nan
    return _incomplete_beta(df / (df + t * t), df / 2, 0.5)


@checked
def quantile_of_t(probability: float, df: float) -> float:
    """The t below which a share of Student's distribution lies.

    Args:
        probability: between 0 and 1.
        df: degrees of freedom, above 0.

    Raises:
        ValueError: a probability outside, or no degrees of freedom.

    Example:
        >>> from sublim_mech.stats import quantile_of_t
        >>> round(quantile_of_t(0.975, 2), 3)
        4.303

    Source: Student 1908; by bisection.
    """
    _check_freedom(df=df)
    _check_probability("probability", probability)
    return _quantile(probability, df)


@lru_cache(maxsize=1024)
def _quantile(probability: float, df: float) -> float:
    if probability == 0.5:
        return 0.0
    tail = 2 * min(probability, 1 - probability)
    # in y = df / (df + t^2) the tail is I_y(df / 2, 1 / 2)
    y = _bisect(lambda y: _incomplete_beta(y, df / 2, 0.5), tail, 0.0, 1.0)
    size = math.sqrt(df * (1 - y) / y) if y > 0 else math.inf
    return size if probability > 0.5 else -size


@checked
def quantile_of_f(probability: float, df: float, df_below: float) -> float:
    """The F below which a share of Fisher's distribution lies.

    Args:
        probability: between 0 and 1.
        df: degrees of freedom of the numerator.
        df_below: of the denominator.

    Raises:
        ValueError: a probability outside, or no degrees of freedom.

    Example:
        >>> from sublim_mech.stats import quantile_of_f
        >>> round(quantile_of_f(0.95, 2, 6), 2)
        5.14

    Source: Snedecor 1934; by bisection.
    """
    _check_freedom(df=df, df_below=df_below)
    _check_probability("probability", probability)
    x = _bisect(lambda x: _incomplete_beta(x, df / 2, df_below / 2), probability, 0.0, 1.0)
    return df_below * x / (df * (1 - x)) if x < 1 else math.inf


@checked
def power_of_t(effect: float, df: float, *, level: float = 0.05) -> float:
    """How often a two-sided t test finds an effect.

    Args:
        effect: in standard errors of its estimate (the noncentrality).
        df: degrees of freedom, above 0.
        level: of the test.

    Returns:
        The probability that |t| exceeds its critical value, on either side; `level` for no effect.

    Raises:
        ValueError: a level outside 0 to 1, or no degrees of freedom.

    Example:
        >>> from sublim_mech.stats import power_of_t
        >>> round(power_of_t(0.0, 2), 3), round(power_of_t(5.0, 2), 2)
        (0.05, 0.72)

    Source: the noncentral t distribution (Johnson & Kotz 1970, chapter 31): P(|Z + effect| >
    critical x S), averaged over S, the square root of a chi-square over its degrees of freedom.
    """
    _check_freedom(df=df)
    _check_probability("level", level)
    critical = quantile_of_t(1 - level / 2, df)
    points, weights = _spreads(df)
    cut = critical * points
    missed = _normal(cut - effect) - _normal(-cut - effect)
    return float(1 - weights @ missed)


@lru_cache(maxsize=256)
def _spreads(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of S with the probabilities they stand for (Gauss-Legendre, 400 points)."""
    wide = 12 / math.sqrt(2 * df)
    low, high = max(0.0, 1 - wide), 1 + wide
    nodes, lengths = np.polynomial.legendre.leggauss(400)
    points = (high - low) / 2 * nodes + (high + low) / 2
    logged = df / 2 * math.log(df / 2) - math.lgamma(df / 2) + math.log(2)
    densities = np.exp(logged + (df - 1) * np.log(points) - df / 2 * points**2)
    weights = densities * lengths
    return points, weights / weights.sum()


def _normal(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
