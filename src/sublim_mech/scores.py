"""Scores: labelled arrays of effects, with everything needed to read them later.

One `xarray.Dataset` per result:

- `effect (model, prompt, <cells>)` in units of the metric, raw: a cell's change of the metric;
- `base (model, prompt)` and `student (model, prompt)`: the metric of the two models; their difference is the total effect;
- coordinates of `(prompt, position)`: `token`, `role`, `turn`, `sharing`; empty, and the effect NaN, past a shorter prompt;
- `question (prompt)`; for patching `hook (layer)`, TransformerLens' hook names; for token sets `tokens (prompt, set)`.

`model` is `student` and one `control: <name>` per control. With controls the headline is student minus the mean of the controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from .chat import ROLES, Prompt
from .files import read_arrays, write_arrays
from .metrics import Answers
from .sharing import CLASSES
from .stats import mean_interval, ratio_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("effect", "graft", "patch", "attribution")


@dataclass(frozen=True, eq=False)
class Scores:
    """Effects on named axes, with provenance.

    Attributes:
        data: the arrays (see the module).
        kind: one of `KINDS`.
        provenance: models, hashes, context, metric, options, versions.
    """

    data: xr.Dataset
    kind: str
    provenance: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """Unit of every effect."""
        return str(self.provenance["unit"])

    @property
    def additive(self) -> bool:
        """Whether cells add up to the total effect (attributions do, interventions do not)."""
        return self.kind == "attribution"

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were scored alike."""
        return self.data.sizes["model"] > 1

    @property
    def headline_name(self) -> str:
        """What `headline` is: the difference to the controls, or the student against the base alone."""
        return "student - controls" if self.has_controls else "student (no controls)"

    @property
    def headline(self) -> xr.DataArray:
        """`(prompt, <cells>)`: student minus the mean of the controls; the student alone where there are none."""
        return _difference(self.data["effect"])

    @property
    def total(self) -> xr.DataArray:
        """`(prompt,)`: the whole effect that `headline` is part of."""
        return _difference(self.data["student"] - self.data["base"])

    @property
    def normalised(self) -> xr.DataArray:
        """`(prompt, <cells>)`: headline over each prompt's own total; for patching 0 is the recipient and 1 the donor."""
        return self.headline / self.total

    @property
    def gap(self) -> float:
        """Completeness gap of an attribution: |mean total - mean sum of cells| over |mean total|, largest over models.

        NaN where a total is exactly 0 (a student that is the base).
        """
        if not self.additive:
            raise ValueError(f"{self.kind} scores do not add up to a total, so they have no completeness gap.")
        total = (self.data["student"] - self.data["base"]).mean("prompt")
        cells = [d for d in self.data["effect"].dims if d not in ("model", "prompt")]
        found = self.data["effect"].sum(cells).mean("prompt")
        return float((abs(total - found) / abs(total.where(total != 0))).max(skipna=False))

    # ------------------------------------------------------------------------------------------------------- tables

    def totals(self) -> pd.DataFrame:
        """The total effect of student, controls and their difference, with 95 % intervals over prompts."""
        rows = {}
        for name in self.data["model"].values:
            one = self.data.sel(model=name)
            rows[str(name)] = [float(one["base"].mean()), float(one["student"].mean()), (one["student"] - one["base"]).values]
        if self.has_controls:
            rows[self.headline_name] = [np.nan, np.nan, self.total.values]
        out = {}
        for name, (base, student, effect) in rows.items():
            i = mean_interval(np.asarray(effect))
            out[name] = {"base": base, "model": student, "effect": float(i.mean), "low": float(i.low), "high": float(i.high)}
        return pd.DataFrame.from_dict(out, orient="index")

    def sets(self) -> pd.DataFrame:
        """Sufficiency and necessity of each token set as shares of the total effect (1 = all of it), with 95 % intervals."""
        if self.kind != "graft":
            raise ValueError(f"{self.kind} scores have no token sets; they come from graft, graft_by_role or graft_by_sharing.")
        shares = ratio_interval(self.headline.transpose("prompt", "set", "measure").values, self.total.values)
        counts = self.data["tokens"].mean("prompt")
        rows = {}
        for s, name in enumerate(self.data["set"].values):
            row: dict[str, float] = {"tokens": float(counts[s])}
            for m, measure in enumerate(self.data["measure"].values):
                row |= {
                    str(measure): float(shares.mean[s, m]),
                    f"{measure} low": float(shares.low[s, m]),
                    f"{measure} high": float(shares.high[s, m]),
                }
            rows[str(name)] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def by(self, coordinate: str) -> pd.DataFrame:
        """Effects gathered by a coordinate of the tokens: `role`, `sharing`, `turn` or `token`.

        Attributions are summed over cells (they add up to the total); patching effects are averaged over cells.

        Returns:
            Per value: its share of the tokens, the effect with 95 % interval over prompts, and for attributions its share of the
            total effect (NaN where the total is inside its own noise).
        """
        groups = self.positions(coordinate)
        cells = self.token_effect()
        real = np.isfinite(cells)
        rows = {}
        present = dict.fromkeys(groups[real].tolist())
        known = [name for name in (*ROLES, *CLASSES) if name in present]
        for name in [*known, *(n for n in present if n not in known)]:
            inside = real & (groups == name)
            found = inside.any(1)  # prompts that have such tokens
            summed = np.where(inside, cells, 0).sum(1)
            value = summed if self.additive else summed[found] / inside.sum(1)[found]
            i = mean_interval(value)
            row = {"tokens": inside.sum() / real.sum(), "effect": float(i.mean), "low": float(i.low), "high": float(i.high)}
            if self.additive:
                share = ratio_interval(value, self.total.values)
                row |= {"share": float(share.mean), "share low": float(share.low), "share high": float(share.high)}
            rows[str(name)] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def token_effect(self) -> np.ndarray:
        """`(prompt, position)` headline effect per token: summed over cells for attributions, averaged for patching."""
        effect = self._by_position()
        others = [d for d in effect.dims if d not in ("prompt", "position")]
        merged = effect.sum(others, min_count=1) if self.additive else effect.mean(others)
        return merged.transpose("prompt", "position").values

    def layer_effect(self) -> xr.DataArray:
        """`(prompt, layer, position)` headline effect: modules summed."""
        effect = self._by_position()
        return (effect.sum("module", min_count=1) if "module" in effect.dims else effect).transpose(
            "prompt", "layer", "position"
        )

    def positions(self, coordinate: str) -> np.ndarray:
        """A coordinate of the tokens, `(prompt, position)`."""
        self._by_position()
        known = [str(c) for c in self.data.coords if self.data[c].dims == ("prompt", "position")]
        if coordinate not in known:
            hint = " (mark the prompts first: prompts = sharing(prompts, trained_on=...))" if coordinate == "sharing" else ""
            raise ValueError(f"these scores have no coordinate {coordinate!r}{hint}; they have {', '.join(known)}.")
        return self.data[coordinate].values

    def _by_position(self) -> xr.DataArray:
        if "position" not in self.data["effect"].dims:
            raise ValueError(f"{self.kind} scores have no position axis; use patch or attribute for scores per token.")
        return self.headline

    def to_dataframe(self) -> pd.DataFrame:
        """One row per finite cell, all coordinates as columns."""
        return self.data["effect"].to_dataframe().reset_index().dropna(subset=["effect"]).reset_index(drop=True)

    # ------------------------------------------------------------------------------------------------- files, display

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels and provenance stand in its metadata. Written under a temporary name, then renamed."""
        arrays, labels = {}, {}
        for name, variable in self.data.variables.items():
            if variable.dtype.kind in "fiu":
                arrays[str(name)] = variable.values
                labels[str(name)] = {"dims": variable.dims}
            else:
                labels[str(name)] = {"dims": variable.dims, "values": variable.values.tolist()}
        meta = {"kind": self.kind, "provenance": dict(self.provenance), "variables": labels}
        write_arrays(path, arrays, "scores", meta)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or not scores.
        """
        arrays, meta = read_arrays(path, "scores")
        variables = {
            name: (
                tuple(entry["dims"]),
                arrays[name] if name in arrays else np.array(entry["values"], dtype=object).astype(str),
            )
            for name, entry in meta["variables"].items()
        }
        values = {n: v for n, v in variables.items() if n in ("effect", "base", "student")}
        coords = {n: v for n, v in variables.items() if n not in values}
        return cls(xr.Dataset(values, coords), meta["kind"], meta["provenance"])

    def plot(self, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
        """The picture of these scores: a token heatmap of one prompt, or bars for token sets and totals."""
        from .plots import plot

        return plot(self, prompt, path=path)

    def __repr__(self) -> str:
        lines = [f"{self.title()}, {self.data.sizes['prompt']} prompts, {self.unit}"]
        if not self.has_controls:
            lines.append("no controls given: part of any effect may come from training on any numbers")
        if self.data.sizes["prompt"] == 1:
            lines.append("one prompt: no intervals")
        elif not bool(mean_interval(self.total.values).excludes_zero):
            lines.append("the total effect is inside its own noise: no shares are given")
        lines.append(_format(self.totals()))
        if self.kind == "graft":
            lines += ["", f"shares of the total effect ({self.headline_name})", _format(self.sets())]
        elif "position" in self.data["effect"].dims:
            lines += ["", f"by role ({self.headline_name})", _format(self.by("role"))]
            if "sharing" in self.data.coords:
                lines += ["", f"by sharing ({self.headline_name})", _format(self.by("sharing"))]
        if self.additive:
            lines.append(f"completeness gap {self.gap:.2%}")
        return "\n".join(lines)

    def title(self) -> str:
        """What was scored, in one line."""
        detail = {k: self.provenance[k] for k in ("method", "points", "site", "direction") if k in self.provenance}
        what = {"effect": "effect on", "graft": "grafts,", "patch": "activation patching,", "attribution": "attribution of"}
        return f"{what[self.kind]} {self.provenance['metric']}" + "".join(f", {k} {v}" for k, v in detail.items())

    def _repr_html_(self) -> str:
        from .html import token_page

        if "position" in self.data["effect"].dims:
            return token_page(self)
        table = self.sets() if self.kind == "graft" else self.totals()
        return f"<p>{escape(self.title())}, {escape(self.unit)}</p>" + table.to_html(float_format="{:.3f}".format, na_rep="")


def _difference(x: xr.DataArray) -> xr.DataArray:
    """Student minus the mean of the controls, along `model`."""
    student = x.isel(model=0, drop=True)
    return student if x.sizes["model"] == 1 else student - x.isel(model=slice(1, None)).mean("model")


def _format(table: pd.DataFrame) -> str:
    return table.to_string(float_format=lambda v: f"{v:.3f}", na_rep="-")


def position_coords(prompts: Sequence[Prompt], answers: Sequence[Answers], decode: Any) -> dict[str, Any]:
    """Coordinates of `(prompt, position)`: tokens of each prompt, then the nodes of its answer trie.

    Args:
        prompts: prompts, P of them.
        answers: their tries.
        decode: token ids -> text.
    """
    width = max(len(p) + len(a.nodes) for p, a in zip(prompts, answers, strict=True))
    shape = len(prompts), width
    token, role, share = (np.full(shape, "", dtype=object) for _ in range(3))
    turn = np.full(shape, -1)
    for i, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        n, m = len(p), len(p) + len(a.nodes)
        token[i, :n], token[i, n:m] = p.tokens, [decode([node]) for node in a.nodes]
        role[i, :n], role[i, n:m] = p.roles, "answer"
        turn[i, :n], turn[i, n:m] = p.turns, p.turns[-1]
        if p.sharing is not None and p.seen is not None:
            share[i, :n] = p.sharing
            share[i, n:m] = ["seen" if node in p.seen else "novel" for node in a.nodes]
    dims = ("prompt", "position")
    coords = {
        "position": np.arange(width),
        "token": (dims, token.astype(str)),
        "role": (dims, role.astype(str)),
        "turn": (dims, turn),
    }
    if all(p.sharing is not None for p in prompts):
        coords["sharing"] = (dims, share.astype(str))
    return coords
