"""What figures are drawn of: an image of effects, its legend, an open frame, texts as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, to_rgba
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

from .colours import NOISE_COLOUR, half_range

HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.75", "hatch": "//////"}
"""Cells without a score."""
DOTS: dict[str, Any] = {"edgecolor": "0.35", "hatch": "....", "linewidth": 0}
"""Cells that were not tested, over their own colour."""


def open_frame(axes: Axes) -> None:
    """No frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def spaced(names: Sequence[str], gap: float = 1.0) -> list[int]:
    """Which layers get a label: the named ones, and about ten of the numbered ones.

    Args:
        names: of all layers.
        gap: layers that labels are at least apart.
    """
    numbered = [i for i, name in enumerate(names) if name.isdigit()]
    named = [i for i in range(len(names)) if i not in numbered]
    step = max(1, -(-len(numbered) // 10), int(np.ceil(gap)))
    kept = [i for i in numbered[::step] if all(abs(i - other) >= gap for other in named)]
    return sorted([*named, *kept])


def effect_image(
    axes: Axes,
    values: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    untested: np.ndarray | None = None,
    largest: float | None = None,
) -> AxesImage:
    """An image of effects: red is positive, blue negative, the scale centred on 0.

    Args:
        axes: where to draw; row 0 is at the bottom.
        values: `(row, column)`; hatched where NaN.
        noise: `(row, column)` bool: cells under a light grey veil.
        untested: `(row, column)` bool: cells under dots.
        largest: where the scale ends; at the largest value when not given.
    """
    axes.patch.set(**HATCH)
    options: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="none")
    scale = CenteredNorm(0, halfrange=half_range(values) if largest is None else largest)
    image = axes.imshow(values, cmap=colours, norm=scale, **options)
    if noise is not None:
        axes.imshow(np.where(noise[..., None], to_rgba(NOISE_COLOUR, 0.8), 0.0), **options)
    if untested is not None:
        for column, there in enumerate(untested.T):
            edges = np.flatnonzero(np.diff(there, prepend=False, append=False))
            for first, behind in zip(edges[::2], edges[1::2], strict=True):
                corner = column - 0.5, first - 0.5
                axes.add_patch(Rectangle(corner, 1, behind - first, fill=False, **DOTS))
    return image


def untested_patch(told: str) -> Patch:
    """What a legend shows for cells that were not tested."""
    return Patch(**{"facecolor": "white", **DOTS}, label=told)


def no_score_patch() -> Patch:
    """What a legend shows for cells without a score."""
    return Patch(**HATCH, label="no score")


def literal(texts: Iterable[Text]) -> None:
    """Text from tokens is no formula, whatever its dollar signs say."""
    for text in texts:
        text.set_parse_math(False)
