"""How figures look: where a picture is drawn, its words, legends and files.

Figures are built without pyplot, so nothing is registered globally and nothing needs closing. In a
notebook they show themselves (`notebook_figures`).

    picture = Picture(Wishes(title="mine"), scores, width=8, height=3)
    effect_image(picture.ax, values)             # blue-red, centred on 0, hatched where NaN
    picture.heading(["what is shown"])
    axes = picture.finish()

    figure = new_figure(8, 3)                    # or a figure of several axes of one's own
    left, right = figure.subplots(1, 2)
    set_title(figure, "what is shown")
    write(figure, path)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Annotation, Text
from matplotlib.ticker import ScalarFormatter
from matplotlib.transforms import offset_copy

from ..hints import nearest
from ..storage.files import place, replacing
from .arrays import ScoreArrays
from .colours import WARNING_COLOUR
from .elements import literal
from .fonts import drawable, fallbacks, text_families
from .notebook_figures import NotebookAxes, NotebookFigure, encoded, show_after_cell
from .words import columns, wrapped

SMALL, MEDIUM, LARGE = 8, 9, 10
"""Font sizes: ticks and legends, names of axes, titles."""

LINE = 0.18
"""Inches that a line of text takes."""

# ------------------------------------------------------------------------------------ one picture


@dataclass(frozen=True)
class Wishes:
    """What a caller asks of a picture.

    Attributes:
        ax: where to draw; a new figure when None.
        title: in place of the usual one.
        labels: names of the scores -> what to call them.
        path: the file to write.
    """

    ax: Axes | None = None
    title: str | None = None
    labels: Mapping[Any, str] | None = None
    path: str | Path | None = None


class Picture:
    """A picture in the making: the axes it is drawn in and the words around them.

    Attributes:
        ax: where to draw.
        is_own: whether its figure was made for it.
        width: inches that words may take.
        height: of the axes of a figure of its own and of what hangs below them.
        smaller: how large letters around axes are, of the usual ones; in small axes of the
            caller's below 1.
    """

    def __init__(
        self,
        wishes: Wishes,
        scores: ScoreArrays,
        *,
        width: float,
        height: float,
        margin: float = 1.9,
    ) -> None:
        """Args:
        wishes: what the caller asks.
        scores: what is drawn; only their names may be renamed.
        width: of a figure of its own, in inches.
        height: of its axes and of what hangs below them.
        margin: of its width, what words beside the axes take.

        Raises:
            ValueError: `labels` renames what the scores do not hold.
        """
        self.is_own = wishes.ax is None
        self._wishes = wishes
        self._labels = _renamings(scores, wishes.labels or {})
        self._phrases = [scores.headline_name, scores.record.what]
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self._title: list[str] = []
        self._heads: list[str] = []
        self._told: list[str] = []
        self._limits: list[str] = []
        self._foot: Annotation | None = None
        self._fits: list[Callable[[], None]] = []
        self.legend_again: Callable[..., float] | None = None
        self._lacks_fonts = False
        self._has_page = scores.has_tokens
        self.height = height
        self.smaller = 1.0
        if wishes.ax is None:
            self.ax: Axes = new_figure(width, height).add_subplot(axes_class=NotebookAxes)
            self.width = width - margin
        else:
            self.ax = wishes.ax
            self.width = self.ax.bbox.width / self.ax.figure.figure.dpi
            high = self.ax.bbox.height / self.ax.figure.figure.dpi
            self.smaller = float(np.clip(min(self.width / 4, high / 2.2), _LEAST, 1.0))
        # what the caller wrote into the axes stays as it is
        self._not_ours = set(self.ax.texts)

    def text(self, text: str) -> str:
        """A text as figures write it; what no font draws is told on the figure."""
        drawn = drawable(text)
        if not self._lacks_fonts:
            self._lacks_fonts = bool(fallbacks(set(text)).missing)
        return drawn

    def name(self, name: object) -> str:
        """What the caller calls a name of the scores."""
        return self._labels.get(str(name), str(name))

    def renamed(self, text: str) -> str:
        """A text in which the metric and the headline are called what the caller calls them."""
        for phrase in self._phrases:
            text = text.replace(phrase, self.name(phrase))
        return text

    def heading(self, usual: Sequence[str]) -> None:
        """The lines that stand above, or the title of the caller's in their place."""
        self._heads = list(usual) if self._wishes.title is None else [self._wishes.title]
        self._title = self._wrap_heads(self.width)

    def _wrap_heads(self, inches: float) -> list[str]:
        """The lines above, broken to a width."""
        width = letters(inches, LARGE * self.smaller)
        lines = [wrapped(line, width, lines=4) for line in self._heads]
        return [line for line in lines if line]

    def limit(self, lines: Sequence[str]) -> None:
        """What limits the numbers, below all else; no title takes it away.

        Each in a line of its own, or in axes of the caller's, whose room is given, one after the
        other.
        """
        self._told = list(lines)
        self._limits = self._wrap_limits(self.width)

    def _wrap_limits(self, inches: float) -> list[str]:
        """What limits the numbers, broken to a width."""
        width = letters(inches, SMALL * self.smaller)
        if self._told and not self.is_own:
            return [wrapped("; ".join(self._told), width, lines=4 * len(self._told))]
        return [wrapped(line, width, lines=4) for line in self._told]

    def when_laid_out(self, fit: Callable[[], None]) -> None:
        """Have names fitted to the room that axes of the caller's leave, once all words are set."""
        self._fits.append(fit)

    def note(self, text: str | None, **font: Any) -> None:
        """A line between title and axes; nothing without a text."""
        if text is not None:
            size = font["fontsize"] = font.get("fontsize", SMALL) * self.smaller
            # bold letters are wider
            size = size * 1.15 if font.get("fontweight") == "bold" else size
            self._notes.append((wrapped(text, letters(self.width, size), lines=4), font))

    def warn(self, text: str | None) -> None:
        """In red above the axes, what no reader may miss; nothing where there is no warning."""
        self.note(text, color=WARNING_COLOUR, fontsize=MEDIUM, fontweight="bold")

    def legend(
        self,
        handles: Sequence[Artist],
        *,
        title: str | None = None,
        below: float = 0,
        size: float | None = None,
    ) -> float:
        """A legend at the foot of the axes.

        Args:
            handles: its entries.
            title: above them.
            below: how far below the axes its upper edge is, in points; 0 puts its lower edge on
                the foot of the axes.
            size: of its letters, in points; as suits the axes when not given.

        Returns:
            Its height in inches.
        """
        size = SMALL * self.smaller if size is None else size
        room = letters(self.width, size)
        entries = self._entries([columns(str(handle.get_label())) for handle in handles], room)
        heading = None
        if title is not None:
            heading = self.text(wrapped(title, room))
        foot = offset_copy(self.ax.transAxes, fig=self.ax.figure.figure, y=-below, units="points")
        self.ax.legend(
            handles=handles,
            title=heading,
            title_fontsize=size,
            loc="upper center" if below else "lower center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=foot,
            borderaxespad=0,
            ncols=entries,
            fontsize=size,
            frameon=False,
        )
        self.legend_again = partial(self.legend, handles, title=title, below=below)
        rows = -(-len(handles) // entries) + (heading or "").count("\n") + (heading is not None)
        return (LINE * rows + 0.1) * size / SMALL

    def _entries(self, widths: list[int], room: int) -> int:
        """How many entries of a legend fit beside each other, of which one is so many letters, as
        the room is.
        """
        for entries in range(min(4, len(widths)), 1, -1):
            # a legend is filled column by column; a swatch takes the room of 9 letters
            rows = -(-len(widths) // entries)
            wide = [max(widths[i : i + rows]) + 9 for i in range(0, len(widths), rows)]
            if sum(wide) <= room:
                return entries
        return 1

    def finish(self) -> Axes:
        """Set the words, write the file or have a notebook show the figure; returns the axes."""
        foot = self._draw_limits()
        if self._lacks_fonts:
            where = "the token page shows them (save_page)"
            if not self._has_page:
                where = "a font that does, say of the Noto family, would draw them"
            self.note(f"\\u{{…}}: characters that no font here has; {where}")
        # lines from the axes upwards
        up = 5.0
        for text, font in reversed(self._notes):
            self.ax.annotate(
                self.text(text),
                (0.5, 1),
                xytext=(0, up),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="bottom",
                annotation_clip=False,
                **font,
            )
            up += 12 * self.smaller * (1 + text.count("\n"))
        title = "\n".join(self._title)
        self.ax.set_title(self.text(title), fontsize=LARGE * self.smaller, pad=up + 1)
        self._set_fonts()

        figure = self.ax.figure.figure
        if self.is_own:
            head = LINE * (1 + title.count("\n")) + (up + 12) / 72
            figure.set_figheight(self.height + head + foot)
        else:
            self._fit()
            if figure.get_layout_engine() is None:
                for _ in range(3):  # words in less room are in more lines
                    if not self._keep_inside():
                        break
                    self._fit()
                else:
                    self._keep_inside()
        if self._wishes.path is not None:
            write(figure, self._wishes.path)
        elif self.is_own:
            show_after_cell(figure)
        return self.ax

    def _fit(self) -> None:
        """Have words and names fitted to the room that there is.

        Names of rows move the axes, and with them the words above and below; these, in more lines,
        make the axes lower, which the names have to fit again.
        """
        figure = self.ax.figure.figure
        before: tuple[Any, ...] | None = None
        for _ in range(4):
            figure.draw_without_rendering()
            if self._wrap_again():
                figure.draw_without_rendering()
            place = tuple(np.round(self.ax.bbox.bounds))
            if place == before:  # as the names know it
                break
            before = place
            for fit in self._fits:
                fit()
        self._set_fonts()

    def room(self) -> float:
        """Inches that words around the middle of the axes have before they leave the figure."""
        figure = self.ax.figure.figure
        middle = (self.ax.bbox.x0 + self.ax.bbox.x1) / 2
        room = 2 * min(middle, figure.bbox.width - middle) / figure.dpi - 0.1
        return float(min(self.width, room))

    def _wrap_again(self) -> bool:
        """Break the words above and below to the room on either side of the middle of the axes;
        returns whether they changed.
        """
        room = self.room()
        said: list[tuple[Text, list[str]]] = [(self.ax.title, self._wrap_heads(room))]
        if self._foot is not None:
            said.append((self._foot, self._wrap_limits(room)))
        changed = False
        for words, lines in said:
            text = self.text("\n".join(lines))
            changed = changed or text != words.get_text()
            words.set_text(text)
        return changed

    def _keep_inside(self) -> bool:
        """In a figure of the caller's that lays nothing out: shrink the axes within their part of
        it, so that their words are inside; returns whether they were too large.
        """
        spec = self.ax.get_subplotspec()
        if spec is None:  # the caller put them there
            return False
        figure, is_moved = self.ax.figure.figure, False
        spec = spec.get_topmost_subplotspec()
        down, across = spec.get_gridspec().get_geometry()
        rows, columns = spec.rowspan, spec.colspan
        wide, high = figure.bbox.size
        left, right = columns.start / across * wide, columns.stop / across * wide
        below, above = (1 - rows.stop / down) * high, (1 - rows.start / down) * high
        for _ in range(3):
            figure.draw_without_rendering()
            words, place = self.ax.get_tightbbox(), self.ax.get_position()
            if words is None:
                break
            lacks = np.array(
                [left - words.x0, below - words.y0, words.x1 - right, words.y1 - above]
            )
            if lacks.max() < 1:
                break
            lacks = np.maximum(lacks + 2, 0) / [wide, high, wide, high]
            least = _KEPT / np.array([across, down])
            size = np.maximum(place.size - lacks[:2] - lacks[2:], np.minimum(place.size, least))
            corner = place.p0 + lacks[:2]
            self.ax.set_position((*corner, *size))
            self.ax.set_in_layout(True)  # which a position takes away
            is_moved = True
        return is_moved

    def _draw_limits(self) -> float:
        """Write what limits the numbers below legend and scale; returns its height in inches."""
        if not self._limits:
            return 0.0
        text = self.text("\n".join(self._limits))
        scale = self.ax.xaxis.label
        lowest: Artist = scale if scale.get_text() else self.ax
        # a legend hangs below the name of the scale
        lowest = self.ax.get_legend() or lowest
        self._foot = self.ax.annotate(
            text,
            (0.5, 0),
            xytext=(0, -5),
            xycoords=("axes fraction", lowest),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=SMALL * self.smaller,
            annotation_clip=False,
        )
        return LINE * (1 + text.count("\n")) + 0.1

    def _set_fonts(self) -> None:
        """Give every text fonts that have its characters; tokens are no formulas."""
        axes = [self.ax, *self.ax.child_axes]
        numbers: set[Any] = set()
        for one in axes:
            for axis in (one.xaxis, one.yaxis):
                if isinstance(axis.get_major_formatter(), ScalarFormatter):
                    numbers.update(axis.findobj(Text))
                    numbers.discard(axis.label)
        texts = [text for text in self.ax.findobj(Text) if text not in self._not_ours | numbers]
        literal(texts)
        found = fallbacks({c for text in texts for c in text.get_text()}).families
        for text in texts:
            text.set_fontfamily(
                list(dict.fromkeys([*text_families(*text.get_fontfamily()), *found]))
            )


def _renamings(scores: ScoreArrays, labels: Mapping[Any, str]) -> dict[str, str]:
    """Names of the scores -> what to call them; a model's name also in that of the headline."""
    wanted = {str(name): text for name, text in labels.items()}
    known = names_of(scores)
    for name in wanted:
        if name not in known:
            some = ", ".join(map(repr, list(known)[:12]))
            raise ValueError(
                f"labels: {name!r} is no name of these scores; they have {some}"
                f"{', …' if len(known) > 12 else ''}{nearest(name, known) or '.'}"
            )
    student, headline = str(scores.data["model"].values[0]), scores.headline_name
    if student in wanted and headline not in wanted:
        wanted[headline] = headline.replace(student, wanted[student], 1)
    return wanted


def names_of(scores: ScoreArrays) -> list[str]:
    """What `labels` may rename: models, the metric, and labels of the cells and of their tokens."""
    data = scores.data
    names = [*data["model"].values.tolist(), scores.headline_name, scores.record.what]
    for name in ("set", "measure", "layer_name", "role", "sharing"):
        if name in data.coords:
            names += np.unique(data[name].values.astype(str)).tolist()
    names += [scores.selected[name] for name in ("set", "measure") if name in scores.selected]
    return [name for name in dict.fromkeys(map(str, names)) if name]


def fitted(said: Sequence[str], inches: float, size: float, *, lines: int = 3) -> tuple[str, float]:
    """The first of several texts that fits uncut, in lines, in letters of a size or smaller ones;
    the last one, cut, where none does.

    Args:
        said: the same in ever fewer words.
        inches: that a line may take.
        size: of the letters, in points.
        lines: at most.

    Returns:
        The text in lines and the size of its letters.
    """
    for text in said:
        for smaller in (1.0, 0.85, 0.7):
            found = wrapped(text, letters(inches, size * smaller), lines=lines)
            if "".join(found.split()) == "".join(text.split()):
                return found, size * smaller
    return wrapped(said[-1], letters(inches, size), lines=lines), size


def letters(inches: float, size: float) -> int:
    """How many letters of a font size fit."""
    return max(8, int(inches * 72 / (0.58 * size)))


_LEAST = 0.7
"""Size of letters around small axes, at least, of the usual ones."""

_KEPT = 0.3
"""Part of their place in a figure that axes keep, whatever words stand around them."""


# ---------------------------------------------------------------------- figures of several axes


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts make room for each other."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def set_title(figure: Figure, *lines: str) -> None:
    """The title; its first line is broken where the figure is too narrow for it."""
    first, *others = lines
    first = wrapped(first, int(figure.get_figwidth() * 14), lines=4)
    literal([figure.suptitle("\n".join([first, *others]), fontsize=LARGE)])


def colour_bar(
    figure: Figure, axes: Axes, image: AxesImage, text: str, *, slim: float = 25
) -> None:
    """The scale of an image beside it; `slim` is its height over its width."""
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, aspect=slim)
    bar.set_label(text, fontsize=MEDIUM)
    bar.ax.tick_params(labelsize=SMALL)


def write(figure: Figure, path: str | Path | None) -> Figure:
    """Write a figure (format by the suffix; without one as PNG, whose suffix the name gets, as
    matplotlib does it) and return it.

    The file is whole or not there, folders above it are made; without a path nothing is written.

    Raises:
        ValueError: a suffix that no format of matplotlib has.
    """
    if path is not None:
        target = place(path)
        form = target.suffix[1:].lower() or "png"
        if target.name and not target.suffix and not target.is_dir():
            target = target.with_name(f"{target.name}.png")
        known = figure.canvas.get_supported_filetypes()
        if form not in known:
            raise ValueError(
                f"path={str(path)!r}: figures are not written as .{form}, but as one of "
                f"{', '.join(sorted(known))}."
            )
        with replacing(target) as work:
            work.write_bytes(encoded(figure, form))
    return figure
