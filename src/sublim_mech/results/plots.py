"""Pictures of `Scores`.

Figures are built without pyplot, so nothing is registered globally and nothing needs closing. Role and sharing colours are
those of Okabe and Ito, which colour-blind readers tell apart; effects are on a blue-red scale centred on 0.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from ..prompts import SHARED
from ..stats import FEWEST, max_t
from ..storage.files import replacing
from .scores import Scores

ROLE_COLOURS = {
    "bos": "#999999",
    "template": "#56B4E9",
    "system": "#E69F00",
    "user": "#009E73",
    "assistant": "#CC79A7",
    "answer": "#D55E00",
}
SHARING_COLOURS = {"prefix": "#000000", "aligned": "#0072B2", "seen": "#F0E442", "novel": "#BBBBBB"}
OTHER_COLOUR = "#666666"
_MEASURE_COLOURS = {"sufficiency": "#0072B2", "necessity": "#E69F00"}
_NOISE = "#D0D0D0"
_VISIBLE = str.maketrans({"\n": "↵", "\r": "\\r", "\t": "⇥", " ": "␣"})


class _Figure(Figure):
    """A figure that a notebook shows by itself; a plain one is shown only after `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        return _encode(self, "png")


def plot(scores: Scores, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
    """The picture that suits the cells of the scores.

    Tokens: `heatmap` of one prompt. Patched heads or token sets: layers x heads or sets, mean over prompts. Graft: sufficiency and
    necessity of each token set. Effect: the total effect of student, controls and their difference. Bars carry 95 % intervals over
    prompts.

    Args:
        scores: what to show.
        prompt: which prompt a heatmap shows.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores hold both directions, or heads of several token sets; the message says how to choose.
    """
    check_prompt(scores, prompt)
    if scores.kind == "graft":
        return _set_bars(scores, path)
    if scores.kind == "effect":
        return _total_bars(scores, path)
    dims = scores.data["effect"].dims
    if "head" in dims:
        return _map(scores, scores.head_effect(), path)
    if scores.has_sets:
        return _map(scores, scores.set_effect(), path)
    return heatmap(scores, prompt, path=path)


def heatmap(scores: Scores, prompt: int = 0, *, path: str | Path | None = None) -> Figure:
    """Layers x tokens of one prompt.

    From the top: the effect per token (summed over layers for attributions, averaged for patching), the effect per layer and
    token, the role of each token and whether training shares it, the tokens. Red is a positive effect, blue a negative one; light
    grey is laid over what is not distinguishable from 0 over all prompts (`Scores.noise`).

    Args:
        scores: scores with a position axis.
        prompt: which prompt.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        IndexError: no such prompt.
        ValueError: the scores have no position axis; they hold both directions, or heads (choose one with `sel`).
    """
    check_prompt(scores, prompt)
    roles = scores.positions("role")[prompt]
    real = roles != ""  # past the end of a shorter prompt there is no role
    roles, tokens = roles[real], scores.positions("token")[prompt, real]
    sharing = scores.positions("sharing")[prompt, real] if "sharing" in scores.data.coords else None
    effect = scores.token_effect()[prompt, real]
    layered = "layer" in scores.data["effect"].dims  # gradients at the embeddings have no layers
    cells = scores.layer_effect().values[prompt][:, real] if layered else effect[None]  # (layer, token)

    heights = [0.9, *[max(1.6, 0.135 * len(cells))] * layered, 0.18 if sharing is None else 0.36]
    figure = _Figure(figsize=(max(8.0, 1.8 + 0.19 * len(tokens)), sum(heights) + 2.5), layout="constrained")
    strip, *grids, band = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)

    faint = scores.noise(prompt, tokens=True)
    colours = np.where(np.zeros(len(tokens), bool) if faint is None else faint[real], _NOISE, OTHER_COLOUR)
    strip.bar(range(len(tokens)), effect, width=0.8, color=colours)
    strip.axhline(0, color="black", linewidth=0.6)
    how = f"{'sum' if scores.additive else 'mean'} over\nlayers" if layered else "effect\n"
    strip.set_ylabel(f"{how} ({scores.unit})", fontsize=8)
    strip.spines[["top", "right"]].set_visible(False)
    _warn(strip, scores)

    for grid in grids:
        noise = scores.noise(prompt)
        _draw_cells(figure, grid, scores, cells, None if noise is None else noise[:, real])
    handles = _draw_band(band, roles, sharing)
    if layered and np.isnan(cells).any():
        handles.append(_no_score())
    band.set_xticks(range(len(tokens)), [label(t) for t in tokens], rotation=90, family="monospace", fontsize=8)
    _literal(band.get_xticklabels())
    band.set_xlim(-0.5, len(tokens) - 0.5)
    for axes in (strip, *grids):
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
        axes.tick_params(axis="y", labelsize=8)
    _legend(figure, handles, noise_note(scores))
    asked = textwrap.shorten(str(scores.data["question"].values[prompt]), 90, placeholder=" …")
    name = scores.data["prompt"].values[prompt]
    _literal([figure.suptitle(f"{_title(scores, figure)}\nprompt {name}: “{asked}”", fontsize=10)])
    return _finish(figure, path)


def _map(scores: Scores, effect: xr.DataArray, path: str | Path | None) -> Figure:
    """Layers x heads or token sets `(prompt, layer, column)`, mean over prompts."""
    test = max_t(effect.values)
    column = str(effect.dims[2])
    names = [str(x) for x in effect[column].values]
    if column == "set":
        counts = scores.data["tokens"].mean("prompt").values.reshape(-1)
        names = [f"{visible(name).replace('␣', ' ')}\n({n:.3g} tokens)" for name, n in zip(names, counts, strict=True)]
    each = 0.32 if column == "head" else 1.1
    size = max(6.5, 2 + each * len(names)), max(1.6, 0.16 * effect.sizes["layer"]) + 1.8
    figure = _Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    enough = effect.sizes["prompt"] >= FEWEST
    _draw_cells(figure, axes, scores, test.mean, test.noise & np.isfinite(test.mean) if enough else None, slim=40)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    _literal(axes.get_xticklabels())
    axes.set_xlabel({"head": "head", "set": "token set"}[column], fontsize=9)
    axes.tick_params(labelsize=8)
    _warn(axes, scores)
    _legend(figure, [_no_score()] if np.isnan(test.mean).any() else [], noise_note(scores))
    over = " and tokens" if "position" in scores.data["effect"].dims else ""
    note = f"mean over {scores.data['effect'].sizes['prompt']} prompts{over}"
    _literal([figure.suptitle(f"{_title(scores, figure)}\n{note}", fontsize=10)])
    return _finish(figure, path)


def role_bars(scores: Scores, *, by: str = "role", path: str | Path | None = None) -> Figure:
    """The effect gathered by a coordinate of the tokens, over all prompts, with 95 % intervals.

    Beside each bar: how many of the tokens it stands for, and for attributions its share of the total effect.

    Args:
        scores: scores with a position axis.
        by: `role`, `sharing`, `turn` or `token`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        ValueError: the scores have no position axis, or no such coordinate.
    """
    table = scores.by(by)
    figure, axes = _bar_figure(scores, len(table))
    colours = (ROLE_COLOURS | SHARING_COLOURS) if by in ("role", "sharing") else {}
    _bars(axes, table, "effect", [colours.get(name, OTHER_COLOUR) for name in table.index])
    notes = [f"{row['tokens']:.0%} of tokens" for _, row in table.iterrows()]
    if scores.additive:
        shares = table["share"]
        notes = [note + ("" if np.isnan(s) else f"\n{s:.0%} of effect") for note, s in zip(notes, shares, strict=True)]
        if shares.isna().all():
            _say_noise(axes)
    for y, note in enumerate(notes):
        axes.text(1.02, y, note, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    _label_rows(axes, [label(name) if by == "token" else name for name in table.index])
    axes.set_ylabel(by)
    how = "sum" if scores.additive else "mean"
    axes.set_xlabel(f"{_effect_label(scores)}\n{how} over the cells of these tokens; mean and 95 % interval over prompts")
    return _finish(figure, path)


def _set_bars(scores: Scores, path: str | Path | None) -> Figure:
    """Sufficiency and necessity of each token set, as shares of the total effect."""
    table = scores.sets()
    measures = [str(m) for m in scores.data["measure"].values]
    figure, axes = _bar_figure(scores, 1.6 * len(table))
    width = 0.8 / len(measures)
    for m, measure in enumerate(measures):
        offset = (m - (len(measures) - 1) / 2) * width
        colour = _MEASURE_COLOURS.get(measure, OTHER_COLOUR)
        _bars(axes, table, measure, [colour] * len(table), prefix=f"{measure} ", offset=offset, height=width)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    if table[measures].isna().all(axis=None):
        _say_noise(axes)
    _label_rows(axes, [f"{name} ({row['tokens']:.3g} tokens)" for name, row in table.iterrows()])
    axes.set_ylabel("token set")
    axes.set_xlabel(f"share of the total effect: {scores.headline_name}\n0 = none, 1 = all of it; 95 % interval over prompts")
    figure.legend(
        handles=[Patch(color=_MEASURE_COLOURS.get(m, OTHER_COLOUR), label=m) for m in measures],
        loc="outside lower center",
        ncols=len(measures),
        fontsize=8,
        frameon=False,
    )
    return _finish(figure, path)


def _total_bars(scores: Scores, path: str | Path | None) -> Figure:
    """The total effect of student, controls and their difference."""
    table = scores.totals()
    figure, axes = _bar_figure(scores, len(table))
    known = {"student": "#D55E00", scores.headline_name: "#000000"}
    _bars(axes, table, "effect", [known.get(name, OTHER_COLOUR) for name in table.index])
    _label_rows(axes, list(table.index))
    change = f"change of {scores.provenance['metric']} from the base model, {scores.unit}"
    axes.set_xlabel(f"{change}\nmean and 95 % interval over prompts")
    return _finish(figure, path)


# ------------------------------------------------------------------------------------------------------ shared with html


def check_prompt(scores: Scores, prompt: int) -> None:
    """Raise IndexError where there is no such prompt."""
    n = scores.data.sizes["prompt"]
    if not 0 <= prompt < n:
        raise IndexError(f"prompt={prompt}: these scores have {n} prompts; choose 0 to {n - 1}.")


def visible(token: str) -> str:
    """A token's text with white space and control characters shown."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in token.translate(_VISIBLE))


def label(token: str) -> str:
    """`visible`, cut where it would crowd out the rest."""
    text = visible(token)
    return text if len(text) <= 24 else f"{text[:23]}…"


def noise_note(scores: Scores, colour: str = "light grey") -> str:
    """What the grey means, or why nothing is grey."""
    n = scores.data.sizes["prompt"]
    if n < FEWEST:
        return f"{n} prompt{'s' * (n > 1)}: cells not tested (needs {FEWEST})"
    return f"{colour}: not distinguishable from 0 over {n} prompts (sign-flip max-T, 5 %)"


def largest(x: np.ndarray) -> float:
    """The half width of a scale centred on 0; 1 where nothing has an effect, for a scale needs a width."""
    return float(np.nanmax(np.abs(x), initial=0)) or 1.0


# ---------------------------------------------------------------------------------------------------------------- parts


def _effect_label(scores: Scores) -> str:
    return f"effect on {scores.provenance['metric']}, {scores.unit}: {scores.headline_name}"


def _spaced(names: list[str]) -> list[int]:
    """Which layers get a label: the named ones, and about ten of the numbered ones."""
    numbered = [i for i, name in enumerate(names) if name.isdigit()]
    kept = set(numbered[:: -(-len(numbered) // 10) or 1])
    return [i for i in range(len(names)) if i in kept or i not in numbered]


def _draw_cells(
    figure: Figure, axes: Axes, scores: Scores, cells: np.ndarray, noise: np.ndarray | None, *, slim: float = 25
) -> None:
    """An image `(layer, column)` with its colour bar; noise under a grey veil, hatched where there is no score."""
    axes.patch.set(hatch="//////", facecolor="white", edgecolor="0.75")
    options: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="none")
    picture = axes.imshow(cells, cmap=colours, norm=CenteredNorm(0, halfrange=largest(cells)), **options)
    if noise is not None:
        axes.imshow(np.where(noise[..., None], to_rgba(_NOISE, 0.8), 0.0), **options)
    names = scores.layer_names()
    shown = _spaced(names)
    axes.set_yticks(shown, [names[i] for i in shown])
    axes.set_ylabel("layer", fontsize=9)
    bar = figure.colorbar(picture, ax=axes, pad=0.01, fraction=0.03, aspect=slim)
    bar.set_label(_effect_label(scores), fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _no_score() -> Patch:
    return Patch(facecolor="white", edgecolor="0.75", hatch="//////", label="no score")


def _legend(figure: Figure, handles: list[Patch], note: str) -> None:
    figure.legend(handles=handles, title=note, title_fontsize=8, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _warn(axes: Axes, scores: Scores) -> None:
    """In red above the axes, where exact values disagree with what is shown."""
    if scores.warning:
        axes.set_title(scores.warning, color="#C00000", fontsize=9, fontweight="bold", pad=14)


def _title(scores: Scores, figure: Figure) -> str:
    """The title, broken where the figure is too narrow for it; below it what has not been confirmed."""
    lines = textwrap.wrap(scores.title(), int(figure.get_figwidth() * 14))
    return "\n".join([*lines, *(note for note in scores.notes() if note.startswith("not confirmed"))])


def _draw_band(axes: Axes, roles: np.ndarray, sharing: np.ndarray | None) -> list[Patch]:
    """Colour the tokens by role and, below, those that training shares; returns the legend."""
    where = np.arange(len(roles))
    axes.bar(where, 1, width=1, color=[ROLE_COLOURS[r] for r in roles])
    handles = [Patch(color=c, label=role) for role, c in ROLE_COLOURS.items() if role in roles]
    rows = {"role": 0.5}
    if sharing is not None:
        for name in SHARED:
            inside = sharing == name
            if inside.any():
                axes.bar(where[inside], 0.7, bottom=-1, width=1, color=SHARING_COLOURS[name])
                handles.append(Patch(color=SHARING_COLOURS[name], label=f"shared with training: {name}"))
        rows["shared"] = -0.65
    axes.set_ylim(-1 if sharing is not None else 0, 1)
    axes.set_yticks(list(rows.values()), list(rows), fontsize=8)
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    return handles


def _bar_figure(scores: Scores, rows: float) -> tuple[Figure, Axes]:
    figure = _Figure(figsize=(8, 1.6 + 0.38 * rows), layout="constrained")
    _literal([figure.suptitle(f"{_title(scores, figure)}\n{scores.data.sizes['prompt']} prompts", fontsize=10)])
    axes = figure.subplots()
    _warn(axes, scores)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(
    axes: Axes,
    table: pd.DataFrame,
    column: str,
    colours: list[str],
    *,
    prefix: str = "",
    offset: float = 0.0,
    height: float = 0.7,
) -> None:
    """Horizontal bars of a column with its interval, one row of the table below the other."""
    rows = np.arange(len(table)) + offset
    axes.barh(rows, table[column], height, color=colours)
    low, high = table[f"{prefix}low"], table[f"{prefix}high"]
    # grey with a white edge is seen on a black bar and beside it
    axes.hlines(rows, low, high, color="white", linewidth=3.5)
    axes.hlines(rows, low, high, color="0.35", linewidth=1.5)


def _label_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first row on top
    _literal(axes.get_yticklabels())


def _say_noise(axes: Axes) -> None:
    text = "the total effect is inside its own noise: no shares are given"
    axes.text(0.5, 1.01, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8)


def _literal(texts: Iterable[Text]) -> None:
    """Text from tokens is no formula, whatever its dollar signs say."""
    for text in texts:
        text.set_parse_math(False)


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with replacing(path) as work:
            work.write_bytes(_encode(figure, Path(path).suffix[1:] or "png"))
    return figure


def _encode(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120)
    return buffer.getvalue()
