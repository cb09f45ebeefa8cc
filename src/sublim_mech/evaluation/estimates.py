"""Estimates over questions as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from ..results.frames import Table
from ..stats import DRAWS, Interval, mean_interval


def over_questions(values: xr.DataArray) -> Interval:
    """The mean over questions with its interval; the other axes stay in their order."""
    return mean_interval(values.transpose("question", ...).values)


def bounds(name: str, interval: Interval, like: xr.DataArray) -> dict[str, xr.DataArray]:
    """Columns `<name> low` and `<name> high`, labelled as `like`."""
    return {
        f"{name} low": like.copy(data=interval.low),
        f"{name} high": like.copy(data=interval.high),
    }


def median_bounds(values: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile-bootstrap interval of the median over the first axis.

    Args:
        values: `(question, ...)`.
        seed: of the resampling.

    Returns:
        Lower and upper ends `(...)`; NaN for a single question.
    """
    questions, *shape = values.shape
    if questions < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    drawn = np.random.default_rng(seed).integers(questions, size=(DRAWS, questions))
    ends = []
    for cell in values.reshape(questions, -1).T:
        ends.append(np.percentile(np.median(cell[drawn], axis=1), [2.5, 97.5]))
    low, high = np.array(ends).T
    return low.reshape(shape), high.reshape(shape)


def frame(columns: Mapping[str, xr.DataArray], index: tuple[str, ...]) -> pd.DataFrame:
    """Arrays of the same labels as columns, in the order of the labels."""
    first = next(iter(columns.values())).transpose(*index)
    labels = [first[dimension].values.tolist() for dimension in index]
    rows = pd.MultiIndex.from_product(labels, names=index)
    flat = {name: array.transpose(*index).values.ravel() for name, array in columns.items()}
    return Table(flat, rows)
