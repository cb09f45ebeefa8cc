"""Maps of cells: layers by the tokens of one prompt, and layers by heads or token sets.

A prompt of more tokens than fit beside each other is drawn in rows, on one scale. Of a prompt that
is longer still the start and the end are drawn; the figure says what is left out, and that the
token page has all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..arguments import checked
from ..hints import counted
from ..prompts import SHARED
from ..stats import FEWEST, max_t
from .arrays import ScoreArrays
from .cells import Verdicts, verdicts
from .colours import NOISE_COLOUR, OTHER_COLOUR, SHARING_COLOURS, half_range
from .dress import introduce, name_strips, role_entries, role_strip
from .elements import DOTS, effect_image, no_score_patch, open_frame, spaced, untested_patch
from .limit_kinds import Kind
from .report import UNTESTED, effect_label, footing
from .spreading import drawn
from .stacking import Column
from .style import LARGE, LINE, MEDIUM, SMALL, Picture, Wishes, letters
from .tables import set_sizes
from .tokens import PromptTokens, label, prompt_tokens, visible
from .words import columns, names_apart, shortened, wrapped, wrapped_apart

COLUMNS, ROWS = 64, 4
"""Tokens beside each other in a figure of its own, and rows of them below each other."""

NOT_SHOWN: tuple[Kind, ...] = ("intervals",)
"""Limits of what no map shows; which of its cells were tested it says beside the colours."""

_BESIDE = 1.1
"""Inches for the scale beside a map."""


@checked
def heatmap(
    scores: ScoreArrays,
    prompt: int = 0,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Layers x tokens of one prompt.

    From the top: the effect per token (summed over layers for attributions, averaged for patching),
    the effect per layer and token, the role of each token and whether training shares it, the
    tokens. Red is a positive effect, blue a negative one; light grey is laid over what is not
    distinguishable from 0 over all prompts (`Scores.noise`), dots over what was not tested because
    fewer than 6 of the prompts have it.

    More than 64 tokens are drawn in rows, at most 4 of them; in an `ax` as many as it has room for.

    Args:
        scores: scores with a position axis.
        prompt: which prompt.
        ax: draw inside it; a new figure when not given.
        title: in place of what was scored and asked.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Returns:
        The axes that hold the parts: for each row of tokens strip, map and band, then the scale.

    Raises:
        IndexError: no such prompt.
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: the scores have no position axis; they hold both directions, or heads (choose
            one with `sel`); `labels` names what is not there.
    """
    scores = scores.per_token()
    tokens = prompt_tokens(scores, prompt)
    layers, test = None, None
    if "layer" in scores.data["effect"].dims:  # gradients at the embeddings have none
        layers = scores.layer_effect().values[prompt][:, tokens.real]  # (layer, token)
        test = verdicts(scores, prompt)
        if test is not None:  # with few prompts nothing was tested, and nothing is grey
            test = Verdicts(test.noise[:, tokens.real], test.untested[:, tokens.real])
    wishes = Wishes(ax, title, labels, path)
    rows = _rows(len(tokens.texts), *_room(wishes))
    per_row = max(map(len, rows))
    width = max(8.0, 2.0 + 0.19 * per_row)
    picture = Picture(wishes, scores, width=width, height=1, margin=0.9)

    column, grids, strips = Column(picture, right=_BESIDE), [], []
    longest = _longest(wishes, len(rows))
    texts = [picture.text(shortened(label(text), longest)) for text in tokens.texts]
    for row in rows:
        share = len(row) / per_row
        if len(rows) > 1:
            column.space(0.2)
        strip = column.part(0.9 if len(rows) == 1 else 0.6, share=share)
        _draw_strip(strip, tokens, row)
        strips.append(strip)
        if len(rows) > 1:
            which = f"tokens {row[0] + 1} to {row[-1] + 1} of {len(texts)}"
            strip.set_title(which, loc="left", fontsize=SMALL, pad=2)
        column.space(0.07)
        parts = [strip]
        if layers is not None:
            # several rows are lower, so that a page can hold them
            height = max(1.6, 0.135 * len(layers))
            grid = column.part(height if len(rows) == 1 else max(1.0, 0.6 * height), share=share)
            grey, dotted = (None, None) if test is None else (part[:, row] for part in test)
            largest = half_range(layers)
            effect_image(grid, layers[:, row], grey, untested=dotted, largest=largest)
            column.space(0.05)
            parts.append(grid)
            grids.append(grid)
        band = column.part(0.18 if tokens.sharing is None else 0.36, elastic=False, share=share)
        _draw_band(band, tokens, row)
        _name_tokens(band, [texts[i] for i in row])
        # only the band, at the bottom, names the tokens
        for part in parts:
            part.tick_params(axis="x", bottom=False, labelbottom=False)
            part.tick_params(axis="y", labelsize=SMALL)
        for part in (*parts, band):
            part.set_xlim(-0.5, len(row) - 0.5)
            # where the middle of the prompt is left out within a row
            for gap in np.flatnonzero(np.diff(row) > 1):
                part.axvline(gap + 0.5, color="black", linewidth=1.5, linestyle=":")
        column.space(below([texts[i] for i in row]))

    handles = _legend(picture, tokens)
    if tokens.untested.any() or (test is not None and test.untested.any()):
        handles.append(untested_patch(picture.text(UNTESTED)))
    if layers is not None and np.isnan(layers).any():
        handles.append(no_score_patch())
    column.space(picture.legend(handles, title=footing(scores)))
    picture.height = column.height

    def name_parts() -> None:
        for strip in strips:
            _name_strip(strip, scores, column)
        for grid in grids:
            _name_layers(grid, picture, scores, column)

    name_parts()
    picture.when_laid_out(name_parts)
    if grids:
        draw_scale(column, picture, scores, grids[0])

    before = f"prompt {tokens.name}: "
    asked = shortened(" ".join(tokens.question.split()), letters(picture.width, LARGE) - 16)
    picture.note(drawn(scores.record, scores.data))
    picture.note(_left_out(scores, tokens, rows))
    introduce(picture, scores, f"{before}“{asked}”", *NOT_SHOWN)
    return picture.finish()


@checked
def column_map(
    scores: ScoreArrays,
    effect: xr.DataArray,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Layers x heads or token sets, mean over prompts.

    Args:
        scores: patching, of heads or token sets.
        effect: `(prompt, layer, head)` or `(prompt, layer, set)`: their `head_effect` or
            `set_effect`.
        ax: draw inside it; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there.

    Returns:
        The axes that hold map and scale.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: `labels` names what is not there.
    """
    test = max_t(effect.values)
    per_head = effect.dims[2] == "head"
    count = effect.sizes[effect.dims[2]]
    width = min(14.0, max(6.5, 2 + (0.32 if per_head else 1.1) * count))
    picture = Picture(Wishes(ax, title, labels, path), scores, width=width, height=1, margin=0.7)
    column = Column(picture, right=_BESIDE)

    # with few prompts nothing was tested, and nothing is grey
    veil = untested = None
    if effect.sizes["prompt"] >= FEWEST:
        untested = np.isnan(test.p) & np.isfinite(test.mean)
        veil = test.noise & np.isfinite(test.mean) & ~untested
    grid = column.part(max(1.6, 0.16 * effect.sizes["layer"]))
    effect_image(grid, test.mean, veil, untested=untested)
    room = (picture.width - _BESIDE) / count
    taken = _name_columns(grid, picture, _column_names(scores, picture, effect), room)
    grid.set_xlabel("head" if per_head else "token set", fontsize=MEDIUM)
    grid.tick_params(labelsize=SMALL)
    column.space(taken + 0.3)

    handles = [no_score_patch()] if np.isnan(test.mean).any() else []
    if untested is not None and untested.any():
        handles.append(untested_patch(picture.text(UNTESTED)))
    column.space(picture.legend(handles, title=footing(scores)))
    picture.height = column.height
    _name_layers(grid, picture, scores, column)
    picture.when_laid_out(lambda: _name_layers(grid, picture, scores, column))
    draw_scale(column, picture, scores, grid)
    over = " and tokens" if scores.has_tokens else ""
    if scores.has_tokens and scores.of_answer.values.any():
        over += ", the answer's own too"
    prompts = f"mean over {counted(effect.sizes['prompt'], 'prompt')}{over}"
    if per_head and "set" in scores.data["effect"].dims:  # one, which no column names
        prompts += f", token set {picture.name(str(scores.data['set'].values[0]))}"
    introduce(picture, scores, prompts, *NOT_SHOWN)
    return picture.finish()


COARSE: dict[str, Any] = {"hatch": "//////", "edgecolor": "white", "linewidth": 0}
"""How bars of tokens look that show the value of a span that was not refined."""


# ----------------------------------------------------------------------------- what there is room


def _room(wishes: Wishes) -> tuple[int, int]:
    """Tokens beside each other, and rows of them."""
    if wishes.ax is None:
        return COLUMNS, ROWS
    dpi = wishes.ax.figure.figure.dpi
    width, height = wishes.ax.bbox.width / dpi, wishes.ax.bbox.height / dpi
    return max(8, int((width - _BESIDE) / 0.13)), max(1, int(height / 2.4))


def _longest(wishes: Wishes, rows: int) -> int:
    """Letters of a token's name: in low axes names leave room for the map."""
    if wishes.ax is None:
        return 24
    height = wishes.ax.bbox.height / wishes.ax.figure.figure.dpi / rows
    return min(24, max(4, int(0.25 * height / (0.6 * SMALL / 72))))


def _rows(tokens: int, columns: int, most: int) -> list[np.ndarray]:
    """Numbers of the tokens in each row: all of them, or the start and the end of the prompt."""
    shown = np.arange(tokens)
    if tokens > columns * most:
        start = most // 2 * columns if most > 1 else columns // 2
        shown = np.r_[shown[:start], shown[start - columns * most :]]
    return np.array_split(shown, -(-len(shown) // columns))


def _left_out(scores: ScoreArrays, tokens: PromptTokens, rows: list[np.ndarray]) -> str | None:
    """What a reader must know of the tokens that are not drawn; None where all are."""
    rest = np.setdiff1d(np.arange(len(tokens.texts)), np.concatenate(rows))
    if not len(rest):
        return None
    effects = tokens.effect[rest]
    largest = ""
    if np.isfinite(effects).any():
        strongest = effects[np.nanargmax(np.abs(effects))]
        largest = f"; the largest effect there is {strongest:+z.2g} {scores.unit}"
    return (
        f"tokens {rest[0] + 1} to {rest[-1] + 1} of {len(tokens.texts)} are not drawn{largest}; "
        "the token page shows all (save_page)"
    )


# ----------------------------------------------------------------------------------------- parts


def _draw_strip(axes: Axes, tokens: PromptTokens, row: np.ndarray) -> None:
    """The effect per token as bars."""
    colours = np.where(tokens.noise[row], NOISE_COLOUR, OTHER_COLOUR)
    bars = axes.bar(range(len(row)), tokens.effect[row], width=0.8, color=colours)
    for bar, unknown in zip(bars, tokens.untested[row], strict=True):
        if unknown:
            bar.set(facecolor="white", **DOTS)
    if tokens.coarse is not None:
        for bar, coarse in zip(bars, tokens.coarse[row], strict=True):
            if coarse:
                bar.set(**COARSE)
    axes.axhline(0, color="black", linewidth=0.6)
    # one scale for all rows
    low, high = np.nanmin(tokens.effect, initial=0), np.nanmax(tokens.effect, initial=0)
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    open_frame(axes)


def _name_strip(axes: Axes, scores: ScoreArrays, column: Column) -> None:
    """Numbers and name of the effect per token, as far as there is room for them."""
    inches = column.inches(axes) / column.smaller
    axes.locator_params(axis="y", nbins=max(1, min(4, int(inches / 0.2))))
    if inches < 0.55:  # no room for two lines, or for one
        unit = "" if inches < 0.09 * len(scores.unit) else scores.unit
        axes.set_ylabel(unit, fontsize=SMALL * column.smaller)
        return
    gathered = "effect\n"
    if "layer" in scores.data["effect"].dims:
        gathered = f"{'sum' if scores.additive else 'mean'} over\nlayers"
    axes.set_ylabel(f"{gathered} ({scores.unit})", fontsize=SMALL * column.smaller)


def _name_layers(axes: Axes, picture: Picture, scores: ScoreArrays, column: Column) -> None:
    """Names of as many layers as a map has room for."""
    names, inches = scores.layer_names(), column.inches(axes) / column.smaller
    shown = spaced(names, gap=0.14 * len(names) / inches)
    texts = [picture.text(shortened(picture.name(names[i]), 16)) for i in shown]
    axes.set_yticks(shown, texts)
    called = "" if inches < 0.3 else "layer"
    axes.set_ylabel(called, fontsize=MEDIUM * column.smaller)


def draw_scale(column: Column, picture: Picture, scores: ScoreArrays, grid: Axes) -> None:
    """The scale of a map beside it; in axes of the caller's that are low it says less."""
    axes = column.beside(grid, 0.12)
    bar = axes.figure.figure.colorbar(grid.images[0], cax=axes)
    axes.tick_params(labelsize=SMALL)
    # the words may be somewhat higher than the map
    room = letters(column.inches(grid) + 1.9, MEDIUM)
    text = wrapped(picture.renamed(effect_label(scores)), room)
    bar.set_label(picture.text(text), fontsize=MEDIUM)

    def fit() -> None:
        size = MEDIUM * column.smaller
        room = letters(2 * column.to_middle(grid), size)
        whose = f"{scores.headline_name}, {scores.unit}"
        for said in (effect_label(scores), whose, scores.unit):
            text = wrapped(picture.renamed(said), room, lines=9)
            if text.count("\n") * size * 1.25 / 72 < _BESIDE - 0.7:
                break
        bar.set_label(picture.text(text), fontsize=size)
        numbers = max(1, min(5, int(column.inches(grid) / column.smaller / 0.2)))
        bar.locator = MaxNLocator(numbers)
        bar.update_ticks()

    picture.when_laid_out(fit)


def _draw_band(axes: Axes, tokens: PromptTokens, row: np.ndarray) -> None:
    """Colour the tokens by role and, below, those that training shares."""
    role_strip(axes, tokens.roles[row])
    if tokens.sharing is None:
        return
    # below the roles, from -1 up to -0.3
    places = np.arange(len(row))
    for name in SHARED:
        inside = tokens.sharing[row] == name
        axes.bar(places[inside], 0.7, bottom=-1, width=1, color=SHARING_COLOURS[name])
    axes.set_ylim(-1, 1)
    name_strips(axes, {"role": 0.5, "shared": -0.65})


def _name_tokens(axes: Axes, texts: list[str]) -> None:
    axes.set_xticks(range(len(texts)), texts, rotation=90, fontfamily="monospace", fontsize=SMALL)


def below(texts: Iterable[str]) -> float:
    """Inches below axes whose columns are named upright."""
    return 0.15 + 0.6 * SMALL / 72 * max(map(columns, texts))


def _legend(picture: Picture, tokens: PromptTokens) -> list[Patch]:
    """Roles and what training shares, as far as the prompt has them."""
    handles = role_entries(picture, tokens.roles)
    if tokens.coarse is not None and tokens.coarse.any():
        called = picture.text("not refined: the value of its span")
        handles.append(Patch(**{"facecolor": OTHER_COLOUR, **COARSE}, label=called))
    present = () if tokens.sharing is None else tokens.sharing
    for name in SHARED:
        if name in present:
            called = picture.text(f"shared with training: {shortened(picture.name(name), 40)}")
            handles.append(Patch(color=SHARING_COLOURS[name], label=called))
    return handles


def _column_names(scores: ScoreArrays, picture: Picture, effect: xr.DataArray) -> list[list[str]]:
    """Lines of each column's name: a head's number, or a token set's name and size."""
    axis = effect.dims[2]
    if axis == "head":
        return [[str(head)] for head in effect[axis].values]
    names = [picture.name(name) for name in effect[axis].values]
    # a set's name is prose, in which a space needs no mark
    shown = [visible(name).replace("␣", " ") for name in names]
    sizes = [f"({size:.3g} {'token' if size == 1 else 'tokens'})" for size in set_sizes(scores)]
    return [[name, size] for name, size in zip(shown, sizes, strict=True)]


def _name_columns(axes: Axes, picture: Picture, names: list[list[str]], room: float) -> float:
    """Names below the columns of a map, upright where they are too narrow; returns inches taken."""
    places = np.arange(len(names))
    if room > 0.9 or all(columns(name[0]) * 0.09 < room for name in names):
        called = wrapped_apart([name[0] for name in names], letters(0.92 * room, SMALL))
        texts = ["\n".join([called[first], *others]) for first, *others in names]
        axes.set_xticks(places, [picture.text(text) for text in texts])
        return LINE * (1 + max(text.count("\n") for text in texts))
    # heads of which every second or third has room for its number
    step = max(1, int(np.ceil(0.13 / room)))
    behind = max(sum(1 + columns(other) for other in others) for _, *others in names)
    short = names_apart((name[0] for name in names), 36 - behind)
    shown = [" ".join([short[first], *others]) for first, *others in names[::step]]
    texts = [picture.text(name) for name in shown]
    axes.set_xticks(places[::step], texts, rotation=90)
    return below(texts)
