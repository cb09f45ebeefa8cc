"""Pictures of weights: a map of layers x modules, of one number each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..hints import nearest
from .elements import HATCH, literal, spaced
from .notebook_figures import NotebookAxes, show_after_cell
from .style import LARGE, LINE, MEDIUM, SMALL, letters, new_figure, write
from .words import columns, wrapped


class Map(NamedTuple):
    """What is drawn.

    Attributes:
        values: `(layer, module)`; NaN where a layer has no such module.
        layers: names of the rows, from the first layer on.
        modules: names of the columns.
        words: what a value is.
        counts: whether values are whole numbers.
    """

    values: np.ndarray
    layers: tuple[str, ...]
    modules: tuple[str, ...]
    words: str
    counts: bool = False

    @classmethod
    def of(cls, table: pd.DataFrame, column: str, words: Mapping[str, str], n_layers: int) -> Map:
        """One column of a table whose rows have a `layer` and a `module`.

        Args:
            table: the rows.
            column: which.
            words: columns that can be drawn, and what they are in words.
            n_layers: number of blocks.

        Raises:
            ValueError: no such column, or no values in it.
        """
        if column not in words:
            raise ValueError(
                f"of={column!r} is no column that can be drawn{nearest(column, words) or '.'} "
                f"Choose one of {', '.join(words)}."
            )
        rows = table[np.isfinite(table[column].astype(float))]
        if rows.empty:
            raise ValueError(f"of={column!r}: no module has a value of it; nothing can be drawn.")
        layers = sorted(rows["layer"].unique())
        modules = list(dict.fromkeys(rows["module"]))
        values = np.full((len(layers), len(modules)), np.nan)
        for layer, module, value in zip(rows["layer"], rows["module"], rows[column], strict=True):
            values[layers.index(layer), modules.index(module)] = value
        names = tuple(_layer_name(layer, n_layers) for layer in layers)
        counts = bool(table[column].dtype.kind in "iu")
        return cls(values, names, tuple(modules), words[column], counts)


def draw_map(
    drawn: Map,
    title: str,
    *,
    notes: Sequence[str] = (),
    ax: Axes | None = None,
    path: str | Path | None = None,
) -> Axes:
    """A map of layers x modules with its scale; hatched where a layer has no such module.

    Args:
        drawn: what.
        title: above it.
        notes: below it, what to know before trusting it.
        ax: draw there; a new figure when not given.
        path: also write the figure there, under a temporary name first.
    """
    rows, count = drawn.values.shape
    own = ax is None
    if ax is None:
        width = max(5.5, 2.4 + 0.5 * count)
        below = 0.1 * max(map(columns, drawn.modules))
        lines = [wrapped(note, letters(width, SMALL), lines=4) for note in notes]
        height = LINE * sum(1 + line.count("\n") for line in lines)
        figure = new_figure(width, max(1.8, 0.17 * rows) + below + 0.8 + height)
        ax = figure.add_subplot(axes_class=NotebookAxes)
    width = ax.bbox.width / ax.figure.figure.dpi
    ax.patch.set(**HATCH)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="none")
    # where all values are 0 the scale still goes upwards, from 0 to 1
    largest = None if np.nanmax(drawn.values) > 0 else 1.0
    options: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    image = ax.imshow(drawn.values, cmap=colours, vmin=0, vmax=largest, **options)
    height = ax.bbox.height / ax.figure.figure.dpi
    shown = spaced(drawn.layers, gap=LINE * rows / height)
    ax.set_yticks(shown, [drawn.layers[i] for i in shown])
    ax.set_xticks(range(count), drawn.modules, rotation=90)
    ax.tick_params(labelsize=SMALL)
    ax.set_ylabel("layer", fontsize=MEDIUM)
    ax.set_title(wrapped(title, letters(width, LARGE), lines=4), fontsize=LARGE)
    bar = ax.figure.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(wrapped(drawn.words, letters(max(height, 1.5), MEDIUM)), fontsize=MEDIUM)
    bar.ax.tick_params(labelsize=SMALL)
    if drawn.counts:
        bar.locator = MaxNLocator(min(6, int(np.nanmax(drawn.values)) or 1), integer=True)
        bar.update_ticks()
    if notes:
        told = [wrapped(note, letters(width, SMALL), lines=4) for note in notes]
        ax.set_xlabel("\n".join(told), fontsize=SMALL)
    literal([ax.title, ax.xaxis.label, *ax.get_xticklabels()])
    if path is not None:
        write(ax.figure.figure, path)
    elif own:
        show_after_cell(ax.figure.figure)
    return ax


def _layer_name(layer: int, n_layers: int) -> str:
    if layer < 0:
        return "embed"
    return "final" if layer >= n_layers else str(layer)
