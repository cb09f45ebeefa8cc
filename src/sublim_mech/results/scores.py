"""Scores: labelled arrays of effects, with everything needed to read them later.

One `xarray.Dataset` per result:

- `effect (model, prompt, <cells>)` in units of the metric, raw: a cell's change of the metric;
- `base (model, prompt)` and `student (model, prompt)`: the metric of the two models; their difference is the total effect;
- coordinates of `(prompt, position)`: `token`, `role`, `turn`, `sharing`; empty, and the effect NaN, past a shorter prompt;
- `question (prompt)`; for sites `hook (layer)`, TransformerLens' hook names; for token sets `tokens (prompt, set)`.

`model` is `student` and one `control: <name>` per control. With controls the headline is student minus the mean of the controls.

Cells by kind (layer -1 is the embeddings, the layer after the last block the final norm and the unembedding):

- `effect`: none;
- `graft`: (set, measure), exact;
- `sweep`: (layer, position), exact graft of each cell;
- `patch`: ([direction,] layer, [head,] position or set), exact;
- `attribution`: (layer, module, position), gradients; the only kind whose cells add up to the total effect;
- `gradient`: (layer, [head,] position) or (position), gradients that estimate patching.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from ..storage.files import read_dataset, write_dataset
from . import select as choose
from . import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("effect", "graft", "sweep", "patch", "attribution", "gradient")
_TITLES = {
    "effect": "effect on",
    "graft": "grafts,",
    "sweep": "graft of each cell,",
    "patch": "activation patching,",
    "attribution": "attribution of",
    "gradient": "gradient estimate,",
}
POOR = "AGREEMENT WITH EXACT VALUES IS POOR: use the exact instrument"


@dataclass(frozen=True, eq=False)
class Scores:
    """Effects on named axes, with provenance.

    Attributes:
        data: the arrays (see the module).
        kind: one of `KINDS`.
        provenance: models, hashes, context, metric, options, versions.

    Example:
        >>> scores = sm.patch(pair, prompts, trait, layers=[0, 2], direction="both", progress=False)
        >>> one = scores.sel(direction="noising", hook="blocks.2.hook_resid_pre")
        >>> one.save(folder / "one.safetensors")
        >>> sm.Scores.load(folder / "one.safetensors").data.equals(one.data)
        True
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
        """Whether cells add up to the total effect (attributions do, interventions and their estimates do not)."""
        return self.kind == "attribution"

    @property
    def has_controls(self) -> bool:
        """Whether students of other traits were scored alike."""
        return self.data.sizes["model"] > 1

    @property
    def has_sets(self) -> bool:
        """Whether cells are token sets (or one that was selected)."""
        return "tokens" in self.data.coords

    @property
    def headline_name(self) -> str:
        """What `headline` is: the difference to the controls, or the student against the base alone."""
        name = str(self.data["model"].values[0])
        return f"{name} - controls" if self.has_controls else f"{name} (no controls)"

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
    def selected(self) -> dict[str, Any]:
        """What `sel` kept of the cells, by dimension; empty where these are all."""
        return dict(self.provenance.get("selected", {}))

    @property
    def gap(self) -> float:
        """Completeness gap of an attribution: |mean total - mean sum of cells| over |mean total|, largest over models.

        NaN where a total is exactly 0 (a student that is the base).
        """
        if not self.additive:
            raise ValueError(f"{self.kind} scores do not add up to a total, so they have no completeness gap.")
        if self.selected:
            raise ValueError(f"these are some of the cells ({self._chosen()}): only all of them add up to the total.")
        total = (self.data["student"] - self.data["base"]).mean("prompt")
        cells = [d for d in self.data["effect"].dims if d not in ("model", "prompt")]
        found = self.data["effect"].sum(cells).mean("prompt")
        return float((abs(total - found) / abs(total.where(total != 0))).max(skipna=False))

    # ------------------------------------------------------------------------------------------------ choose, contrast

    def sel(self, **labels: Any) -> Scores:
        """Some of the cells, by label: `sel(direction="noising")`, `sel(layer=[3, 4])`, `sel(hook="blocks.3.hook_resid_pre")`.

        Args:
            **labels: dimension (or `hook`, TransformerLens' name) -> label or labels. They stay in the order they are stored in. One
                label drops its dimension, except `prompt`, `model` and `layer`; a list keeps it.

        Raises:
            ValueError: no such dimension or label.
        """
        data, provenance = choose.select(self, labels)
        return Scores(data, self.kind, provenance)

    def minus(self, *others: Scores) -> Scores:
        """The paired contrast, prompt by prompt: these scores minus the mean of the others (say, of other traits).

        Args:
            *others: scores of the same kind, prompts, tokens, models, cells and unit.

        Raises:
            ValueError: nothing to subtract, or the scores differ in something else than what was measured.
        """
        data, provenance = choose.contrast(self, others)
        return Scores(data, self.kind, provenance)

    # -------------------------------------------------------------------------------------------------- cells per axis

    def token_effect(self) -> np.ndarray:
        """`(prompt, position)` headline effect per token: summed over cells for attributions, else averaged over layers and heads.

        Raises:
            ValueError: no position axis; both directions.
        """
        effect = self._by_position()
        others = [d for d in effect.dims if d not in ("prompt", "position")]
        merged = effect.sum(others, min_count=1) if self.additive else effect.mean(others)
        return merged.transpose("prompt", "position").values

    def layer_effect(self) -> xr.DataArray:
        """`(prompt, layer, position)` headline effect: modules summed.

        Raises:
            ValueError: no position or layer axis; both directions; heads, of which one must be chosen.
        """
        effect = self._by_position()
        if "layer" not in effect.dims:
            raise ValueError(f"{self.provenance.get('method', self.kind)} scores have no layers; use token_effect().")
        if "head" in effect.dims:
            raise ValueError("these scores have heads; choose one: scores.sel(head=0), or use head_effect().")
        merged = effect.sum("module", min_count=1) if "module" in effect.dims else effect
        return merged.transpose("prompt", "layer", "position")

    def head_effect(self) -> xr.DataArray:
        """`(prompt, layer, head)` headline effect: averaged over the tokens, or of one token set.

        Raises:
            ValueError: no heads; both directions; several token sets, of which one must be chosen.
        """
        effect = self._one_direction()
        if "head" not in effect.dims:
            raise ValueError(f"these scores have no heads; they have {self.dims()}. Patch site='z' for effects per head.")
        if "set" in effect.dims:
            sets = effect["set"].values.tolist()
            raise ValueError(f"these scores hold {len(sets)} token sets; choose one: scores.sel(set={sets[0]!r}).")
        merged = effect.mean("position") if "position" in effect.dims else effect
        return merged.transpose("prompt", "layer", "head")

    def set_effect(self) -> xr.DataArray:
        """`(prompt, layer, set)` headline effect of patched token sets.

        Raises:
            ValueError: no token sets per layer; both directions; heads, of which one must be chosen.
        """
        effect = self._one_direction()
        if not self.has_sets or "layer" not in effect.dims:
            raise ValueError(f"these scores have no token sets per layer; they have {self.dims()}. Use patch(sets=...).")
        if "head" in effect.dims:
            raise ValueError("these scores have heads; choose one: scores.sel(head=0).")
        if "set" not in effect.dims:  # one was selected
            effect = effect.expand_dims({"set": [self.selected["set"]]})
        return effect.transpose("prompt", "layer", "set")

    def positions(self, coordinate: str) -> np.ndarray:
        """A coordinate of the tokens, `(prompt, position)`."""
        self._with_positions()
        known = [str(c) for c in self.data.coords if self.data[c].dims == ("prompt", "position")]
        if coordinate not in known:
            hint = " (mark the prompts first: prompts = sharing(prompts, trained_on=...))" if coordinate == "sharing" else ""
            raise ValueError(f"these scores have no coordinate {coordinate!r}{hint}; they have {', '.join(known)}.")
        return self.data[coordinate].values

    def layer_names(self) -> list[str]:
        """Names of the layers: `embed` before the first block, `final` after the last one, else the number of the block."""
        final = tables.final_layer(self)
        return ["embed" if x == -1 else "final" if x == final else str(x) for x in self.data["layer"].values.tolist()]

    def _by_position(self) -> xr.DataArray:
        self._with_positions()
        return self._one_direction()

    def _with_positions(self) -> None:
        if "position" not in self.data["effect"].dims:
            chosen = f" ({self._chosen()} selected; a list of labels keeps the axis)" if "position" in self.selected else ""
            raise ValueError(f"{self.kind} scores have no position axis{chosen}; use patch or attribute for scores per token.")

    def _one_direction(self) -> xr.DataArray:
        if "direction" in self.data["effect"].dims:
            first = str(self.data["direction"].values[0])
            raise ValueError(f"these scores hold both directions; choose one: scores.sel(direction={first!r})")
        return self.headline

    def dims(self) -> str:
        """Names of the dimensions that `sel` takes."""
        return ", ".join(map(str, self.data["effect"].dims)) + (" (and hook)" if "hook" in self.data.coords else "")

    def _chosen(self) -> str:
        return ", ".join(f"{k} {_list(v)}" for k, v in self.selected.items())

    # ------------------------------------------------------------------------------------------------------- tables

    def totals(self) -> pd.DataFrame:
        """The total effect of student, controls and their difference, with 95 % intervals over prompts."""
        return tables.totals(self)

    def sets(self) -> pd.DataFrame:
        """Effects of token sets, with 95 % intervals over prompts.

        Returns:
            Grafts: per set, sufficiency and necessity as shares of the total effect (1 = all of it). Patching: per layer and set, the
            effect and its share of the total (0 = recipient, 1 = donor).
        """
        return tables.sets(self)

    def by(self, coordinate: str) -> pd.DataFrame:
        """Effects gathered by a coordinate of the tokens: `role`, `sharing`, `turn` or `token`.

        Attributions are summed over cells (they add up to the total); effects of other kinds are averaged over cells.

        Returns:
            Per value: its share of the tokens, the effect with 95 % interval over prompts, and for attributions its share of the
            total effect (NaN where the total is inside its own noise).
        """
        return tables.by(self, coordinate)

    def cells(self) -> pd.DataFrame:
        """Every layer and place of the prompts over all prompts, with the map's own test.

        The same place in different prompts is the same turn and role, the same run of that role in the turn (0: before its
        content, 1: after it, for template tokens) and the same token of the run, counted from its start.

        Returns:
            One row per cell: layer, TransformerLens' name, turn, role, run, index, the token's text ("…" where prompts differ), n
            prompts that have it, mean, 95 % interval, t, and p adjusted over all cells (`stats.max_t`; NaN below 6 prompts).
        """
        return tables.cells(self)

    def noise(self, prompt: int, *, tokens: bool = False) -> np.ndarray | None:
        """Which cells of a prompt are not distinguishable from 0 over all prompts (`stats.max_t` at 5 % over `cells`).

        Args:
            prompt: which prompt.
            tokens: test `token_effect` instead of `layer_effect`.

        Returns:
            `(layer, position)` bool, or `(position,)`; a place that fewer than 6 prompts have counts as not distinguishable. None where
            there are fewer than 6 prompts.
        """
        return tables.noise(self, prompt, tokens=tokens)

    def strongest(self, k: int = 5) -> pd.DataFrame:
        """The k cells of largest absolute effect, by TransformerLens' name; of single prompts where cells are tokens."""
        return tables.strongest(self, k)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per finite cell, all coordinates as columns, and TransformerLens' `name` of the hook, module or block."""
        return tables.to_dataframe(self)

    # ------------------------------------------------------------------------------------------- how far to trust them

    @property
    def confirmation(self) -> pd.DataFrame | None:
        """The cells that the exact instrument was run on, estimate beside exact value; None where it was not."""
        found = self.provenance.get("confirmation")
        return None if found is None else pd.DataFrame(found["cells"])

    @property
    def warning(self) -> str | None:
        """What no picture of these scores may leave out: that exact values disagree."""
        return POOR if self.provenance.get("confirmation", {}).get("poor", False) else None

    def notes(self) -> list[str]:
        """How the estimates agree with exact values, and what the floating-point type costs."""
        return tables.notes(self)

    # ------------------------------------------------------------------------------------------------- files, display

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels and provenance stand in its metadata. Written under a temporary name, then renamed."""
        write_dataset(path, self.data, "scores", {"kind": self.kind, "provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file; damaged, or not scores.
        """
        data, meta = read_dataset(path, "scores", ("effect", "base", "student"))
        return cls(data, meta["kind"], meta["provenance"])

    def plot(self, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
        """The picture of these scores: a token heatmap of one prompt, layers by heads or token sets over all prompts, or bars."""
        from .plots import plot

        return plot(self, prompt, path=path)

    def __repr__(self) -> str:
        return tables.report(self)

    def title(self) -> str:
        """What was scored, in one line."""
        keys = ("measure", "method", "points", "site", "direction")
        detail = {k: self.provenance[k] for k in keys if k in self.provenance and k not in self.selected}
        if "direction" in self.data["effect"].dims:
            detail["direction"] = " and ".join(self.data["direction"].values.tolist())
        less = [str(m) for m in self.provenance.get("minus", ())]
        minus = f" minus {'the mean of ' * (len(less) > 1)}{', '.join(less)}" if less else ""
        parts = [f"{_TITLES[self.kind]} {self.provenance['metric']}{minus}", *(f"{k} {v}" for k, v in detail.items())]
        parts += ["donor on other prompts"] * ("donor_contexts" in self.provenance)
        return ", ".join([*parts, self._chosen()] if self.selected else parts)

    def _repr_html_(self) -> str:
        from .page import token_page

        dims = self.data["effect"].dims
        if "position" in dims and "direction" in dims:
            return "".join(token_page(self.sel(direction=str(d))) for d in self.data["direction"].values)
        if "position" in dims:
            return token_page(self)
        if self.kind not in ("effect", "graft"):
            return f"<pre>{escape(repr(self))}</pre>"
        table = self.sets() if self.kind == "graft" else self.totals()
        lines = [f"{self.title()}, {self.unit}", *self.notes()]
        return "".join(f"<p>{escape(x)}</p>" for x in lines) + table.to_html(float_format="{:.3f}".format, na_rep="")


def _difference(x: xr.DataArray) -> xr.DataArray:
    """Student minus the mean of the controls, along `model`."""
    student = x.isel(model=0, drop=True)
    return student if x.sizes["model"] == 1 else student - x.isel(model=slice(1, None)).mean("model")


def _list(labels: Any) -> str:
    """One label, several, or a whole range of numbers."""
    if np.ndim(labels) == 0:
        return str(labels)
    if len(labels) > 2 and isinstance(labels[0], int) and labels == list(range(labels[0], labels[0] + len(labels))):
        return f"{labels[0]} to {labels[-1]}"
    return "/".join(map(str, labels))
