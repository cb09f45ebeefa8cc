"""Several tests told together: the share of false ones among those that are believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import checked


@checked
def benjamini_hochberg(p: np.ndarray | Sequence[float]) -> np.ndarray:
    """p-values adjusted for being told together; below 0.05 at most 5 % of finds are false.

    Where no effect is there at all, some adjusted p is below 0.05 in at most 5 % of cases.

    Args:
        p: an array of any shape, or a list; NaN where nothing was tested, which stays and does not
            count.

    Returns:
        Of the sorted m values the smallest of p[j] x m / j over j at or above its own place.

    Raises:
        ValueError: a p outside 0 to 1.

    Example:
        >>> from sublim_mech.stats import benjamini_hochberg
        >>> benjamini_hochberg([0.01, 0.02, 0.9])
        array([0.03, 0.03, 0.9 ])

    Source: Benjamini & Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x), for tests that are
    independent or positively dependent (Benjamini & Yekutieli 2001).
    """
    given = np.asarray(p, float)
    tested = np.isfinite(given)
    values = given[tested]
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"p: {values[(values < 0) | (values > 1)][0]} is no probability.")
    order = np.argsort(values)[::-1]  # from the largest
    count = len(values)
    scaled = values[order] * count / np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    out = np.full(given.shape, np.nan)
    out[tested] = adjusted
    return out
