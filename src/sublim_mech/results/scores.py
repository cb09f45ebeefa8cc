"""Scores: labelled arrays of effects, with everything needed to read them later.

One `xarray.Dataset` per result:

- `effect (model, prompt, <cells>)` in units of the metric, raw: a cell's change of the metric;
- `base (model, prompt)` and `student (model, prompt)`: the metric of the two models; their
  difference is the total effect;
- of an integral with `points="auto"`, `points` and whether they are `capped (model, prompt)`; of
  activation IG per layer, with the effect of patching its `row` and what its cells lack of it
  (`missing_of_row`);
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
- `sweep`: (layer, position or span), exact graft of each cell;
- `patch`: ([direction,] layer, [head,] position, span or set), exact;
- `attribution`: (layer, module, position), gradients; the only kind whose cells add up to the
  total effect;
- `gradient`: (layer, [head,] position) or (position), gradients that estimate patching;
- `scan`: (measure, position), exact graft of all tokens up to each one;
- `dose`: (scale), exact, the gate of a set of cells at several values;
- `direction`: (layer, vector, measure), exact, a direction of activation added or taken out; beside
  it `graft (model, prompt, measure)`, the graft that it should explain.

Of several steps of a training, any kind has an axis `step`, on which `student` depends as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..arguments import checked
from ..storage.files import read_dataset, write_dataset
from . import cells, curves, limits, report, select, tables
from .arrays import TOLD, WHOLE, ScoreArrays, name_answers, name_layers
from .confirming import agreement
from .frames import Table, check_suffix, write_csv
from .kinds import KINDS
from .record import Record
from .turns import mixed_turns

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

    @checked
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

    @checked
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
        return Table(tables.totals(self))

    def sets(self) -> pd.DataFrame:
        """Effects of token sets, with 95 % intervals over prompts.

        Returns:
            Grafts: per set, its `tokens` and `token share` as in `by`, and sufficiency and
            necessity as shares of the total effect (1 = all of it). Patching: per layer and set,
            the effect and its share of the total (0 = recipient, 1 = donor).

        Raises:
            ValueError: cells are no token sets; both directions; heads, of which one must be
                chosen.
        """
        return Table(tables.sets(self))

    @checked
    def by(self, coordinate: str) -> pd.DataFrame:
        """Effects gathered by a coordinate of the tokens: `role`, `sharing`, `turn` or `token`; or
        by `layer`, over all tokens.

        Attributions are summed over cells (they add up to the total); effects of other kinds are
        averaged over cells. The answer's own tokens are a row of their own, `answer`, by whatever
        coordinate; by `role` and `sharing` the sets of `graft(sets=...)` follow that hold several
        (`all prompt tokens`; `shared`, `not shared`). Tokens of a span whose tokens differ in the
        coordinate are `mixed`, since it was scored as a whole.

        Returns:
            Per value: `tokens`, their mean number per prompt; `token share`, of the prompt's
            tokens; the effect with 95 % interval over prompts; and for attributions its share of
            the effect on the prompt's tokens, all cells (also of a selection of cells; NaN where
            that effect is inside its own noise, and for the answer). By `layer`: per layer, the
            effect with its interval, and for attributions its share of what all cells have. Below
            it, and in `attrs["notes"]`, which turns are of other roles in some prompts.

        Raises:
            ValueError: no position axis, or no such coordinate; both directions; cells at which
                no student changes anything; by `layer`, no layers, or heads, of which one must be
                chosen.
        """
        table = Table(tables.by(self, coordinate))
        if mixed := mixed_turns(self, coordinate):
            table.attrs["notes"] = mixed
        return table

    def cells(self) -> pd.DataFrame:
        """Every layer and place of the prompts over all prompts, with the map's own test.

        The same place in different prompts is the same turn and role, the same run of that role in
        the turn (0: before its content, 1: after it, for template tokens) and the same token of the
        run, counted from its start; in the second half of runs that are longer in some prompts
        (questions, raw texts), from its end, so that last tokens meet. Spans are counted and tested
        as wholes.

        Returns:
            One row per cell: layer, TransformerLens' name, turn, role, run, index, the text of the
            token or span ("…" where prompts differ; `refined`, where some spans were: whether it is
            a single token), n prompts that have it, mean, 95 % interval, t, and p
            adjusted over all cells (`stats.max_t`; NaN below 6 prompts).

        Raises:
            ValueError: no position axis; both directions; heads, of which one must be chosen.
        """
        return Table(cells.cells(self))

    @checked
    def noise(self, prompt: int, *, tokens: bool = False) -> np.ndarray | None:
        """Which cells of a prompt are not distinguishable from 0 over all prompts.

        Args:
            prompt: which prompt.
            tokens: test `token_effect` instead of `layer_effect`.

        Returns:
            `(layer, position)` bool, or `(position,)`: the test of `cells` at 5 %, at all tokens of
            a span alike. A place that fewer than 6 prompts have counts as not distinguishable. None
            where there are fewer than 6 prompts.
        """
        return cells.noise(self, prompt, tokens=tokens)

    @checked
    def strongest(self, k: int = 5) -> pd.DataFrame:
        """The k cells of largest absolute effect, by TransformerLens' name.

        They are cells of single prompts where cells are tokens, else means over prompts.

        Raises:
            ValueError: cells are neither layers nor tokens; k below 1.
        """
        return Table(tables.strongest(self, k))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per finite cell.

        All coordinates are columns, and TransformerLens' `name` of the hook, module or block.
        """
        return Table(tables.to_dataframe(self))

    def curve(self) -> pd.DataFrame:
        """Scores that are read along an axis, with 95 % intervals over prompts.

        Returns:
            Prefix scans: per measure and boundary, the token it is behind, its role, the `tokens`
            before it (mean over prompts), the effect and its share of the total. Doses: per scale,
            the effect and its share of the total effect at gate 1 everywhere. Directions: per layer
            and vector (`own`: the model's own; and in the student alone, of its own total effect,
            `random`: the mean over random ones of equal norm, `others'`: the other students'
            directions), the share of the total effect of each measure; last the graft. Several
            steps: per step the total effect, of grafts the effect per step, set and measure.

        Raises:
            ValueError: scores of another kind; scans of prompts that are laid out in different
                ways.
        """
        return Table(curves.curve(self))

    # ------------------------------------------------------------------------ how far to trust them

    @property
    def confirmation(self) -> pd.DataFrame | None:
        """The cells that the exact instrument was run on, estimate beside exact value.

        Of a selection those that it holds; None where it holds none of them, or other numbers than
        were compared (those of one model alone), as a contrast does.
        """
        found = agreement(self)
        return Table(list(found.cells)) if found is not None and found.cells else None

    @property
    def warning(self) -> str | None:
        """What no picture of these scores may leave out: that exact values disagree."""
        return report.warning(self)

    def notes(self) -> list[str]:
        """What to know before trusting a number, in lines.

        First all that limits it: how the student was asked and trained, no controls, what of the
        headline is the controls', intervals over few prompts, a total inside its own noise, a fall,
        a metric at its ceiling, what cells miss of the total, estimates that were not confirmed.
        Then copies among the prompts, what is odd about the students, how estimates agree with
        exact values, what the floating-point type costs.
        """
        return [*limits.in_full(self), *report.notes(self)]

    # ---------------------------------------------------------------------------------------- files

    @checked
    def save(self, path: str | Path) -> None:
        """Write one safetensors file; labels and record stand in its metadata.

        It is written under a temporary name, then renamed.

        Raises:
            ValueError: the name ends otherwise than in `.safetensors`.
        """
        check_suffix(path, ".safetensors", fix="scores.to_csv(path) writes a table")
        meta = {"kind": self.kind, "provenance": self.record.to_json()}
        write_dataset(path, self.data, "scores", meta)

    @checked
    def to_csv(self, path: str | Path) -> None:
        """Write all rows of `to_dataframe` as comma-separated values, without the record.

        It is written under a temporary name, then renamed.

        Raises:
            ValueError: the name ends otherwise than in `.csv`.

        Example:
            >>> scores = sm.effect(pair, prompts, trait, progress=False)
            >>> scores.to_csv(folder / "effect.csv")
            >>> (folder / "effect.csv").read_text().split(",")[:3]
            ['model', 'prompt', 'question']
        """
        write_csv(path, self.to_dataframe(), fix="scores.save(path) keeps labels and record")

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, not scores, or with fields that this version does not know.
        """
        data, meta = read_dataset(path, "scores", ("effect", "base", "student", *WHOLE, *TOLD))
        record = Record.from_json(meta["provenance"])
        if "layer_name" not in data.coords:  # files of 0.1.0 have numbers only
            data = name_layers(data, record.n_layers)
        data = name_answers(data)
        return cls(data, meta["kind"], record)

    # -------------------------------------------------------------------------------------- display

    def title(self) -> str:
        """What was scored, in one line."""
        return report.title(self)

    @checked
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
        `plot(by="role")`, `plot(by="layer")`; curves where scores are read along an axis. In a
        notebook it shows itself. See `plots.plot`.
        """
        from .plots import plot  # matplotlib is slow to import

        return plot(self, prompt, by=by, ax=ax, title=title, labels=labels, path=path)

    def __repr__(self) -> str:
        return report.report(self)

    def _repr_html_(self) -> str:
        from .page import token_page

        dims = self.data["effect"].dims
        if self.has_tokens and not self.has_steps:
            views = [self]
            for name in ("direction", "measure"):
                if name in dims:
                    views = [self.sel(**{name: str(d)}) for d in self.data[name].values]
            return "".join(token_page(view) for view in views)
        summary = tables.SUMMARIES.get(KINDS[self.kind].table)
        if summary is None or self.has_steps:
            return f"<pre>{escape(repr(self))}</pre>"
        table = summary(self).to_html(float_format="{:z.3f}".format, na_rep="")
        return _paragraphs(report.about(self)) + table


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
