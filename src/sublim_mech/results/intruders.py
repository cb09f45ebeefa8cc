"""Intruder dimensions: singular vectors of a fine-tuned weight that are near to none of the base's.

After Shuttleworth et al. (arXiv 2410.21228). No torch here.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import checked
from ..hints import counted
from .frames import Table
from .maps import Map, draw_map

RATE = 2e10
"""Operations per second that a cost in time takes for granted: a few CPU cores in fp64."""


@dataclass(frozen=True)
class IntruderCost:
    """What looking for intruder dimensions takes; prints in words.

    Attributes:
        modules: how many are decomposed.
        operations: floating-point operations of two singular value decompositions each,
            2 (6 m n^2 + 20 n^3) for an m x n matrix with n the smaller side (Golub and Van Loan).
        bytes: memory at once, at most.
    """

    modules: int
    operations: float
    bytes: int

    @property
    def seconds(self) -> float:
        """Time at `RATE` operations per second."""
        return self.operations / RATE

    def __str__(self) -> str:
        return (
            f"{counted(self.modules, 'module')}, {self.operations:.2g} operations "
            f"({_time(self.seconds)} at {RATE:.0e} per second), {self.bytes / 2**30:.2g} GB"
        )


@dataclass(frozen=True)
class IntruderModule:
    """The first singular vectors of one module's fine-tuned weight.

    Attributes:
        name: the module's full name.
        layer: its block.
        module: its name inside the block.
        shape: `(out, in)`.
        values: `(k,)` singular values of the fine-tuned weight, largest first.
        cosines: `(k,)` largest absolute cosine of each one's vector to any of the base's.
    """

    name: str
    layer: int
    module: str
    shape: tuple[int, int]
    values: np.ndarray
    cosines: np.ndarray


@dataclass(frozen=True, eq=False)
class Intruders:
    """Intruder dimensions by module; prints as a summary.

    Attributes:
        student: the student's name in its pair.
        side: `left` (what a weight writes) or `right` (what it reads).
        k: how many singular vectors were looked at.
        threshold: of the cosine, below which one is an intruder.
        n_layers: number of blocks.
        modules: what was looked at.
        notes: what to know before trusting the numbers.
    """

    student: str
    side: str
    k: int
    threshold: float
    n_layers: int
    modules: tuple[IntruderModule, ...]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Intruders in all modules."""
        return sum(int((one.cosines < self.threshold).sum()) for one in self.modules)

    def table(self) -> pd.DataFrame:
        """One row per module.

        Returns:
            By full name: `layer`, `module`, `intruders` (of the first k singular vectors),
            `strongest` (number of the first intruder, 1 for the largest singular value; NaN where
            there is none), `smallest cosine` and `mean cosine` of the first k.
        """
        rows = []
        for one in self.modules:
            inside = np.flatnonzero(one.cosines < self.threshold)
            rows.append(
                {
                    "name": one.name,
                    "layer": one.layer,
                    "module": one.module,
                    "intruders": len(inside),
                    "strongest": inside[0] + 1 if len(inside) else np.nan,
                    "smallest cosine": one.cosines.min(),
                    "mean cosine": one.cosines.mean(),
                }
            )
        return Table(rows).set_index("name")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per singular vector: `name`, `layer`, `module`, `number` (from 1), `value` (its
        singular value), `cosine`, `intruder`.
        """
        parts = []
        for one in self.modules:
            parts.append(
                pd.DataFrame(
                    {
                        "name": one.name,
                        "layer": one.layer,
                        "module": one.module,
                        "number": np.arange(1, len(one.values) + 1),
                        "value": one.values,
                        "cosine": one.cosines,
                        "intruder": one.cosines < self.threshold,
                    }
                )
            )
        return Table(pd.concat(parts, ignore_index=True))

    @checked
    def plot(
        self,
        of: str = "intruders",
        *,
        ax: Axes | None = None,
        title: str | None = None,
        path: str | Path | None = None,
    ) -> Axes:
        """A map of layers x modules.

        Args:
            of: `intruders`, `smallest cosine` or `mean cosine`.
            ax: draw there; a new figure when not given.
            title: in place of the usual one; `""` for none.
            path: also write the figure there, under a temporary name first.

        Raises:
            ValueError: no such column.
        """
        words = {
            "intruders": f"intruders among the first {self.k} singular vectors",
            "smallest cosine": "smallest of the largest cosines to the base's vectors",
            "mean cosine": "mean of the largest cosines to the base's vectors",
        }
        drawn = Map.of(self.table(), of, words, self.n_layers)
        usual = f"{words[of]}: {self.student}, {self.side} vectors, threshold {self.threshold:g}"
        notes = list(self.notes)
        if of == "intruders" and not self.count:
            notes.insert(0, f"none: {self._none()}")
        return draw_map(drawn, usual if title is None else title, notes=notes, ax=ax, path=path)

    def _none(self) -> str:
        """What it means that there is no intruder."""
        least = min(float(one.cosines.min()) for one in self.modules)
        return (
            f"each of these vectors has a cosine of at least {least:z.3f} to one of the base's "
            f"(an intruder: below {self.threshold:g} to all)"
        )

    def __repr__(self) -> str:
        looked = sum(len(one.values) for one in self.modules)
        table = self.table()
        having = int((table["intruders"] > 0).sum())
        lines = [
            f"intruder dimensions of {self.student}: {self.count:,} of {looked:,} {self.side} "
            f"singular vectors (the first {self.k} of each module), in {having} of "
            f"{counted(len(self.modules), 'module')}",
            f"an intruder has a cosine below {self.threshold:g} to every {self.side} singular "
            "vector of the base's weight",
            *([] if self.count else [f"none: {self._none()}"]),
            *self.notes,
            "",
            "by module",
        ]
        grouped = table.groupby("module", sort=False)
        summary = grouped[["intruders"]].sum()
        summary["smallest cosine"] = grouped["smallest cosine"].min()
        summary["mean cosine"] = grouped["mean cosine"].mean()
        summary.insert(0, "layers", grouped.size())
        lines.append(summary.to_string(float_format="{:z.3f}".format))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):z.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:z.0f} min"
    return f"{seconds / 3600:z.1f} h"
