"""How figures look: their frame, titles, legends and files, and an image of effects.

Figures are built without pyplot, so nothing is registered globally and nothing needs closing.

    figure = new_figure(8, 3)
    axes = figure.subplots()
    image = effect_image(axes, values)           # blue-red, centred on 0, hatched where NaN
    colour_bar(figure, axes, image, "nats")
    set_title(figure, "what is shown")
    write(figure, path)
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.text import Text

from ..storage.files import replacing
from .colours import NOISE_COLOUR, WARNING_COLOUR, half_range

SMALL, MEDIUM, LARGE = 8, 9, 10
"""Font sizes: ticks and legends, names of axes, titles."""

HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.75", "hatch": "//////"}
"""Cells without a score."""


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself.

    A plain one is shown only after `%matplotlib inline`.
    """

    def _repr_png_(self) -> bytes:
        return _encode(self, "png")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts make room for each other."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def set_title(figure: Figure, *lines: str) -> None:
    """The title; its first line is broken where the figure is too narrow for it."""
    first, *others = lines
    wrapped = textwrap.wrap(first, int(figure.get_figwidth() * 14))
    literal([figure.suptitle("\n".join([*wrapped, *others]), fontsize=LARGE)])


def legend_below(
    figure: Figure, handles: Sequence[Patch], *, title: str | None = None, columns: int = 4
) -> None:
    """A legend under the figure."""
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=SMALL,
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
    )


def open_frame(axes: Axes) -> None:
    """No frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def warn(axes: Axes, text: str | None) -> None:
    """In red above the axes, what no reader may miss; nothing where there is no warning."""
    if text is not None:
        axes.set_title(text, color=WARNING_COLOUR, fontsize=MEDIUM, fontweight="bold", pad=14)


def effect_image(axes: Axes, values: np.ndarray, noise: np.ndarray | None = None) -> AxesImage:
    """An image of effects: red is positive, blue negative, the scale centred on 0.

    Args:
        axes: where to draw; row 0 is at the bottom.
        values: `(row, column)`; hatched where NaN.
        noise: `(row, column)` bool: cells under a light grey veil.
    """
    axes.patch.set(**HATCH)
    options: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="none")
    scale = CenteredNorm(0, halfrange=half_range(values))
    image = axes.imshow(values, cmap=colours, norm=scale, **options)
    if noise is not None:
        axes.imshow(np.where(noise[..., None], to_rgba(NOISE_COLOUR, 0.8), 0.0), **options)
    return image


def colour_bar(
    figure: Figure, axes: Axes, image: AxesImage, text: str, *, slim: float = 25
) -> None:
    """The scale of an image beside it; `slim` is its height over its width."""
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, aspect=slim)
    bar.set_label(text, fontsize=MEDIUM)
    bar.ax.tick_params(labelsize=SMALL)


def no_score_patch() -> Patch:
    """What a legend shows for cells without a score."""
    return Patch(**HATCH, label="no score")


def literal(texts: Iterable[Text]) -> None:
    """Text from tokens is no formula, whatever its dollar signs say."""
    for text in texts:
        text.set_parse_math(False)


def write(figure: Figure, path: str | Path | None) -> Figure:
    """Write a figure (format by the suffix, PNG without one) and return it.

    The file is whole or not there; without a path nothing is written.
    """
    if path is not None:
        with replacing(path) as work:
            work.write_bytes(_encode(figure, Path(path).suffix[1:] or "png"))
    return figure


def _encode(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120)
    return buffer.getvalue()
