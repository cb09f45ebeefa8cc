"""Scores of spans over the tokens: each span's value at every token of it, as pictures draw it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .record import Record


def spread(data: xr.Dataset) -> xr.Dataset:
    """The same data with an axis `position` in place of `span`.

    Where some spans were refined, the coordinate `coarse` of `(prompt, position)` is 1 at tokens
    that show the value of a span of several.
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
    taken[number < 0] = np.nan
    tokens = xr.DataArray(taken, dims=("prompt", "position", *others))
    order = ["position" if dim == "span" else dim for dim in dims]
    coords = {}
    if "refined" in data.coords:
        single = np.stack([of[at] for of, at in zip(data["refined"].values, number, strict=True)])
        coords["coarse"] = (("prompt", "position"), ((number >= 0) & (single == 0)).astype(int))
    without = data.drop_vars(["effect", *(n for n in data.coords if "span" in data[n].dims)])
    return without.assign(effect=tokens.transpose(*order)).assign_coords(coords)


def drawn(record: Record) -> str | None:
    """That tokens of a picture show the value of their span; None where each has its own."""
    if record.spans in (None, "1 token"):
        return None
    whose = "them" if record.spans.endswith(" tokens") else "its tokens"
    rest = "" if record.refined is None else "; tokens of refined spans have their own"
    return f"one value per {record.spans}, drawn on each of {whose}{rest}"
