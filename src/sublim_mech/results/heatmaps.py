"""Maps of cells: layers by the tokens of one prompt, and layers by heads or token sets."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..prompts import SHARED
from ..stats import FEWEST, max_t
from .arrays import ScoreArrays
from .cells import noise
from .colours import NOISE_COLOUR, OTHER_COLOUR, ROLE_COLOURS, SHARING_COLOURS
from .report import effect_label, headings, noise_note, warning
from .style import (
    MEDIUM,
    SMALL,
    colour_bar,
    effect_image,
    legend_below,
    literal,
    new_figure,
    no_score_patch,
    open_frame,
    set_title,
    warn,
    write,
)
from .tables import set_sizes
from .tokens import PromptTokens, label, prompt_tokens, visible


def heatmap(scores: ScoreArrays, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
    """Layers x tokens of one prompt.

    From the top: the effect per token (summed over layers for attributions, averaged for patching),
    the effect per layer and token, the role of each token and whether training shares it, the
    tokens. Red is a positive effect, blue a negative one; light grey is laid over what is not
    distinguishable from 0 over all prompts (`Scores.noise`).

    Args:
        scores: scores with a position axis.
        prompt: which prompt.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis; they hold both directions, or heads (choose
            one with `sel`).
    """
    tokens = prompt_tokens(scores, prompt)
    layers = None
    if "layer" in scores.data["effect"].dims:  # gradients at the embeddings have none
        layers = scores.layer_effect().values[prompt][:, tokens.real]  # (layer, token)
    panels = _panels(tokens, layers)

    _draw_strip(panels.strip, scores, tokens)
    handles = _draw_band(panels.band, tokens)
    if panels.grid is not None and layers is not None:
        veil = noise(scores, prompt)
        if veil is not None:  # with few prompts nothing was tested, and nothing is grey
            veil = veil[:, tokens.real]
        _draw_layers(panels.figure, panels.grid, scores, layers, veil)
        if np.isnan(layers).any():
            handles.append(no_score_patch())

    # only the band, at the bottom, names the tokens
    for axes in (panels.strip, panels.grid):
        if axes is not None:
            axes.tick_params(axis="x", bottom=False, labelbottom=False)
            axes.tick_params(axis="y", labelsize=SMALL)
    legend_below(panels.figure, handles, title=noise_note(scores))
    asked = textwrap.shorten(tokens.question, 90, placeholder=" …")
    set_title(panels.figure, *headings(scores), f"prompt {tokens.name}: “{asked}”")
    return write(panels.figure, path)


def column_map(
    scores: ScoreArrays, effect: xr.DataArray, *, path: str | Path | None = None
) -> Figure:
    """Layers x heads or token sets, mean over prompts.

    Args:
        scores: patching, of heads or token sets.
        effect: `(prompt, layer, head)` or `(prompt, layer, set)`: their `head_effect` or
            `set_effect`.
        path: also write the figure there.
    """
    test = max_t(effect.values)
    per_head = effect.dims[2] == "head"
    columns = _column_names(scores, effect)
    width = max(6.5, 2 + (0.32 if per_head else 1.1) * len(columns))
    figure = new_figure(width, max(1.6, 0.16 * effect.sizes["layer"]) + 1.8)
    axes = figure.subplots()

    # with few prompts nothing was tested, and nothing is grey
    veil = None
    if effect.sizes["prompt"] >= FEWEST:
        veil = test.noise & np.isfinite(test.mean)
    _draw_layers(figure, axes, scores, test.mean, veil, slim=40)
    axes.set_xticks(range(len(columns)), columns, fontsize=SMALL)
    literal(axes.get_xticklabels())
    axes.set_xlabel("head" if per_head else "token set", fontsize=MEDIUM)
    axes.tick_params(labelsize=SMALL)
    warn(axes, warning(scores))

    handles = [no_score_patch()] if np.isnan(test.mean).any() else []
    legend_below(figure, handles, title=noise_note(scores))
    over = " and tokens" if "position" in scores.data["effect"].dims else ""
    prompts = f"mean over {effect.sizes['prompt']} prompts{over}"
    set_title(figure, *headings(scores), prompts)
    return write(figure, path)


def _column_names(scores: ScoreArrays, effect: xr.DataArray) -> list[str]:
    """Heads by their number, token sets by their name and size."""
    axis = effect.dims[2]
    names = [str(name) for name in effect[axis].values]
    if axis == "head":
        return names
    # a set's name is prose, in which a space needs no mark
    shown = [visible(name).replace("␣", " ") for name in names]
    sizes = set_sizes(scores)
    return [f"{name}\n({size:.3g} tokens)" for name, size in zip(shown, sizes, strict=True)]


# -------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Panels:
    """The parts of a heatmap, from the top; no grid where there are no layers."""

    figure: Figure
    strip: Axes
    grid: Axes | None
    band: Axes


def _panels(tokens: PromptTokens, layers: np.ndarray | None) -> _Panels:
    """Empty panels that give every token and layer the same room; sizes in inches."""
    # the band has a second row where it is known what training shares
    heights = [0.9, 0.18 if tokens.sharing is None else 0.36]
    if layers is not None:
        heights.insert(1, max(1.6, 0.135 * len(layers)))
    figure = new_figure(max(8.0, 1.8 + 0.19 * len(tokens.texts)), sum(heights) + 2.5)
    strip, *grid, band = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    return _Panels(figure, strip, grid[0] if grid else None, band)


def _draw_strip(axes: Axes, scores: ScoreArrays, tokens: PromptTokens) -> None:
    """The effect per token as bars."""
    colours = np.where(tokens.noise, NOISE_COLOUR, OTHER_COLOUR)
    axes.bar(range(len(tokens.effect)), tokens.effect, width=0.8, color=colours)
    axes.axhline(0, color="black", linewidth=0.6)
    gathered = "effect\n"
    if "layer" in scores.data["effect"].dims:
        gathered = f"{'sum' if scores.additive else 'mean'} over\nlayers"
    axes.set_ylabel(f"{gathered} ({scores.unit})", fontsize=SMALL)
    open_frame(axes)
    warn(axes, warning(scores))


def _draw_layers(
    figure: Figure,
    axes: Axes,
    scores: ScoreArrays,
    values: np.ndarray,
    veil: np.ndarray | None,
    *,
    slim: float = 25,
) -> None:
    """An image `(layer, column)` with its layers' names and its colour bar, `slim` times as high
    as wide.
    """
    image = effect_image(axes, values, veil)
    names = scores.layer_names()
    shown = _spaced(names)
    axes.set_yticks(shown, [names[i] for i in shown])
    axes.set_ylabel("layer", fontsize=MEDIUM)
    colour_bar(figure, axes, image, effect_label(scores), slim=slim)


def _spaced(names: list[str]) -> list[int]:
    """Which layers get a label: the named ones, and about ten of the numbered ones."""
    numbered = [i for i, name in enumerate(names) if name.isdigit()]
    step = max(1, -(-len(numbered) // 10))
    kept = set(numbered[::step])
    return [i for i in range(len(names)) if i in kept or i not in numbered]


def _draw_band(axes: Axes, tokens: PromptTokens) -> list[Patch]:
    """Colour the tokens by role and, below, those that training shares; returns the legend."""
    columns = np.arange(len(tokens.roles))
    axes.bar(columns, 1, width=1, color=[ROLE_COLOURS[role] for role in tokens.roles])
    handles = [
        Patch(color=colour, label=role)
        for role, colour in ROLE_COLOURS.items()
        if role in tokens.roles
    ]
    # roles from 0 up to 1; what training shares below them, from -1 up to -0.3
    rows = {"role": 0.5}
    if tokens.sharing is not None:
        rows["shared"] = -0.65
        for name in SHARED:
            inside = tokens.sharing == name
            if inside.any():
                colour = SHARING_COLOURS[name]
                axes.bar(columns[inside], 0.7, bottom=-1, width=1, color=colour)
                handles.append(Patch(color=colour, label=f"shared with training: {name}"))

    axes.set_ylim(0 if tokens.sharing is None else -1, 1)
    axes.set_yticks(list(rows.values()), list(rows), fontsize=SMALL)
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    texts = [label(text) for text in tokens.texts]
    axes.set_xticks(columns, texts, rotation=90, family="monospace", fontsize=SMALL)
    literal(axes.get_xticklabels())
    axes.set_xlim(-0.5, len(columns) - 0.5)
    return handles
