"""What a hybrid of several students does, whole and in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import checked
from ..stats import Interval, mean_interval
from . import report
from .ceiling import without_room
from .hybrid_bars import OF_SHARES, Whose, hybrid_bars
from .scores import Scores
from .style import Wishes

INTERACTION = "interaction"
"""The row of a table that is no part of a hybrid."""


@dataclass(frozen=True, repr=False)
class Hybrid:
    """What a hybrid does, whole and in parts.

    Attributes:
        scores: scores of kind `graft` whose student is the hybrid and whose sets are its parts:
            `sufficiency` is what a part does by itself, `necessity` what the hybrid loses without
            it.
        answer: the students that compute the answer's own tokens, with the modules of their cells.
        allowed: whether cells may belong to several students, whose differences then add up.
        cells: of each part the name of its mask.
    """

    scores: Scores
    answer: tuple[str, ...]
    allowed: bool
    cells: tuple[str, ...] = ()

    @property
    def interaction(self) -> np.ndarray:
        """`(prompt,)`: the hybrid's effect minus the sum of those of its parts alone, in `unit`."""
        alone = self.scores.headline.sel(measure="sufficiency").sum("set")
        return (self.scores.total - alone).values

    @property
    def interval(self) -> Interval:
        """Mean interaction with its 95 % interval over prompts."""
        return mean_interval(self.interaction)

    def table(self) -> pd.DataFrame:
        """The hybrid, its parts alone, the hybrid without each, and the interaction: effects in
        `unit` with 95 % intervals over prompts.
        """
        effects = {"whole": self.scores.total.values}
        for name in self.scores.data["set"].values.tolist():
            part = self.scores.headline.sel(set=name)
            effects[f"{name} alone"] = part.sel(measure="sufficiency").values
            lost = part.sel(measure="necessity").values
            effects[f"without {name}"] = self.scores.total.values - lost
        effects[INTERACTION] = self.interaction
        rows = {}
        for name, values in effects.items():
            interval = mean_interval(values)
            numbers = map(float, (interval.mean, interval.low, interval.high))
            rows[name] = dict(zip(("effect", "low", "high"), numbers, strict=True))
        return pd.DataFrame.from_dict(rows, orient="index")

    @checked
    def plot(
        self,
        *,
        ax: Axes | None = None,
        title: str | None = None,
        labels: Mapping[Any, str] | None = None,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """The hybrid, its parts alone, the hybrid without each, and the interaction, as bars with
        95 % intervals over prompts.

        Args:
            ax: draw there; a new figure when not given.
            title: in place of what was scored; `""` for none.
            labels: names of the parts or of the metric -> what the picture calls them.
            path: also write the figure there (format by its suffix), under a temporary name first.

        Returns:
            The axes; `axes.figure` is the figure.

        Raises:
            TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
            ValueError: `labels` names what is not there.

        Example:
            >>> parts = {"student": sm.masks.role("system"), "cat": sm.masks.role("user")}
            >>> found = sm.instruments.hybrid(pair, prompts, trait, parts, progress=False)
            >>> [text.get_text().splitlines()[0] for text in found.plot().get_yticklabels()][3:]
            ['cat alone', 'without cat', 'interaction']
        """
        wishes = Wishes(ax, title, labels, None if path is None else Path(path))
        who = Whose(self.cells, self.answer)
        return hybrid_bars(self.scores, dict(self._rows()), self.table(), who=who, wishes=wishes)

    def _rows(self) -> Iterator[tuple[str, str]]:
        """The rows of the table, each with the part that it is of."""
        yield "whole", ""
        for name in self.scores.data["set"].values.tolist():
            yield f"{name} alone", name
            yield f"without {name}", name
        yield INTERACTION, ""

    def __repr__(self) -> str:
        lines = report.about(self.scores, *OF_SHARES)
        if told := without_room(self.scores):
            lines.append(told)
        if self.allowed:
            lines.append("cells of several students: their differences add up there")
        return "\n".join([*lines, report.show(self.table())])
