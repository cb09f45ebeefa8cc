"""A picture of a hybrid: what it does, what its parts do alone, what is left without each, and
their interaction.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from .arrays import ScoreArrays
from .bar_parts import BarColumn, bar_picture, draw_bars, name_bar_scale, name_rows
from .colours import COMPARED_COLOURS, HEADLINE_COLOUR, OTHER_COLOUR
from .style import Wishes
from .tables import set_sizes

PALE = 0.4
"""How opaque the bar of a hybrid without a part is, which has that part's colour."""


def hybrid_bars(
    scores: ScoreArrays, rows: Mapping[str, str], table: pd.DataFrame, wishes: Wishes
) -> Axes:
    """Bars of a hybrid's table with 95 % intervals over prompts.

    Args:
        scores: of the hybrid, whose sets are its parts.
        rows: per row of the table, the part that it is of; empty where it is of none.
        table: `effect`, `low` and `high`, in the metric's unit.
        wishes: what the caller asks of the picture.

    Raises:
        TypeError, ValueError: see `Picture`.
    """
    picture = bar_picture(scores, wishes, rows=1.5 * len(table))
    names = scores.data["set"].values.tolist()
    palette = [colour for colour in COMPARED_COLOURS if colour != HEADLINE_COLOUR]
    colour_of = {name: palette[n % len(palette)] for n, name in enumerate(names)}
    sizes = dict(zip(names, set_sizes(scores), strict=True))
    colours, called, whole = [], [], next(iter(rows))
    for row, part in rows.items():
        if not part:
            colours.append(to_rgba(HEADLINE_COLOUR if row == whole else OTHER_COLOUR))
            note = "the hybrid" if row == whole else "the hybrid minus its parts alone"
            called.append(f"{picture.name(row)}\n{note}")
            continue
        alone = row == f"{part} alone"
        colours.append(to_rgba(colour_of[part], 1.0 if alone else PALE))
        of = row.replace(part, picture.name(part))
        many = f"{sizes[part]:.3g} {'token' if sizes[part] == 1 else 'tokens'}"
        called.append(f"{of}\n{f'at {many}' if alone else 'what the others do'}")
    draw_bars(picture.ax, table, BarColumn("effect"), colours)
    name_rows(picture, called)
    what = f"change of {scores.record.what} from the base model, {scores.unit}"
    name_bar_scale(picture, scores, what)
    return picture.finish()
