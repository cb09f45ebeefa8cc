"""Bars with 95 % intervals over prompts: groups of tokens, token sets, total effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import tables
from .arrays import ScoreArrays
from .colours import (
    HEADLINE_COLOUR,
    MEASURE_COLOURS,
    OTHER_COLOUR,
    ROLE_COLOURS,
    SHARING_COLOURS,
    STUDENT_COLOUR,
)
from .report import NO_SHARES, effect_label, headings, warning
from .style import SMALL, legend_below, literal, new_figure, open_frame, set_title, warn, write
from .tokens import label


def role_bars(scores: ScoreArrays, *, by: str = "role", path: str | Path | None = None) -> Figure:
    """The effect gathered by a coordinate of the tokens, over all prompts, with 95 % intervals.

    Beside each bar: how many tokens it stands for and their share of the prompt's, and for
    attributions its share of the effect on the prompt's tokens.

    Args:
        scores: scores with a position axis.
        by: `role`, `sharing`, `turn` or `token`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        ValueError: the scores have no position axis, or no such coordinate.
    """
    table = tables.by(scores, by)
    figure, axes = _bar_figure(scores, len(table))
    known = ROLE_COLOURS | SHARING_COLOURS if by in ("role", "sharing") else {}
    _draw_bars(axes, table, _Column("effect"), [known.get(n, OTHER_COLOUR) for n in table.index])
    _label_rows(axes, [label(name) if by == "token" else name for name in table.index])
    axes.set_ylabel(by)
    gathered = "sum" if scores.additive else "mean"
    axes.set_xlabel(
        f"{effect_label(scores)}\n"
        f"{gathered} over the cells of these tokens; mean and 95 % interval over prompts"
    )

    # never an effect without its share of the tokens
    for row, (_, entry) in enumerate(table.iterrows()):
        text = tables.size_in_words(entry)
        if scores.additive and not np.isnan(entry["share"]):
            text += f"\n{entry['share']:.0%} of effect"
        place = axes.get_yaxis_transform()
        axes.text(1.02, row, text, transform=place, va="center", fontsize=SMALL)
    if scores.additive and table["share"].isna().all():
        _say_no_shares(axes)
    return write(figure, path)


def set_bars(scores: ScoreArrays, *, path: str | Path | None = None) -> Figure:
    """Sufficiency and necessity of each grafted token set, as shares of the total effect."""
    table = tables.sets(scores)
    measures = [measure for measure in MEASURE_COLOURS if measure in table]
    figure, axes = _bar_figure(scores, 1.6 * len(table))
    height = 0.8 / len(measures)
    for m, measure in enumerate(measures):
        offset = (m - (len(measures) - 1) / 2) * height
        column = _Column(measure, prefix=f"{measure} ", offset=offset, height=height)
        _draw_bars(axes, table, column, [MEASURE_COLOURS[measure]] * len(table))
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    if table[measures].isna().all(axis=None):
        _say_no_shares(axes)
    rows = [f"{name} ({entry['tokens']:.3g} tokens)" for name, entry in table.iterrows()]
    _label_rows(axes, rows)
    axes.set_ylabel("token set")
    axes.set_xlabel(
        f"share of the total effect: {scores.headline_name}\n"
        "0 = none, 1 = all of it; 95 % interval over prompts"
    )
    handles = [Patch(color=MEASURE_COLOURS[measure], label=measure) for measure in measures]
    legend_below(figure, handles, columns=len(measures))
    return write(figure, path)


def total_bars(scores: ScoreArrays, *, path: str | Path | None = None) -> Figure:
    """The total effect of student, controls and their difference."""
    table = tables.totals(scores)
    figure, axes = _bar_figure(scores, len(table))
    known = {"student": STUDENT_COLOUR, scores.headline_name: HEADLINE_COLOUR}
    _draw_bars(axes, table, _Column("effect"), [known.get(n, OTHER_COLOUR) for n in table.index])
    _label_rows(axes, list(table.index))
    axes.set_xlabel(
        f"change of {scores.record.metric} from the base model, {scores.unit}\n"
        "mean and 95 % interval over prompts"
    )
    return write(figure, path)


# -------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Column:
    """A column of a table and where its bars lie.

    Attributes:
        name: of the column.
        prefix: before `low` and `high`, the columns of its interval.
        offset: of the bars from their row.
        height: of a bar; rows are 1 apart.
    """

    name: str
    prefix: str = ""
    offset: float = 0.0
    height: float = 0.7


def _bar_figure(scores: ScoreArrays, rows: float) -> tuple[Figure, Axes]:
    figure = new_figure(8, 1.6 + 0.38 * rows)
    set_title(figure, *headings(scores), f"{scores.data.sizes['prompt']} prompts")
    axes = figure.subplots()
    warn(axes, warning(scores))
    axes.axvline(0, color="black", linewidth=0.8)
    open_frame(axes)
    return figure, axes


def _draw_bars(axes: Axes, table: pd.DataFrame, column: _Column, colours: Sequence[str]) -> None:
    """Horizontal bars of a column with its interval, one row of the table below the other."""
    rows = np.arange(len(table)) + column.offset
    axes.barh(rows, table[column.name], column.height, color=colours)
    low, high = table[f"{column.prefix}low"], table[f"{column.prefix}high"]
    # grey with a white edge is seen on a black bar and beside it
    axes.hlines(rows, low, high, color="white", linewidth=3.5)
    axes.hlines(rows, low, high, color="0.35", linewidth=1.5)


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first row on top
    literal(axes.get_yticklabels())


def _say_no_shares(axes: Axes) -> None:
    axes.text(
        0.5, 1.01, NO_SHARES, transform=axes.transAxes, ha="center", va="bottom", fontsize=SMALL
    )
