"""A picture of a hybrid: what it does, what its parts do alone, what is left without each, and
their interaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba

from ..hints import counted
from .arrays import ScoreArrays
from .bar_parts import BarColumn, bar_picture, draw_bars, name_bar_scale, name_rows
from .ceiling import without_room
from .colours import COMPARED_COLOURS, HEADLINE_COLOUR, OTHER_COLOUR
from .dress import in_short
from .limit_kinds import Kind
from .style import Wishes
from .tables import set_sizes

PALE = 0.4
"""How opaque the bar of a hybrid without a part is, which has that part's colour."""


OF_SHARES: tuple[Kind, ...] = ("noise", "sign")
"""Limits of shares, which a hybrid's own table and picture do not have."""


class Whose(NamedTuple):
    """Which student is where.

    Attributes:
        cells: of each part the name of its mask.
        answer: who computes the answer's own tokens.
    """

    cells: tuple[str, ...]
    answer: tuple[str, ...]


def hybrid_bars(
    scores: ScoreArrays,
    rows: Mapping[str, str],
    table: pd.DataFrame,
    *,
    who: Whose,
    wishes: Wishes,
) -> Axes:
    """Bars of a hybrid's table with 95 % intervals over prompts.

    Args:
        scores: of the hybrid, whose sets are its parts.
        rows: per row of the table, the part that it is of; empty where it is of none.
        table: `effect`, `low` and `high`, in the metric's unit.
        who: which student is where.
        wishes: what the caller asks of the picture.

    Raises:
        TypeError, ValueError: see `Picture`.
    """
    picture = bar_picture(scores, wishes, rows=1.4 * len(table))
    what, prompts = scores.record.what, counted(scores.data.sizes["prompt"], "prompt")
    names = scores.data["set"].values.tolist()
    parts = zip(names, who.cells, strict=False)
    told = [f"{picture.name(name)} at {mask}" for name, mask in parts]
    writers = ", ".join(map(picture.name, who.answer)) or "the base"
    told.append(f"answers computed by {writers}")
    first = picture.renamed(f"hybrid, {what}, {prompts}")
    picture.heading([first, "; ".join(told)])
    room = without_room(scores)
    picture.limit([*in_short(picture, scores, *OF_SHARES), *([room] if room else [])])
    palette = [colour for colour in COMPARED_COLOURS if colour != HEADLINE_COLOUR]
    colour_of = {name: palette[n % len(palette)] for n, name in enumerate(names)}
    sizes = dict(zip(names, set_sizes(scores), strict=True))
    colours, called, whole = [], [], next(iter(rows))
    for row, part in rows.items():
        if not part:
            colours.append(HEADLINE_COLOUR if row == whole else OTHER_COLOUR)
            note = "the hybrid" if row == whole else f"whole - alone\n{_in_words(table.loc[row])}"
            called.append(f"{picture.name(row)}\n{note}")
            continue
        alone = row == f"{part} alone"
        colours.append(colour_of[part] if alone else _pale(colour_of[part]))
        of = row.replace(part, picture.name(part))
        many = f"{sizes[part]:.3g} {'token' if sizes[part] == 1 else 'tokens'}"
        if part in who.answer:
            many += " and the answer's own"
        called.append(f"{of}\n{f'at {many}' if alone else 'what the others do'}")
    draw_bars(picture.ax, table, BarColumn("effect"), colours)
    name_rows(picture, called)
    name_bar_scale(picture, scores, f"change of {what} from the base model, {scores.unit}")
    return picture.finish()


def _pale(colour: str) -> str:
    """A colour through which the background is seen."""
    return to_hex(to_rgba(colour, PALE), keep_alpha=True)


def _in_words(line: pd.Series) -> str:
    """An effect with its interval: beside the others its bar may be too small to see."""
    mean, low, high = (f"{line[name]:+z.2g}" for name in ("effect", "low", "high"))
    return mean if np.isnan(line["low"]) else f"{mean} [{low}, {high}]"
