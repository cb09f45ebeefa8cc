"""Horizontal bars with intervals: the rows of a picture, their names and their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.typing import ColorType

from ..hints import counted
from .arrays import ScoreArrays
from .dress import few_numbers, introduce
from .elements import open_frame
from .limit_kinds import SHARES, Shown
from .report import with_interval
from .style import MEDIUM, SMALL, Picture, Wishes, letters
from .words import names_apart, wrapped, wrapped_apart


@dataclass(frozen=True)
class BarColumn:
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


def bar_picture(
    scores: ScoreArrays, wishes: Wishes, *, rows: float, shown: Shown = SHARES
) -> Picture:
    """Room for so many rows of bars, and what stands above and below them."""
    picture = Picture(wishes, scores, width=8, height=1.0 + 0.38 * rows)
    picture.ax.axvline(0, color="black", linewidth=0.8)
    open_frame(picture.ax)
    introduce(picture, scores, counted(scores.data.sizes["prompt"], "prompt"), shown=shown)
    return picture


def over_prompts(scores: ScoreArrays) -> str:
    """What bars and their ticks are."""
    count = scores.data.sizes["prompt"]
    return "one prompt" if count == 1 else with_interval(count)


def draw_bars(
    axes: Axes, table: pd.DataFrame, column: BarColumn, colours: Sequence[ColorType]
) -> None:
    """Horizontal bars of a column with its interval, one row of the table below the other."""
    rows = np.arange(len(table)) + column.offset
    axes.barh(rows, table[column.name], column.height, color=colours)
    low, high = table[f"{column.prefix}low"], table[f"{column.prefix}high"]
    # grey with a white edge is seen on a black bar and beside it
    axes.hlines(rows, low, high, color="white", linewidth=3.5)
    axes.hlines(rows, low, high, color="0.35", linewidth=1.5)


def name_rows(picture: Picture, names: Sequence[str]) -> None:
    """Names beside the rows, the first row on top; the first line of a name is its own, others are
    notes. In axes of the caller's that are low, notes stand in one line, behind the name if need
    be, and smaller.
    """
    full, short, line = [], [], []
    firsts = [name.partition("\n")[0] for name in names]
    in_a_line, in_lines = names_apart(firsts, 32), wrapped_apart(firsts, 32)
    for name in names:
        first, *notes = name.split("\n")
        full.append(picture.text("\n".join([in_lines[first], *notes])))
        beside = [", ".join(notes)] if notes else []
        first = in_a_line[first]
        short.append(picture.text("\n".join([first, *beside])))
        line.append(picture.text(": ".join([first, *beside])))
    axes = picture.ax
    axes.set_yticks(range(len(full)), full, fontsize=SMALL)
    axes.set_ylim(len(full) - 0.4, -0.6)
    few_numbers(picture, axes)
    axes.tick_params(axis="x", labelsize=SMALL * picture.smaller)

    def fit() -> None:
        row = 72 * axes.bbox.height / axes.figure.figure.dpi / (len(full) + 0.2)  # points
        if _high(full) * SMALL <= row:
            return
        texts = short if row >= _high(short) * _SMALL_ROWS else line
        size = max(_LEAST, min(SMALL, 0.94 * row / _high(texts)))  # lines need some air
        axes.set_yticks(range(len(texts)), texts, fontsize=size)
        if texts is line:  # which leaves bars less room
            axes.locator_params(axis="x", nbins=4)

    picture.when_laid_out(fit)


_LEAST, _SMALL_ROWS = 4.0, 5.5
"""Points of letters that can still be read, and up to which a row has two lines of them."""


def _high(texts: Sequence[str]) -> float:
    """How high the highest of some texts is, in font sizes."""
    return 1.25 * max(1 + text.count("\n") for text in texts)


def name_bar_scale(picture: Picture, scores: ScoreArrays, what: str, how: str = "") -> float:
    """The name of the scale below the bars; returns how far down it reaches, in points."""
    size = MEDIUM * picture.smaller
    said = [picture.renamed(what), "; ".join(filter(None, [how, over_prompts(scores)]))]

    def name(inches: float) -> float:
        width = letters(inches, size)
        text = "\n".join(wrapped(line, width) for line in said)
        picture.ax.set_xlabel(picture.text(text), fontsize=size)
        return 24 + 13 * picture.smaller * (1 + text.count("\n"))

    def fit() -> None:
        """Names of rows may have moved the axes aside."""
        reach = name(picture.room())
        if picture.legend_again is not None:
            picture.legend_again(below=reach)

    picture.when_laid_out(fit)
    return name(picture.width)
