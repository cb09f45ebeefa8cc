"""Some of the cells of `Scores`, and the contrast of two. Reached through `Scores.sel` and `Scores.minus`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .tables import places

if TYPE_CHECKING:
    from .scores import Scores

_KEPT = ("prompt", "model", "layer")  # dimensions that every table and picture needs
_SAME = ("base", "students", "contexts", "site", "method", "measure", "direction", "answer_gate", "selected")


def select(scores: Scores, labels: Mapping[str, Any]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Data and provenance of the chosen cells, see `Scores.sel`."""
    data, selected, provenance = scores.data, scores.selected, dict(scores.provenance)
    if "position" in labels and "position" in data["effect"].dims:  # where a token stands is counted on the whole prompt
        data = data.assign_coords(
            {k: (("prompt", "position"), v) for k, v in zip(("run", "index"), places(scores), strict=True)}
        )
    for name, wanted in labels.items():
        if name == "hook" and "hook" not in data.coords:
            raise ValueError(f"hook={wanted!r}: these {scores.kind} scores have no hook names; choose by {scores.dims()}.")
        dim = "layer" if name == "hook" else name
        if dim not in data["effect"].dims:
            raise ValueError(f"{name}={wanted!r}: these scores have no dimension {name!r}; they have {scores.dims()}.")
        one = isinstance(wanted, str) or np.ndim(wanted) == 0
        keep = _find(name, [wanted] if one else list(wanted), data[name].values.tolist())
        whole = len(keep) == data.sizes[dim] and not one
        data = data.isel({dim: keep})
        if dim == "direction" and one:  # as if only this one had been asked for
            provenance["direction"] = str(data[dim].values[0])
        elif dim not in ("prompt", "model") and not whole:
            values = data[dim].values.tolist()
            selected[dim] = values[0] if one else values
        if one and dim not in _KEPT:
            data = data.isel({dim: 0}, drop=True)
    return data, provenance | ({"selected": selected} if selected else {})


def _find(name: str, wanted: Sequence[Any], known: Sequence[Any]) -> list[int]:
    """Where the wanted labels stand, in the order of the known ones."""
    for label in wanted:
        if label not in known:
            near = difflib.get_close_matches(str(label), map(str, known), 3, 0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near and isinstance(label, str) else ""
            shown = ", ".join(map(str, known)) if len(known) <= 12 else f"{known[0]}, {known[1]}, … {known[-1]}"
            raise ValueError(f"{name}={label!r} is not among these scores; they have {shown}{hint}")
    if not wanted:
        raise ValueError(f"{name}=[] selects nothing; give at least one label.")
    return [i for i, label in enumerate(known) if label in wanted]


def contrast(own: Scores, others: Sequence[Scores]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Data and provenance of own minus the mean of others, see `Scores.minus`."""
    if not others:
        raise ValueError("minus() needs at least one other Scores; pass those to subtract.")
    for other in others:
        _comparable(own, other)
    data = own.data.copy()
    for name in ("effect", "base", "student"):
        data[name] = own.data[name] - np.mean([o.data[name].values for o in others], axis=0)
    provenance = {**own.provenance, "minus": [str(o.provenance["metric"]) for o in others]}
    # estimates of a difference were not confirmed as such; but that some were poor must not be forgotten
    provenance.pop("confirmation", None)
    provenance |= next(({"confirmation": s.provenance["confirmation"]} for s in (own, *others) if s.warning), {})
    rounded = [s.provenance["compute"] for s in (own, *others) if "compute" in s.provenance]
    if rounded:
        provenance["compute"] = {**rounded[0], "error": sum(r["error"] for r in rounded)}
    return data, provenance


def _comparable(own: Scores, other: Scores) -> None:
    """Raise where a paired difference would mix things that are not the same."""

    def refuse(what: str, mine: Any, theirs: Any, fix: str = "score both alike") -> None:
        shown = " and ".join(text if len(text) < 150 else f"{text[:149]}…" for text in (repr(mine), repr(theirs)))
        raise ValueError(f"minus: {what} differ ({shown}); {fix}.")

    if own.kind != other.kind:
        refuse("kinds", own.kind, other.kind)
    if own.unit != other.unit:
        refuse("units", own.unit, other.unit)
    for key in _SAME:
        if own.provenance.get(key) != other.provenance.get(key):
            refuse(key, own.provenance.get(key), other.provenance.get(key))
    mine, theirs = own.data, other.data
    if mine["effect"].dims != theirs["effect"].dims:
        refuse("dimensions", own.dims(), other.dims())
    cells = [d for d in mine["effect"].dims if d not in ("model", "prompt", "position")]
    for name in ("model", "question", *cells, "hook", "tokens"):
        labels = [x[name].values.tolist() if name in x.coords else None for x in (mine, theirs)]
        if labels[0] != labels[1]:
            refuse(f"labels of {name!r}", labels[0], labels[1])
    if "position" in mine["effect"].dims:
        rows = [[_tokens(x, i) for i in range(x.sizes["prompt"])] for x in (mine, theirs)]
        for (asked, answered), (asked_too, answered_too) in zip(*rows, strict=True):
            if asked != asked_too:
                refuse("tokens", "".join(asked), "".join(asked_too))
            if answered != answered_too:
                fix = "score the contrast in one run with the metric own_minus_others(trait, others)"
                refuse("answer tokens", answered, answered_too, fix)


def _tokens(data: xr.Dataset, prompt: int) -> tuple[list[str], list[str]]:
    """Tokens of a prompt and of its answers."""
    token, role = data["token"].values[prompt], data["role"].values[prompt]
    return token[(role != "") & (role != "answer")].tolist(), token[role == "answer"].tolist()
