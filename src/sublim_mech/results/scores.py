"""Scores: labelled arrays of effects, with everything needed to read them later.

One `xarray.Dataset` per result:

- `effect (model, prompt, <cells>)` in units of the metric, raw: a cell's change of the metric;
- `base (model, prompt)` and `student (model, prompt)`: the metric of the two models; their
  difference is the total effect;
- coordinates of `(prompt, position)`: `token`, `role`, `turn`, `sharing`; empty, and the effect
  NaN, past a shorter prompt;
- `layer_name (layer)`: `embed` for layer -1, the block's number, `final` for the final norm and the
  unembedding after the last block; for sites `hook (layer)`, TransformerLens' hook names;
- `question (prompt)`; for token sets `tokens (prompt, set)`.

`model` is `student` and one `control: <name>` per control. With controls the headline is student
minus the mean of the controls.

Cells by kind:

- `effect`: none;
- `graft`: (set, measure), exact;
- `sweep`: (layer, position), exact graft of each cell;
- `patch`: ([direction,] layer, [head,] position or set), exact;
- `attribution`: (layer, module, position), gradients; the only kind whose cells add up to the
  total effect;
- `gradient`: (layer, [head,] position) or (position), gradients that estimate patching.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..storage.files import read_dataset, write_dataset
from . import cells, report, select, tables
from .arrays import ScoreArrays, name_layers
from .kinds import KINDS
from .record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Scores(ScoreArrays):
    """Effects on named axes, with their record.

    Attributes:
        data: the arrays (see the module).
        kind: one of `KINDS`.
        record: models, hashes, contexts, metric, options, versions.

    Example:
        >>> scores = sm.patch(
        ...     pair, prompts, trait, layers=[0, 2], direction="both", progress=False
        ... )
        >>> one = scores.sel(direction="noising", hook="blocks.2.hook_resid_pre")
        >>> one.save(folder / "one.safetensors")
        >>> sm.Scores.load(folder / "one.safetensors").data.equals(one.data)
        True
    """

    # ----------------------------------------------------------------------------- choose, contrast

    def sel(self, **labels: Any) -> Scores:
        """Some of the cells, by label.

        `sel(direction="noising")`, `sel(layer=[3, 4])`, `sel(hook="blocks.3.hook_resid_pre")`.

        Args:
            **labels: dimension (or `hook`, TransformerLens' name) -> label or labels. They stay in
                the order they are stored in. One label drops its dimension, except `prompt`,
                `model` and `layer`; a list keeps it.

        Raises:
            ValueError: no such dimension or label.
        """
        return select.select(self, labels)

    def minus(self, *others: Scores) -> Scores:
        """The paired contrast, prompt by prompt: these scores minus the mean of the others.

        Args:
            *others: scores of the same kind, prompts, tokens, models, cells and unit (say, of other
                traits).

        Raises:
            ValueError: nothing to subtract, or the scores differ in something else than what was
                measured.
        """
        return select.contrast(self, others)

    # --------------------------------------------------------------------------------------- tables

    def totals(self) -> pd.DataFrame:
        """The total effect of student, controls and their difference, with 95 % intervals."""
        return tables.totals(self)

    def sets(self) -> pd.DataFrame:
        """Effects of token sets, with 95 % intervals over prompts.

        Returns:
            Grafts: per set, sufficiency and necessity as shares of the total effect (1 = all of
            it). Patching: per layer and set, the effect and its share of the total (0 = recipient,
            1 = donor).

        Raises:
            ValueError: cells are no token sets; both directions; heads, of which one must be
                chosen.
        """
        return tables.sets(self)

    def by(self, coordinate: str) -> pd.DataFrame:
        """Effects gathered by a coordinate of the tokens: `role`, `sharing`, `turn` or `token`.

        Attributions are summed over cells (they add up to the total); effects of other kinds are
        averaged over cells.

        Returns:
            Per value: its share of the tokens, the effect with 95 % interval over prompts, and for
            attributions its share of the total effect (NaN where the total is inside its own
            noise).

        Raises:
            ValueError: no position axis, or no such coordinate; both directions.
        """
        return tables.by(self, coordinate)

    def cells(self) -> pd.DataFrame:
        """Every layer and place of the prompts over all prompts, with the map's own test.

        The same place in different prompts is the same turn and role, the same run of that role in
        the turn (0: before its content, 1: after it, for template tokens) and the same token of the
        run, counted from its start.

        Returns:
            One row per cell: layer, TransformerLens' name, turn, role, run, index, the token's text
            ("…" where prompts differ), n prompts that have it, mean, 95 % interval, t, and p
            adjusted over all cells (`stats.max_t`; NaN below 6 prompts).

        Raises:
            ValueError: no position axis; both directions; heads, of which one must be chosen.
        """
        return cells.cells(self)

    def noise(self, prompt: int, *, tokens: bool = False) -> np.ndarray | None:
        """Which cells of a prompt are not distinguishable from 0 over all prompts.

        Args:
            prompt: which prompt.
            tokens: test `token_effect` instead of `layer_effect`.

        Returns:
            `(layer, position)` bool, or `(position,)`: the test of `cells` at 5 %. A place that
            fewer than 6 prompts have counts as not distinguishable. None where there are fewer than
            6 prompts.
        """
        return cells.noise(self, prompt, tokens=tokens)

    def strongest(self, k: int = 5) -> pd.DataFrame:
        """The k cells of largest absolute effect, by TransformerLens' name.

        They are cells of single prompts where cells are tokens, else means over prompts.

        Raises:
            ValueError: cells are neither layers nor tokens.
        """
        return tables.strongest(self, k)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per finite cell.

        All coordinates are columns, and TransformerLens' `name` of the hook, module or block.
        """
        return tables.to_dataframe(self)

    # ------------------------------------------------------------------------ how far to trust them

    @property
    def confirmation(self) -> pd.DataFrame | None:
        """The cells that the exact instrument was run on, estimate beside exact value, or None."""
        confirmation = self.record.confirmation
        return None if confirmation is None else pd.DataFrame(list(confirmation.cells))

    @property
    def warning(self) -> str | None:
        """What no picture of these scores may leave out: that exact values disagree."""
        return report.warning(self)

    def notes(self) -> list[str]:
        """How the estimates agree with exact values, and what the floating-point type costs."""
        return report.notes(self)

    # ---------------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels and record stand in its metadata.

        It is written under a temporary name, then renamed.
        """
        meta = {"kind": self.kind, "provenance": self.record.to_json()}
        write_dataset(path, self.data, "scores", meta)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, not scores, or with fields that this version does not know.
        """
        data, meta = read_dataset(path, "scores", ("effect", "base", "student"))
        record = Record.from_json(meta["provenance"])
        if "layer_name" not in data.coords:  # files of 0.1.0 have numbers only
            data = name_layers(data, record.n_layers)
        return cls(data, meta["kind"], record)

    # -------------------------------------------------------------------------------------- display

    def title(self) -> str:
        """What was scored, in one line."""
        return report.title(self)

    def plot(
        self,
        prompt: int = 0,
        *,
        by: str | None = None,
        ax: Axes | None = None,
        title: str | None = None,
        labels: Mapping[Any, str] | None = None,
        path: str | Path | None = None,
    ) -> Axes:
        """The picture of these scores, in axes that are returned.

        A token heatmap of one prompt, layers by heads or token sets over all prompts, or bars:
        `plot(by="role")`, `plot(by="layer")`. In a notebook it shows itself. See `plots.plot`.
        """
        from .plots import plot  # matplotlib is slow to import

        return plot(self, prompt, by=by, ax=ax, title=title, labels=labels, path=path)

    def __repr__(self) -> str:
        return report.report(self)

    def _repr_html_(self) -> str:
        from .page import token_page

        dims = self.data["effect"].dims
        if "position" in dims and "direction" in dims:
            directions = self.data["direction"].values
            return "".join(token_page(self.sel(direction=str(d))) for d in directions)
        if "position" in dims:
            return token_page(self)
        summary = tables.SUMMARIES.get(KINDS[self.kind].table)
        if summary is None:
            return f"<pre>{escape(repr(self))}</pre>"
        lines = [f"{self.title()}, {self.unit}", *self.notes()]
        table = summary(self).to_html(float_format="{:.3f}".format, na_rep="")
        return "".join(f"<p>{escape(line)}</p>" for line in lines) + table
