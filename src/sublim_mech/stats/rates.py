"""Several tests told together: the share of false ones among those that are believed."""

from __future__ import annotations

import numpy as np

from ..arguments import checked


@checked
def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for being told together; below 0.05 at most 5 % of finds are false.

    Where no effect is there at all, some adjusted p is below 0.05 in at most 5 % of cases.

    Args:
        p: any shape; NaN where nothing was tested, which stays and does not count.

    Returns:
        Of the sorted m values the smallest of p[j] x m / j over j at or above its own place.

    Raises:
        ValueError: a p outside 0 to 1.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.stats import benjamini_hochberg
        >>> benjamini_hochberg(np.array([0.01, 0.02, 0.9]))
        array([0.03, 0.03, 0.9 ])

    Source: Benjamini & Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x), for tests that are
    independent or positively dependent (Benjamini & Yekutieli 2001).
    """
    tested = np.isfinite(p)
    values = np.asarray(p, float)[tested]
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"p: {values[(values < 0) | (values > 1)][0]} is no probability.")
    order = np.argsort(values)[::-1]  # from the largest
    count = len(values)
    scaled = values[order] * count / np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    out = np.full(np.shape(p), np.nan)
    out[tested] = adjusted
    return out
