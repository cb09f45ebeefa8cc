"""Parts of a picture that lie below each other inside its axes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox, TransformedBbox

from .style import MEDIUM, SMALL, Picture

_SMALLER = (1.0, 0.85, 0.7, 0.6, 0.5)
"""Sizes of letters that are tried in low axes, of the usual ones."""

_WORDS = 0.6
"""Part of low axes that words below maps and curves may take."""


class Column:
    """Parts below each other inside the axes of a picture; lengths in inches.

    Parts keep their heights where the axes have room for them; elsewhere the elastic ones give way.
    The axes themselves show nothing but their title, and what is hung on them.
    """

    def __init__(self, picture: Picture, *, right: float) -> None:
        """Args:
        picture: in whose axes the parts lie.
        right: room beside the parts.
        """
        self.height = 0.0
        self.smaller = 1.0
        self._ax, self._right, self._picture = picture.ax, right, picture
        self._ax.set_axis_off()
        self._is_as_high = picture.is_own
        self._heights: list[tuple[float, bool]] = []
        self._given: list[tuple[float, bool]] = []
        self._parts: list[Axes | None] = []
        picture.when_laid_out(self._fit)

    def space(self, height: float) -> None:
        """Room for words, of a fixed height."""
        self.height += height
        self._heights.append((height, False))
        self._parts.append(None)

    def part(self, height: float, *, elastic: bool = True, share: float = 1.0) -> Axes:
        """Axes below those before; `share` is of the width."""
        self.height += height
        self._heights.append((height, elastic))
        part = self._ax.inset_axes((0, 0, 1, 1))
        self._parts.append(part)
        number = len(self._heights) - 1

        def locate(_: Any, __: Any) -> Any:
            return self._placed(number, lambda width: (0, share * (width - self._right)))

        part.set_axes_locator(locate)
        return part

    def beside(self, part: Axes, width: float) -> Axes:
        """Axes to the right of a part."""
        number = self._parts.index(part)
        part = self._ax.inset_axes((0, 0, 1, 1))

        def locate(_: Any, __: Any) -> Any:
            return self._placed(number, lambda whole: (whole - self._right + 0.1, width))

        part.set_axes_locator(locate)
        return part

    def inches(self, part: Axes) -> float:
        """The height that a part has."""
        number = self._parts.index(part)
        # a figure of its own becomes as high as its parts
        return self._heights[number][0] if self._is_as_high else self._now()[number]

    def to_middle(self, part: Axes) -> float:
        """Inches from the upper edge to the middle of a part."""
        number = self._parts.index(part)
        heights = self._now()
        return sum(heights[:number]) + 0.5 * heights[number]

    def _fit(self) -> None:
        """In axes of the caller's that are low: smaller letters, so that the parts keep a place of
        their own above the words. What was last is the room of the legend.
        """
        height = self._ax.bbox.height / self._ax.figure.figure.dpi
        again = self._picture.legend_again
        # as they were given, however often this is done
        self._given = self._given or list(self._heights)
        *heights, last = self._given
        for smaller in _SMALLER:
            words = sum(part for part, elastic in heights if not elastic) * smaller
            legend = last[0] * smaller if again is None else again(size=SMALL * smaller)
            if words + legend <= _WORDS * height:
                break
        self.smaller = smaller
        kept = [(part if elastic else part * smaller, elastic) for part, elastic in heights]
        self._heights = [*kept, (legend, False)]
        parts: list[Any] = list(self._ax.child_axes)
        for axes in parts:
            axes.tick_params(labelsize=SMALL * smaller, pad=3.5 * smaller, length=3.5 * smaller)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set_fontsize(MEDIUM * smaller)
            if axes.get_title(loc="left"):
                which = axes.get_title(loc="left")
                axes.set_title(which, loc="left", fontsize=SMALL * smaller, pad=2)

    def _now(self) -> list[float]:
        """Heights of parts and spaces, given the present size of the axes."""
        height = self._ax.bbox.height / self._ax.figure.figure.dpi
        fixed = sum(part for part, elastic in self._heights if not elastic)
        given = sum(part for part, elastic in self._heights if elastic)
        stretch = max(height - fixed, 0.2 * height) / given
        return [part * stretch if elastic else part for part, elastic in self._heights]

    def _placed(self, number: int, across: Any) -> TransformedBbox:
        """Where a part is now, whatever size the axes have got."""
        dpi = self._ax.figure.figure.dpi
        width, height = self._ax.bbox.width / dpi, self._ax.bbox.height / dpi
        heights = self._now()
        below, (left, breadth) = height - sum(heights[: number + 1]), across(width)
        box = Bbox.from_bounds(
            left / width, below / height, breadth / width, heights[number] / height
        )
        return TransformedBbox(box, self._ax.transAxes - self._ax.figure.transSubfigure)
