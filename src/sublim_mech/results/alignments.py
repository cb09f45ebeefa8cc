"""Two students' weight changes beside each other: principal angles by module. No torch here.

Between two subspaces of k dimensions there are k principal angles, 0 where they share a direction.
The overlap is the mean of their squared cosines: 1 where one space holds the other, k/n for random
spaces of n dimensions in the mean.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import checked
from ..hints import check_choice, counted
from .frames import Table
from .maps import Map, draw_map

SIDES = ("left", "right")
"""What a change writes (its outputs), and what it reads (its inputs)."""


OF_READING = "what they read overlaps"
"""In notes that are of what changes read alone."""


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Principal angles between two subspaces, in radians, smallest first.

    Cosines tell large angles exactly and sines small ones (Björck and Golub 1973).

    Args:
        a: `(n, j)`, orthonormal columns.
        b: `(n, k)`, orthonormal columns.

    Returns:
        `(min(j, k),)`.

    Example:
        >>> import numpy as np
        >>> from sublim_mech.results.alignments import principal_angles
        >>> principal_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(3).tolist()
        [0.0, 1.571]
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    between = a.T @ b
    cosines = np.linalg.svd(between, compute_uv=False)
    sines = np.linalg.svd(b - a @ between, compute_uv=False)[::-1]
    small = cosines**2 >= 0.5
    angles = np.where(small, np.arcsin(np.clip(sines, 0, 1)), np.arccos(np.clip(cosines, 0, 1)))
    return np.sort(angles)


def overlap(angles: np.ndarray) -> float:
    """The mean squared cosine of principal angles."""
    return float((np.cos(angles) ** 2).mean())


@cache
def random_overlaps(n: int, j: int, k: int, draws: int, seed: int) -> np.ndarray:
    """Overlaps of two independent random subspaces, uniform over all of their dimension.

    One may be held fixed, for only their relative position counts; the other is spanned by
    independent normal vectors.

    Args:
        n: dimensions of the space.
        j: of one subspace.
        k: of the other.
        draws: how many.
        seed: of the drawing.

    Returns:
        `(draw,)`, sorted.
    """
    small, large = min(j, k), max(j, k)
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        basis = np.linalg.qr(rng.standard_normal((n, small)))[0]
        values[draw] = (basis[:large] ** 2).sum() / small
    return np.sort(values)


@dataclass(frozen=True)
class ModuleAlignment:
    """The principal angles between two students' changes of one module.

    Attributes:
        name: the module's full name.
        layer: its block.
        module: its name inside the block.
        shape: `(out, in)`.
        dims: how many directions of the first student and of the second were taken.
        left: `(k,)` angles between what the two write, radians, smallest first.
        right: `(k,)` angles between what they read.
    """

    name: str
    layer: int
    module: str
    shape: tuple[int, int]
    dims: tuple[int, int]
    left: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two students' subspaces, module by module, beside random ones; prints as a summary.

    Attributes:
        students: the two, by the names the pair gives them.
        n_layers: number of blocks.
        modules: what both change.
        alone: full names of modules that only one of them changes as a matrix.
        draws: random subspaces of the null.
        seed: of their drawing.
        notes: what to know before trusting the numbers.
    """

    students: tuple[str, str]
    n_layers: int
    modules: tuple[ModuleAlignment, ...]
    alone: tuple[str, ...] = ()
    draws: int = 500
    seed: int = 0
    notes: tuple[str, ...] = ()

    @checked
    def table(self) -> pd.DataFrame:
        """One row per module.

        Returns:
            By full name: `layer`, `module`, `first` and `second` (directions of each student), and
            for `left` (what they write) and `right` (what they read): the overlap (mean squared
            cosine), its `by chance` mean (larger dimension over that of the space), `95 %` of the
            random overlaps, `p` (share of random overlaps at least as large, the observed one
            counted in), and `smallest angle` in degrees.
        """
        rows = []
        for one in self.modules:
            row: dict[str, Any] = {
                "name": one.name,
                "layer": one.layer,
                "module": one.module,
                "first": one.dims[0],
                "second": one.dims[1],
            }
            for side, n in zip(SIDES, one.shape, strict=True):
                angles = getattr(one, side)
                observed = overlap(angles)
                null = random_overlaps(n, *one.dims, self.draws, self.seed)
                # rounding must not tell equal overlaps apart: whole spaces always overlap fully
                reached = int((null >= observed - 1e-12).sum())
                row |= {
                    side: observed,
                    f"{side} by chance": max(one.dims) / n,
                    f"{side} 95 %": float(np.quantile(null, 0.95)),
                    f"{side} p": (reached + 1) / (self.draws + 1),
                    f"{side} smallest angle": float(np.degrees(angles[0])),
                }
            rows.append(row)
        return Table(rows).set_index("name")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per angle: `name`, `layer`, `module`, `side`, `number` (from 1, smallest first),
        `angle` in radians, `cosine`.
        """
        rows = []
        for one in self.modules:
            for side in SIDES:
                for number, angle in enumerate(getattr(one, side), start=1):
                    place = {"name": one.name, "layer": one.layer, "module": one.module}
                    numbers = {"number": number, "angle": angle, "cosine": np.cos(angle)}
                    rows.append({**place, "side": side, **numbers})
        return Table(rows)

    @checked
    def plot(
        self,
        side: str = "left",
        *,
        ax: Axes | None = None,
        title: str | None = None,
        path: str | Path | None = None,
    ) -> Axes:
        """A map of layers x modules: the overlap of what the two write, or read.

        Args:
            side: `left` (what they write) or `right` (what they read).
            ax: draw there; a new figure when not given.
            title: in place of the usual one; `""` for none.
            path: also write the figure there, under a temporary name first.

        Raises:
            ValueError: another side.
        """
        check_choice("side", side, SIDES)
        does = "write" if side == "left" else "read"
        words = {side: f"overlap (mean squared cosine) of what the changes {does}"}
        drawn = Map.of(self.table(), side, words, self.n_layers)
        usual = f"{' and '.join(self.students)}: overlap of what their changes {does}"
        usual = usual if title is None else title
        notes = [note for note in self.notes if side == "right" or OF_READING not in note]
        if self.modules:
            notes += [self._chance(side), f"directions of each module: {self._taken()}"]
        return draw_map(drawn, usual, notes=notes, ax=ax, path=path)

    def _chance(self, side: str) -> str:
        """What overlaps are by chance, and how many are above that."""
        table = self.table()
        above = int((table[side] > table[f"{side} 95 %"]).sum())
        return (
            f"mean overlap {table[side].mean():z.3f}, by chance "
            f"{table[f'{side} by chance'].mean():z.3f}; above 95 % of random subspaces in "
            f"{above} of {counted(len(table), 'module')} (by chance about {0.05 * len(table):.2g})"
        )

    def __repr__(self) -> str:
        first, second = self.students
        count = counted(len(self.modules), "module")
        lines = [f"alignment of the weight changes of {first} and {second}: {count}", *self.notes]
        table = self.table()
        for side, does in zip(SIDES, ("write", "read"), strict=True):
            lines.append(f"{side} (what they {does}): {self._chance(side)}")
        if self.modules:
            lines.append(f"directions of each module: {self._taken()}")
        lines.append(f"random subspaces: {self.draws} draws, seed {self.seed}")
        grouped = table.groupby("module", sort=False)
        summary = grouped[["left", "left by chance", "right", "right by chance"]].mean()
        summary.insert(0, "layers", grouped.size())
        lines += ["", "by module, mean over layers"]
        lines.append(summary.to_string(float_format="{:z.3f}".format))
        if self.alone:
            lines += ["", f"changed as a matrix by one of them only: {_few(self.alone)}"]
        return "\n".join(lines)

    def _taken(self) -> str:
        """How many directions were taken of each student, which has fewer where its rank is less
        than what was asked for.
        """
        told = []
        for name, counts in zip(
            self.students, zip(*(m.dims for m in self.modules), strict=True), strict=True
        ):
            least, most = min(counts), max(counts)
            told.append(f"{least if least == most else f'{least} to {most}'} of {name}")
        return ", ".join(told)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _few(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
