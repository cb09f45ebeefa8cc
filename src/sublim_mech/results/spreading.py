"""Scores of spans over the tokens: each span's value at every token of it, as pictures draw it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .record import Record

MIXED = "mixed"
"""Sharing class of a span whose tokens differ in theirs."""

SWITCHED = "switched"
"""Coordinate `(prompt, position)` of scores of spans some of whose tokens were left alone (they had
no donor, or a mask left them out): 1 at those that were switched. The others have no value."""


def spread(data: xr.Dataset) -> xr.Dataset:
    """The same data with an axis `position` in place of `span`.

    The coordinate `span` of `(prompt, position)` is the number of each token's span, -1 of none.
    Tokens of a span that were left alone have no value (NaN).
    Where some spans were refined, `coarse` is 1 at tokens that show the value of one of several.
    """
    if "span" not in data["effect"].dims:
        return data
    first, last = data["first"].values, data["last"].values
    shape = data.sizes["prompt"], data.sizes["position"]
    number = np.full(shape, -1)
    for prompt, of_prompt in enumerate(zip(first, last, strict=True)):
        for span, (start, end) in enumerate(zip(*of_prompt, strict=True)):
            if start >= 0:
                number[prompt, start : end + 1] = span
    effect = data["effect"]
    dims = [str(dim) for dim in effect.dims]
    values = effect.transpose("prompt", "span", ...)
    others = [str(dim) for dim in values.dims[2:]]
    taken = np.stack([of[at] for of, at in zip(values.values, number, strict=True)])
    taken[(number < 0) | ~_switched(data, number)] = np.nan
    tokens = xr.DataArray(taken, dims=("prompt", "position", *others))
    order = ["position" if dim == "span" else dim for dim in dims]
    coords = {"span": (("prompt", "position"), number)}
    if "refined" in data.coords:
        single = np.stack([of[at] for of, at in zip(data["refined"].values, number, strict=True)])
        coords["coarse"] = (("prompt", "position"), ((number >= 0) & (single == 0)).astype(int))
    without = data.drop_vars(["effect", *(n for n in data.coords if "span" in data[n].dims)])
    return without.assign(effect=tokens.transpose(*order)).assign_coords(coords)


def of_spans(data: xr.Dataset, values: np.ndarray) -> np.ndarray:
    """A coordinate of the tokens `(prompt, position)` as it is of their spans: `MIXED` where those
    of one span that were switched differ; the same where cells are no spans.

    Args:
        data: spread over tokens.
        values: the coordinate.
    """
    if "span" not in data.coords:
        return values
    told = values.astype(object)
    spans = data["span"].values
    spans = np.where(_switched(data, spans), spans, -1)
    for of_prompt, numbers in zip(told, spans, strict=True):
        for number in np.unique(numbers[numbers >= 0]):
            inside = numbers == number
            if len(set(of_prompt[inside].tolist())) > 1:
                of_prompt[inside] = MIXED
    return told


def _switched(data: xr.Dataset, like: np.ndarray) -> np.ndarray:
    """`(prompt, position)`: which tokens were switched; all of them where nothing says else."""
    return data[SWITCHED].values == 1 if SWITCHED in data.coords else np.ones(like.shape, bool)


def tokens_of_span(data: xr.Dataset, prompt: int, span: int) -> int:
    """How many tokens of a span were switched."""
    first, last = (int(data[name].values[prompt, span]) for name in ("first", "last"))
    if SWITCHED not in data.coords:
        return last - first + 1
    return int(data[SWITCHED].values[prompt, first : last + 1].sum())


def switched_in_words(data: xr.Dataset, record: Record) -> str:
    """Which tokens of spans were switched, and how many of all; empty where all were."""
    if SWITCHED not in data.coords:
        return ""
    there = data["role"].values != ""
    some, count = int(data[SWITCHED].values[there].sum()), int(there.sum())
    whose = "with a donor" if record.site is not None else "that only= holds"
    return f"{whose} ({some} of {count} tokens)"


def drawn(record: Record, data: xr.Dataset) -> str | None:
    """That tokens of a picture show the value of their span; None where each has its own."""
    if record.spans in (None, "1 token"):
        return None
    whose = "them" if record.spans.endswith(" tokens") else "its tokens"
    rest = "" if record.refined is None else "; tokens of refined spans have their own"
    which = switched_in_words(data, record)
    return f"one value per {record.spans}, drawn on each of {whose}{which and f' {which}'}{rest}"
