"""The kinds of scores, each declared once.

A kind says what its cells are and how they are summed up, and everything that shows scores asks
here. To add a kind, add an entry to `KINDS`; to tabulate or draw it in a new way, add a name to
`Table` or `Picture`, and its function where that name is looked up (`report.py`, `plots.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Table = Literal["totals", "sets", "cells", "scan", "dose", "direction"]
Picture = Literal["total bars", "set bars", "cells", "scan", "dose", "direction"]

STEP = "step"
"""The axis that scores of any kind have where they are those of a run's snapshots."""


@dataclass(frozen=True)
class Kind:
    """What the cells of some scores are.

    Attributes:
        title: how the title of such scores begins.
        axes: dimensions that its cells may have, after `model` and `prompt`.
        additive: whether cells add up to the total effect (interventions and their estimates do
            not).
        cumulative: whether a cell's value is that of all tokens up to it, so that gathering tokens
            would mean nothing.
        estimate: whether cells estimate what an exact instrument would measure there; such scores
            say whether they were confirmed.
        table: the table that says it in short: the total effects, the token sets, or whatever suits
            the axes of its cells.
        picture: what `plot` draws: bars of the total effects, bars of the token sets, or a map of
            cells.
    """

    title: str
    axes: tuple[str, ...] = ()
    additive: bool = False
    cumulative: bool = False
    estimate: bool = False
    table: Table = "cells"
    picture: Picture = "cells"

    @property
    def is_curve(self) -> bool:
        """Whether its values are read as a curve (`Scores.curve`), not cell by cell."""
        return self.table in ("scan", "dose", "direction")


PARTS = ("band", "head", "whose")
"""Axes of the parts that differences are split into: `whose` of several students."""

KINDS: dict[str, Kind] = {
    "effect": Kind("effect on", table="totals", picture="total bars"),
    "graft": Kind("grafts,", ("set", "measure"), table="sets", picture="set bars"),
    "sweep": Kind("graft of each cell,", ("layer", "position", "span")),
    "patch": Kind(
        "activation patching,", ("direction", "layer", "head", "position", "span", "set")
    ),
    "attribution": Kind("attribution of", ("layer", "module", *PARTS, "position"), additive=True),
    "gradient": Kind("gradient estimate,", ("layer", "head", "position"), estimate=True),
    "scan": Kind(
        "prefix scan,", ("measure", "position"), cumulative=True, table="scan", picture="scan"
    ),
    "dose": Kind("dose,", ("scale",), table="dose", picture="dose"),
    "direction": Kind(
        "direction of activation,",
        ("layer", "vector", "measure"),
        table="direction",
        picture="direction",
    ),
}
"""By the name that files and `Scores.kind` carry."""
