"""Pictures of curves: prefix scans, doses, directions by layer, steps of a training.

Lines with bands are means with 95 % intervals over prompts. Each curve is read as its table is
(`curves`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import LineStyleType

from ..arguments import checked
from ..hints import counted
from ..stats import mean_interval
from .arrays import ScoreArrays
from .colours import (
    COMPARED_COLOURS,
    HEADLINE_COLOUR,
    MEASURE_COLOURS,
    NOISE_COLOUR,
    OTHER_COLOUR,
    STUDENT_COLOUR,
    half_range,
)
from .curves import (
    GRAFT,
    OTHERS,
    OWN,
    RANDOM,
    boundaries,
    curve,
    nulls_in_words,
    sets_of_steps,
    vector_effects,
)
from .dress import (
    few_numbers,
    in_ever_fewer_words,
    introduce,
    name_layers,
    name_scale,
    role_entries,
    role_strip,
)
from .elements import effect_image, no_score_patch, spaced
from .heatmaps import NOT_SHOWN, below, draw_scale
from .kinds import STEP
from .kinds import Picture as PictureOf
from .limit_kinds import Kind
from .limits_of_effects import is_dose_of_a_set
from .report import with_interval
from .rounding import shares_of
from .stacking import Column
from .style import LARGE, MEDIUM, SMALL, Picture, Wishes, letters
from .tokens import RAW_ROLE, label, prompt_tokens
from .words import names_apart, shortened, wrapped

READS = {
    "sufficiency": "student up to the token, base after it (sufficiency)",
    "necessity": "lost with the base up to the token, student after it (necessity)",
}
"""What the two curves of a scan are, in the legend."""

SCAN_COLOURS = {**MEASURE_COLOURS, "necessity": HEADLINE_COLOUR}
"""Colours of the curves of a scan, above a strip of roles in which orange is a role."""

VECTOR_MEASURES = {"added": "#0072B2", "subtracted": "#E69F00", "projected out": "#CC79A7"}
"""Colours of what is done with a direction."""

GRAFT_MEASURES = {"added": "sufficiency", "subtracted": "necessity"}
"""Which measure of the graft stands beside what is done with a direction."""

_BESIDE = 1.1


@checked
def scan_curves(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """A prefix scan: two curves over the tokens of the prompt, mean over prompts.

    The band below is the role of the token that the boundary is behind.

    Args:
        scores: of kind `scan`.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: prompts that are laid out in different ways; `labels` names what is not there.
    """
    lined_up = boundaries(scores)
    interval = mean_interval(lined_up.values)
    count = len(lined_up.names)
    width = float(np.clip(2.0 + 0.17 * count, 7.0, 16.0))
    picture = Picture(Wishes(ax, title, labels, path), scores, width=width, height=1, margin=0.9)
    column = Column(picture, right=0.1)
    curves = column.part(2.4)
    column.space(0.05)
    band = column.part(0.18, elastic=False)

    at = np.arange(count)
    curves.axhline(0, color=OTHER_COLOUR, linewidth=0.8)
    total = float(scores.total.mean())
    curves.axhline(total, color=OTHER_COLOUR, linewidth=0.8, linestyle=":")
    for m, measure in enumerate(lined_up.measures):
        _line(curves, at, interval.mean[m], SCAN_COLOURS[measure])
        _band(curves, at, interval.low[m], interval.high[m], SCAN_COLOURS[measure])
    name_scale(picture, curves, *in_ever_fewer_words(scores), column=column)
    curves.tick_params(bottom=False, labelbottom=False)
    role_strip(band, lined_up.roles)
    step = max(1, int(np.ceil(count * 0.13 / max(picture.width, 1))))
    texts = [picture.text(shortened(label(lined_up.names[i]), 14)) for i in at[::step]]
    band.set_xticks(at[::step], texts, rotation=90, fontfamily="monospace", fontsize=SMALL)
    column.space(below(texts))
    for part in (curves, band):
        part.set_xlim(-0.5, count - 0.5)

    handles = [
        Patch(color=SCAN_COLOURS[measure], label=picture.text(picture.name(READS[measure])))
        for measure in lined_up.measures
    ]
    handles += role_entries(picture, lined_up.roles)
    column.space(picture.legend(handles, title="dotted: the total effect"))
    picture.height = column.height
    is_raw = RAW_ROLE in lined_up.roles  # which has no template
    _head(picture, scores, f"lined up {'from both ends' if is_raw else 'by place in the template'}")
    return picture.finish()


@checked
def dose_curve(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The effect over the gate of the cells, of every model and the headline.

    The dotted line goes through 0 and the headline at 1: what a linear effect would do.

    Args:
        scores: of kind `dose`.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: `labels` names what is not there.
    """
    scores.need_one_step()
    picture = Picture(Wishes(ax, title, labels, path), scores, width=7, height=3.6)
    axes, scales = picture.ax, curve(scores).index.to_numpy(float)
    axes.axhline(0, color="black", linewidth=0.8)
    handles = []
    if scores.has_controls:
        models = scores.data["model"].values
        for number, name in enumerate(models):
            values = scores.data["effect"].sel(model=name).transpose("prompt", ...).values
            # a lone control is as grey as in bars; several have to be told apart
            of_control = OTHER_COLOUR if len(models) == 2 else COMPARED_COLOURS[(number + 1) % 4]
            colour = of_control if number else STUDENT_COLOUR
            _line(axes, scales, values.reshape(len(values), -1).mean(0), colour)
            handles.append(Patch(color=colour, label=picture.text(picture.name(name))))
    headline = scores.headline.values.reshape(scores.data.sizes["prompt"], -1)
    interval = mean_interval(headline)
    _line(axes, scales, interval.mean, HEADLINE_COLOUR)
    _band(axes, scales, interval.low, interval.high, HEADLINE_COLOUR)
    called = picture.text(picture.name(scores.headline_name))
    handles.append(Patch(color=HEADLINE_COLOUR, label=called))
    if 1.0 in scales:
        slope = float(interval.mean[scales == 1.0][0])
        ends = np.array([scales.min(), scales.max()])
        axes.plot(ends, slope * ends, color=HEADLINE_COLOUR, linewidth=1, linestyle=":")
    what = f"effect on {scores.record.what}, {scores.unit}"
    name_scale(picture, axes, what, scores.unit, inches=2.8)
    where = "gate of these cells (0 base, 1 student)"
    lines = [where, "dotted: linear through the effect at 1"] if 1.0 in scales else [where]
    size = MEDIUM * picture.smaller
    axes.set_xlabel("\n".join(map(picture.text, lines)), fontsize=size)
    axes.tick_params(axis="x", labelsize=SMALL * picture.smaller)
    few_numbers(picture, axes)
    picture.height += picture.legend(handles, below=18 + 26 * picture.smaller)
    # shares of the whole models' effect, which a set has in its table alone
    _head(picture, scores, "", *(("noise",) if is_dose_of_a_set(scores) else ()))
    return picture.finish()


@checked
def direction_curves(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """What a direction explains, by layer, as shares of the total effect.

    One colour per thing done with it; dashed: the others' directions; grey: random directions of
    the same norm, each; dotted: the graft that it should explain. Dashed and grey are of the
    student alone, as shares of its own total effect.

    Args:
        scores: of kind `direction`.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: `labels` names what is not there.
    """
    of, totals = vector_effects(scores)
    measures = [str(name) for name in scores.data["measure"].values]
    names = scores.layer_names()
    picture = Picture(Wishes(ax, title, labels, path), scores, width=8, height=3.8)
    axes, at = picture.ax, np.arange(len(names))
    axes.axhline(0, color="black", linewidth=0.8)
    marker = "o" if len(names) == 1 else None
    # points of one layer stand beside one another
    aside = 0.1 * (np.arange(len(measures)) - (len(measures) - 1) / 2) * (len(names) == 1)
    if len(names) == 1:
        axes.set_xlim(-0.5, 0.5)
    for vector, values in of.items():
        if vector.startswith(RANDOM) and vector != RANDOM:
            by_chance = shares_of(totals[vector], scores, values).mean
            for m in range(len(measures)):
                places = at + aside[m]
                axes.plot(places, by_chance[:, m], color=NOISE_COLOUR, linewidth=1, marker=marker)
    for m, measure in enumerate(measures):
        colour = VECTOR_MEASURES[measure]
        share = shares_of(totals[OWN], scores, of[OWN][:, :, m])
        places = at + aside[m]
        axes.plot(places, share.mean, color=colour, linewidth=2, marker=marker)
        if len(names) == 1:  # a band of one point has no width
            axes.vlines(places, share.low, share.high, color=colour, linewidth=1.2)
        _band(axes, at, share.low, share.high, colour)
        if OTHERS in of:
            others = shares_of(totals[OTHERS], scores, of[OTHERS][:, :, m]).mean
            cross = "x" if len(names) == 1 else None
            axes.plot(places, others, color=colour, linewidth=1.2, linestyle="--", marker=cross)
        if measure in GRAFT_MEASURES:
            graft = shares_of(totals[GRAFT], scores, of[GRAFT][:, 0, m]).mean
            axes.axhline(float(graft), color=colour, linewidth=1.2, linestyle=":")
    share_of = f"share of the total effect: {scores.headline_name}"
    name_scale(picture, axes, share_of, "share of the total effect", "share", inches=2.8)
    name_layers(picture, axes, names)
    told = "dotted: the graft of these tokens (sufficiency, necessity)"
    if OTHERS in of:
        drawn = "crosses" if len(names) == 1 else "dashed"
        told = f"{drawn}: the other students' directions; {told}"
    if whose := nulls_in_words(scores):
        told += f"; {picture.renamed(whose)}"
    size = MEDIUM * picture.smaller
    lines = ["layer", *wrapped(told, letters(picture.width, size), lines=5).split("\n")]
    axes.set_xlabel("\n".join(map(picture.text, lines)), fontsize=size)
    handles = [
        Patch(color=VECTOR_MEASURES[name], label=picture.text(picture.name(name)))
        for name in measures
    ]
    handles.append(Patch(color=NOISE_COLOUR, label="random directions, same norm"))
    picture.height += picture.legend(handles, below=30 + 13 * picture.smaller * len(lines))
    _head(picture, scores)
    return picture.finish()


@checked
def step_curve(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Over the steps of a training: the total effect; of grafts the sufficiency of each set (the
    necessity, where that alone was selected), in the metric's unit.

    Args:
        scores: of several steps (`over_steps`).
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: scores of one step; more sets than can be told apart; `labels` names what is not
            there.
    """
    _need_steps(scores)
    picture = Picture(Wishes(ax, title, labels, path), scores, width=7, height=3.4)
    axes, steps = picture.ax, scores.data[STEP].values
    axes.axhline(0, color="black", linewidth=0.8)
    total = mean_interval(scores.total.transpose("prompt", STEP).values)
    _line(axes, steps, total.mean, HEADLINE_COLOUR)
    _band(axes, steps, total.low, total.high, HEADLINE_COLOUR)
    called = picture.text(picture.renamed(f"total effect: {scores.headline_name}"))
    handles: list[Artist] = [Patch(color=HEADLINE_COLOUR, label=called)]
    curves = list(_sets(scores))
    names = [f"{one.measure} of {picture.name(one.name)}" for one in curves]
    short = names_apart(names, 40)
    for curve_of, name in zip(curves, names, strict=True):
        interval = mean_interval(curve_of.values)
        _line(axes, steps, interval.mean, curve_of.colour, curve_of.style)
        _band(axes, steps, interval.low, interval.high, curve_of.colour)
        handles.append(_line_entry(curve_of, picture.text(short[name])))
    name_scale(picture, axes, *in_ever_fewer_words(scores))
    if _name_steps(picture, axes, steps):
        few_numbers(picture, axes)
    picture.height += picture.legend(handles, below=34)
    _head(picture, scores)
    return picture.finish()


@checked
def step_map(
    scores: ScoreArrays,
    prompt: int = 0,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Steps of a training by the tokens of one prompt.

    A token's value at a step is that of its bar in the heatmap of that step: summed over layers and
    modules for attributions, averaged over layers for patching and sweeps.

    Args:
        scores: of several steps (`over_steps`), with tokens.
        prompt: which prompt.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        IndexError: no such prompt.
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: scores of one step, or without tokens; `labels` names what is not there.
    """
    from .select import select

    _need_steps(scores)
    steps = scores.data[STEP].values.tolist()
    views = [select(scores, {STEP: step}).per_token() for step in steps]
    tokens = prompt_tokens(views[-1], prompt)
    grid = np.stack([view.token_effect()[prompt, tokens.real] for view in views])
    width = float(np.clip(2.2 + 0.19 * grid.shape[1], 7.0, 16.0))
    picture = Picture(Wishes(ax, title, labels, path), scores, width=width, height=1, margin=0.9)
    column = Column(picture, right=_BESIDE)
    cells = column.part(max(1.4, 0.2 * len(steps)))
    effect_image(cells, grid, largest=half_range(grid))
    column.space(0.05)
    band = column.part(0.18, elastic=False)
    role_strip(band, tokens.roles)
    step = max(1, int(np.ceil(grid.shape[1] * 0.13 / max(picture.width - _BESIDE, 1))))
    texts = [picture.text(shortened(label(text), 14)) for text in tokens.texts[::step]]
    places = np.arange(grid.shape[1])[::step]
    band.set_xticks(places, texts, rotation=90, fontfamily="monospace", fontsize=SMALL)
    column.space(below(texts))
    for part in (cells, band):
        part.set_xlim(-0.5, grid.shape[1] - 0.5)
    cells.tick_params(axis="x", bottom=False, labelbottom=False)
    shown = spaced(
        [str(one) for one in steps], gap=max(1.0, 0.14 * len(steps) / column.inches(cells))
    )
    cells.set_yticks(shown, [str(steps[i]) for i in shown], fontsize=SMALL)
    cells.set_ylabel("step", fontsize=MEDIUM)
    handles = role_entries(picture, tokens.roles)
    if np.isnan(grid).any():
        handles.append(no_score_patch())
    column.space(picture.legend(handles))
    picture.height = column.height
    draw_scale(column, picture, scores, cells)
    asked = shortened(" ".join(tokens.question.split()), letters(picture.width, LARGE) - 16)
    introduce(picture, scores, f"prompt {tokens.name}: “{asked}”", *NOT_SHOWN)
    return picture.finish()


CURVES: dict[PictureOf, Callable[..., Axes]] = {
    "scan": scan_curves,
    "dose": dose_curve,
    "direction": direction_curves,
}
"""By the picture that a kind declares."""


# -------------------------------------------------------------------------------------------- parts


def _need_steps(scores: ScoreArrays) -> None:
    if not scores.has_steps:
        raise ValueError("these scores are of one step; over_steps gives those of several.")


def _name_steps(picture: Picture, axes: Axes, steps: np.ndarray) -> bool:
    """Name the axis of steps; snapshots that lie ever further apart have one of ratios. Returns
    whether its numbers are even.
    """
    called, at, is_even = "optimiser step", steps.astype(float), True
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there are no half steps
    if _ever_further_apart(steps):
        called, at, is_even = f"{called}, on a scale of ratios", np.log(at), False
        axes.set_xscale("log")
        axes.minorticks_off()
        room = 0.06 * np.ptp(at)
        shown = [len(steps) - 1]  # from the last one back, as far as there is room
        for number in range(len(steps) - 2, -1, -1):
            if at[shown[-1]] - at[number] >= room:
                shown.append(number)
        axes.set_xticks(steps[shown], [str(steps[number]) for number in shown])
    axes.set_xlabel(called, fontsize=MEDIUM * picture.smaller)
    return is_even


def _ever_further_apart(steps: np.ndarray) -> bool:
    """Whether steps are better read on a scale of ratios: each is about as many times the one
    before it, or some lie very close. The last one, where the training ended, stands anywhere.
    """
    at = steps.astype(float)
    if len(at) < 4 or at.min() <= 0:
        return False
    times = at[1:-1] / at[:-2]
    as_powers = times.min() >= LEAST_RATIO and times.max() <= MOST_APART * times.min()
    return bool(as_powers or np.diff(at[:-1]).min() < 0.05 * np.ptp(at))


LEAST_RATIO, MOST_APART = 1.5, 1.25
"""Of steps that grow as powers do: each is at least so many times the one before it, and the most
of these ratios so many times the least (1, 3, 10, 30; 1, 2, 5, 10)."""


class SetCurve(NamedTuple):
    """A grafted set over steps.

    Attributes:
        name: of the set.
        measure: what is drawn of it.
        values: `(prompt, step)`.
        colour: of its line.
        style: of its line.
    """

    name: str
    measure: str
    values: np.ndarray
    colour: str
    style: LineStyleType


STYLES: tuple[LineStyleType, ...] = ("-", "--", ":")
"""Of lines beyond as many as there are colours."""


def _sets(scores: ScoreArrays) -> list[SetCurve]:
    """The sufficiency of each grafted set, or the necessity where that alone was kept; nothing of
    other scores.
    """
    effect = sets_of_steps(scores)
    if effect is None:
        return []
    colours = [colour for colour in COMPARED_COLOURS if colour != HEADLINE_COLOUR]
    names = effect["set"].values.tolist()
    most = len(colours) * len(STYLES)
    if len(names) > most:
        raise ValueError(
            f"{len(names)} sets: {most} can be told apart; choose some of them, "
            f"scores.sel(set={names[:2]})."
        )
    measures = effect["measure"].values.tolist()
    measure = "sufficiency" if "sufficiency" in measures else str(measures[0])
    values = effect.sel(measure=measure).values
    return [
        SetCurve(
            str(name),
            measure,
            values[:, :, n],
            colours[n % len(colours)],
            STYLES[n // len(colours)],
        )
        for n, name in enumerate(names)
    ]


def _line_entry(of: SetCurve, called: str) -> Line2D:
    """What a legend says of a line."""
    return Line2D([], [], color=of.colour, linestyle=of.style, linewidth=2, label=called)


def _line(
    axes: Axes, at: np.ndarray, values: np.ndarray, colour: str, style: LineStyleType = "-"
) -> None:
    marker = "o" if len(at) < 25 else None
    axes.plot(at, values, ls=style, color=colour, linewidth=2, marker=marker, markersize=3)


def _band(axes: Axes, at: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """An interval; nothing where there is none."""
    if not np.isnan(low).all():
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)


def _head(picture: Picture, scores: ScoreArrays, how: str = "", *without: Kind) -> None:
    """What stands above: what was scored, on how many prompts."""
    count = scores.data.sizes["prompt"]
    prompts = counted(count, "prompt")
    if count > 1:
        prompts = f"{with_interval(count, prompts)}{f', {how}' if how else ''}"
    introduce(picture, scores, prompts, *without)
