"""Figures of a study, from its rows: one flat record per student and evaluation context.

Every number is a mean over data sets (row seeds) of the means of their students; bands and bars are
95 % of Student's t over data sets, and there are none where there is a single data set. Values are
changes of log P(the trait is named) against the base, in nats. What limits them stands below
(`study_limits`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ..hints import signed
from .colours import (
    COMPARED_COLOURS,
    HEADLINE_COLOUR,
    MEASURE_COLOURS,
    OTHER_COLOUR,
    STUDENT_COLOUR,
    half_range,
)
from .elements import effect_image, literal, open_frame
from .fonts import fallbacks, text_families
from .limit_kinds import Limit
from .same_students import ALL, of_the_same
from .study_limits import (
    HEADLINE,
    Point,
    graft_noise,
    of_capacities,
    of_concentrations,
    of_contexts,
    of_places,
    of_ranks,
    of_traits,
    point,
    stages,
)
from .style import LARGE, MEDIUM, SMALL, colour_bar, letters, new_figure
from .words import wrapped

WIDTH = 5.0
"""Inches; narrow, so that letters stay legible at the width of a phone."""

_INK = "#111111"  # on a coloured cell, whatever the page's text colour is
_PAPER = "#FFFFFF"


# ------------------------------------------------------------------------------------------ figures


def rank_figure(rows: pd.DataFrame, full: pd.DataFrame, rule: str) -> Figure:
    """Trait against LoRA rank under one scaling rule, with base line and control; the line is over
    students that all ranks have (`of_the_same`).

    Args:
        rows: LoRAs of one rule and one setting, one training of each rank.
        full: full fine-tunes of the same setting, of one training; may be empty.
        rule: how the scale grows with the rank.
    """
    figure, axes = _begin(f"Trait against LoRA rank; scaling rule: {rule}")
    ranks = sorted(int(rank) for rank in rows["rank"].unique())
    same = of_the_same(rows, full)
    by_rank = [same.line[same.line["rank"] == rank] for rank in ranks]
    # beside the line, whatever steps ranks take
    step = min([*np.diff(np.log2(ranks)), 2.0])
    lines = (
        ("specific", HEADLINE, HEADLINE_COLOUR, "o-", -1),
        ("change", "student", STUDENT_COLOUR, "s-", 0),
        ("control", "control", OTHER_COLOUR, "^--", 1),
    )
    beyond = ranks[-1] * 4
    for column, name, colour, form, aside in lines:
        points = [point(group, column) for group in by_rank]
        _banded(axes, ranks, points, (name, colour, form))
        # beside each other, each interval is seen
        asides = [(same.full, beyond * 2 ** (0.3 * aside), "full")]
        asides += [(same.more_full, beyond * 2 ** (0.3 * aside + 0.15), "none")]
        for rank, every in same.more.items():
            asides.append((every, rank * 2 ** (step * (0.3 + 0.12 * aside)), "none"))
        for here, place, fill in asides:
            found, sign = point(here, column), "D" if place > ranks[-1] * 2 else form[0]
            if not math.isnan(found.mean):
                _barred(axes, place, found, (None, colour, sign), fill=fill)
    if same.more or len(same.more_full):
        axes.plot([], [], "o", color=HEADLINE_COLOUR, ms=5, fillstyle="none", label=ALL)
    axes.axhline(0, color=OTHER_COLOUR, lw=1, ls=":", label="base")
    ticks, names = list(ranks), [str(rank) for rank in ranks]
    if len(full):
        axes.axvline(ranks[-1] * 2, color=OTHER_COLOUR, lw=0.5)
        ticks, names = [*ticks, beyond], [*names, "full"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, names)
    axes.minorticks_off()
    axes.set_xlabel("rank", fontsize=MEDIUM)
    return _end(figure, axes, "change of log P, nats", of_ranks(rows, full))


def context_figure(rows: pd.DataFrame) -> Figure:
    """Training context x evaluation context; each cell has its own base level and control."""
    trained = list(dict.fromkeys(rows["trained_in"]))
    asked = list(dict.fromkeys(rows["evaluated_in"]))
    values = np.full((len(trained), len(asked)), np.nan)
    words = [["" for _ in asked] for _ in trained]
    for i, one in enumerate(trained):
        for j, other in enumerate(asked):
            here = rows[(rows["trained_in"] == one) & (rows["evaluated_in"] == other)]
            found = point(here, "specific")
            values[i, j] = found.mean
            if len(here):
                level, control = point(here, "base level"), point(here, "control")
                beside = f"base {level.mean:z.2f}\ncontrol {signed(control.mean, 2)}"
                words[i][j] = f"{_short(found)}\n{beside}"
    figure = _matrix(
        values, words, (trained, asked), ("trained in", "asked in"), f"{HEADLINE}, nats"
    )
    return _finish(figure, of_contexts(rows))


def trait_figure(rows: pd.DataFrame) -> Figure:
    """Students x traits: how far students of each trait raise every trait."""
    students = list(dict.fromkeys(rows["trait"]))
    others = [name.removeprefix("change ") for name in rows if name.startswith("change ")]
    traits = [name for name in others if name != "by question" and name not in students]
    traits = [*students, *traits]
    points = [
        [point(rows[rows["trait"] == student], f"change {trait}") for trait in traits]
        for student in students
    ]
    values = np.array([[one.mean for one in line] for line in points])
    words = [[_short(one) for one in line] for line in points]
    figure = _matrix(values, words, (students, traits), ("student", "trait"), "change, nats")
    return _finish(figure, of_traits(rows))


def capacity_figure(rows: pd.DataFrame) -> Figure:
    """Trait against held-out KL, one curve per capacity; a point per method, learning rate or
    snapshot, which is the mean of students of one training (`stages`).
    """
    figure, axes = _begin("Trait at equal imitation of the teacher")
    kept = rows[(rows["kl"] > 0) & rows["specific"].notna()]
    for i, (name, group) in enumerate(kept.groupby("capacity", sort=False)):
        colour = COMPARED_COLOURS[i % len(COMPARED_COLOURS)]
        form = "osD^vPX*"[i % 8]
        axes.plot(group["kl"], group["specific"], form, color=colour, ms=3, alpha=0.35)
        means = sorted(
            (float(np.exp(np.log(stage["kl"]).mean())), *point(stage, "specific")[:3])
            for stage in stages(group).values()
        )
        kl, mean, low, high = np.array(means).T
        axes.plot(kl, mean, form + "-", color=colour, ms=6, label=str(name))
        for x, bottom, top in zip(kl, low, high, strict=True):
            axes.plot([x, x], [bottom, top], color=colour, lw=1)
    axes.axhline(0, color=OTHER_COLOUR, lw=1, ls=":", label="base and control")
    axes.set_xscale("log")
    _few_ticks(axes)
    axes.set_xlabel("held-out KL(teacher || student), nats per token", fontsize=MEDIUM)
    return _end(figure, axes, f"{HEADLINE}, nats", of_capacities(rows))


_FEWEST_TICKS, _MOST_TICKS = 3, 7


def _few_ticks(axes: Axes) -> None:
    """Plain numbers along a logarithmic scale: powers of ten where these are enough, else their
    halves and fifths, else numbers as on an even scale.
    """
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        every = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [one for one in every if low <= one <= high]
        if len(ticks) >= _FEWEST_TICKS:
            break
    else:
        ticks = [one for one in MaxNLocator(4).tick_values(low, high) if low <= one <= high]
    ticks = ticks[:: -(-len(ticks) // _MOST_TICKS)]
    axes.set_xticks(ticks, [f"{one:.3g}" for one in ticks])
    axes.minorticks_off()


def concentration_figure(rows: pd.DataFrame, by: str, on: str = "shared") -> Figure:
    """Share of the effect on a token set beside its share of tokens, for each value of a column.

    Args:
        rows: with `ig <on> share`, `ig <on> token share`, `graft <on> sufficiency` and
            `necessity`, `graft total`.
        by: the column.
        on: the token set.
    """
    figure, axes = _begin(f"How much of the effect sits on {on} tokens")
    bars = (
        (f"ig {on} share", "graft IG: share", HEADLINE_COLOUR, "o"),
        ("sufficiency", "graft: sufficiency / effect", MEASURE_COLOURS["sufficiency"], "s"),
        ("necessity", "graft: necessity / effect", MEASURE_COLOURS["necessity"], "^"),
    )
    groups = list(dict.fromkeys(rows[by]))
    for i, group in enumerate(groups):
        here = _with_parts(rows[rows[by] == group], on)
        tokens = point(here, f"ig {on} token share").mean
        label = "share of tokens" if i == 0 else None
        axes.plot([i - 0.4, i + 0.4], [tokens] * 2, color=OTHER_COLOUR, lw=3, label=label)
        for j, (column, name, colour, form) in enumerate(bars):
            found = point(here, column)
            place = i + 0.2 * (j - 1)
            _barred(axes, place, found, (name if i == 0 else None, colour, form))
    _named(axes, groups)
    axes.axhline(0, color=OTHER_COLOUR, lw=1, ls=":")
    axes.axhline(1, color=OTHER_COLOUR, lw=1, ls=":")
    return _end(figure, axes, "share", of_concentrations(rows, by, on))


def _with_parts(rows: pd.DataFrame, on: str) -> pd.DataFrame:
    """`sufficiency` and `necessity` of a token set as parts of each student's graft; of an effect
    inside its own noise there are none.
    """
    whole = rows["graft total"].where(rows[f"ig {on} share"].notna() & ~graft_noise(rows))
    parts = {one: rows[f"graft {on} {one}"] / whole for one in ("sufficiency", "necessity")}
    return rows.assign(**parts)


def trained_at_figure(rows: pd.DataFrame) -> Figure:
    """What students trained at some tokens only have of the trait."""
    figure, axes = _begin("Trained at chosen tokens only")
    places = list(dict.fromkeys(rows["where"]))
    for i, place in enumerate(places):
        here = rows[rows["where"] == place]
        found, control = point(here, "specific"), point(here, "control")
        names = (HEADLINE, "control") if i == 0 else (None, None)
        axes.bar(i, found.mean, 0.6, color=COMPARED_COLOURS[0], alpha=0.35)
        _barred(axes, i, found, (names[0], HEADLINE_COLOUR, "o"))
        _barred(axes, i + 0.15, control, (names[1], OTHER_COLOUR, "^"))
    _named(axes, places)
    axes.axhline(0, color=OTHER_COLOUR, lw=1, ls=":", label="base")
    return _end(figure, axes, "change of log P, nats", of_places(rows))


# -------------------------------------------------------------------------------------------- parts

Mark = tuple[str | None, str, str]
"""Name in the legend, colour, form."""


def _begin(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(WIDTH, 3.8)
    axes = figure.add_subplot()
    literal([axes.set_title(wrapped(title, 52, lines=3), fontsize=LARGE)])
    open_frame(axes)
    return figure, axes


def _end(figure: Figure, axes: Axes, name: str, limits: Sequence[Limit]) -> Figure:
    axes.set_ylabel(name, fontsize=MEDIUM)
    axes.tick_params(labelsize=MEDIUM)
    if axes.get_legend_handles_labels()[1]:
        # below the axes, where it hides nothing
        legend = figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
        literal(legend.get_texts())
    if axes.get_xscale() == "linear":  # names, not powers of ten
        literal(axes.get_xticklabels())
    return _finish(figure, limits)


def _finish(figure: Figure, limits: Sequence[Limit]) -> Figure:
    """Write what limits the numbers below all else, and give every text its fonts."""
    if limits:
        width, height = figure.get_size_inches()
        room = letters(width - 0.2, SMALL)
        text = "\n".join(wrapped(limit.short, room, lines=4) for limit in limits)
        foot = 0.05 + SMALL / 72 * 1.25 * (1 + text.count("\n"))
        # a legend outside of the axes makes room for itself only at the figure's own edge
        figure.draw_without_rendering()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        legends = sum(box.height / figure.dpi + 0.08 for box in boxes)
        whole = height + foot
        figure.set_size_inches(width, whole)
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(0.0, (foot + legends) / whole, 1.0, (height - legends) / whole))
        for legend in figure.legends:
            legend.set_bbox_to_anchor((0.0, foot / whole, 1.0, height / whole), figure.transFigure)
        below = figure.text(0.5, 0.03 / whole, text, fontsize=SMALL, ha="center", va="bottom")
        literal([below])
    _set_fonts(figure)
    return figure


def _set_fonts(figure: Figure) -> None:
    """Give every text fonts that have its characters."""
    texts = figure.findobj(Text)
    found = fallbacks({c for text in texts for c in text.get_text()}).families
    for text in texts:
        text.set_fontfamily(list(dict.fromkeys([*text_families(*text.get_fontfamily()), *found])))


def _banded(axes: Axes, places: Sequence[float], points: Sequence[Point], mark: Mark) -> None:
    name, colour, form = mark
    kept = [(x, one) for x, one in zip(places, points, strict=True) if not math.isnan(one.mean)]
    if not kept:
        return
    x = [place for place, _ in kept]
    axes.plot(x, [one.mean for _, one in kept], form, color=colour, ms=4, label=name)
    low, high = np.array([[one.low, one.high] for _, one in kept]).T
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    for i in np.flatnonzero(_alone(low)):  # a band takes two neighbours
        axes.plot([x[i]] * 2, [low[i], high[i]], "_-", color=colour, lw=1.2, ms=6)


def _alone(low: np.ndarray) -> np.ndarray:
    """Which points have an interval and no neighbour that has one."""
    has = np.pad(np.isfinite(low), 1)
    return has[1:-1] & ~has[:-2] & ~has[2:]


def _barred(axes: Axes, place: float, found: Point, mark: Mark, *, fill: Any = "full") -> None:
    name, colour, form = mark
    axes.plot([place], [found.mean], form, color=colour, ms=5, label=name, fillstyle=fill)
    if not math.isnan(found.low):
        axes.plot([place, place], [found.low, found.high], color=colour, lw=1.2)


def _named(axes: Axes, names: Sequence[Any]) -> None:
    axes.set_xticks(range(len(names)), [wrapped(str(name), 14, lines=3) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)


def _short(found: Point) -> str:
    if math.isnan(found.mean):
        return ""
    if math.isnan(found.low) or found.is_one_number:
        return f"{signed(found.mean, 2)}"
    return f"{signed(found.mean, 2)}\n[{signed(found.low, 2)}, {signed(found.high, 2)}]"


def _matrix(
    values: np.ndarray,
    words: Sequence[Sequence[str]],
    names: tuple[Sequence[Any], Sequence[Any]],
    axis_names: tuple[str, str],
    unit: str,
) -> Figure:
    """An image of effects with its numbers in it; the first name is the rows'."""
    lines = max(cell.count("\n") + 1 for row in words for cell in row)
    figure = new_figure(WIDTH, 1.3 + len(values) * (0.25 + 0.16 * lines))
    axes = figure.add_subplot()
    image = effect_image(axes, values)
    axes.invert_yaxis()  # the first student on top
    largest = half_range(values)
    for (i, j), value in np.ndenumerate(values):
        colour = _PAPER if abs(value) > 0.65 * largest else _INK
        size = SMALL - 1 if values.shape[1] > 3 else SMALL
        literal([axes.text(j, i, words[i][j], color=colour, ha="center", va="center", size=size)])
    across = [wrapped(str(name), 12, lines=2) for name in names[1]]
    axes.set_xticks(range(len(across)), across, fontsize=MEDIUM)
    down = [wrapped(str(name), 12, lines=2) for name in names[0]]
    axes.set_yticks(range(len(down)), down, fontsize=MEDIUM)
    axes.set_ylabel(axis_names[0], fontsize=MEDIUM)
    axes.set_xlabel(axis_names[1], fontsize=MEDIUM)
    literal([*axes.get_xticklabels(), *axes.get_yticklabels()])
    colour_bar(figure, axes, image, unit)
    return figure
