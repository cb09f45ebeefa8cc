"""Spectra of weight changes: the numbers by module, their table, their words. No torch here.

The singular values s of a module's change say in how many directions it changed:

- the share of the first k: sum of the first k s^2 over all of them (the squared Frobenius norm);
- stable rank: sum of s^2 over the largest s^2 (Rudelson and Vershynin 2007);
- effective rank: exp of the entropy of s / sum(s) (Roy and Vetterli 2007).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import checked
from ..hints import counted
from .frames import Table
from .maps import Map, draw_map

SHARES = (1, 4, 16)
"""Of how many first directions tables give the share."""


@dataclass(frozen=True)
class ModuleSpectrum:
    """The singular values of one module's weight change.

    Attributes:
        path: the module's path in the Hugging Face model.
        name: its full name, `blocks.3.attn.q`.
        layer: its block; -1 before the first, the number of blocks after the last.
        module: its name inside the block.
        shape: `(out, in)` of its matrix; an embedding's is `(d_model, token)`.
        method: `factors` (a low-rank pair), `exact`, or `randomised`.
        values: `(k,)` singular values, largest first; all of them unless `randomised`.
        norm: Frobenius norm of the whole change.
        base: Frobenius norm of the base's weight.
        residual: Frobenius norm of what the values leave out, measured; 0 where they are all.
        floor: up to which a singular value is rounding: of the weights, where the change is a
            difference of weights (full fine-tunes, adapters that are merged).
        note: what is to know of it: a fused projection, tied weights.
    """

    path: str
    name: str
    layer: int
    module: str
    shape: tuple[int, int]
    method: str
    values: np.ndarray
    norm: float
    base: float
    residual: float = 0.0
    floor: float = 0.0
    note: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all singular values are known."""
        return self.method != "randomised"

    @property
    def rank(self) -> float:
        """Singular values above rounding (`floor`); NaN where not all are known."""
        if not self.is_whole:
            return np.nan
        return float((self.values > self.floor).sum())

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius norm over the largest squared singular value; NaN of no change."""
        return float(self.norm**2 / self.values[0] ** 2) if self.norm else np.nan

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the singular values over their sum; NaN where not all are
        known.
        """
        if not self.is_whole or not self.norm:
            return np.nan
        shares = self.values[self.values > 0] / self.values.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def share(self, k: int) -> float:
        """The first k directions' share of the squared norm; NaN where fewer values are known, or
        nothing changed.
        """
        if not self.norm or (k > len(self.values) and not self.is_whole):
            return np.nan
        return float((self.values[:k] ** 2).sum() / self.norm**2)

    @property
    def relative(self) -> float:
        """Norm of the change over that of the base's weight; infinite over a weight of zeros."""
        return over(self.norm, self.base)


@dataclass(frozen=True)
class NotDecomposed:
    """A change that is no matrix, and so has no singular values.

    Attributes:
        path: the module's path; a parameter's (`.bias`) where the rest of the module has a
            spectrum.
        name: its full name.
        layer: its block.
        module: its name inside the block.
        norm: Frobenius norm of the change.
        base: Frobenius norm of the base's parameters.
        why: what it is, in words.
    """

    path: str
    name: str
    layer: int
    module: str
    norm: float
    base: float
    why: str


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values of a student's weight changes; prints as a summary.

    Attributes:
        student: the student's name in its pair.
        kind: `lora`, `full` or `mixed`.
        hash: content hash of its weights.
        n_layers: number of blocks.
        modules: what has singular values.
        rest: what has none, with its norm.
        seed: of randomised SVD.
        notes: what to know before trusting the numbers.
    """

    student: str
    kind: str
    hash: str
    n_layers: int
    modules: tuple[ModuleSpectrum, ...]
    rest: tuple[NotDecomposed, ...]
    seed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def norm(self) -> float:
        """Frobenius norm of all changes."""
        norms = [*(one.norm for one in self.modules), *(left.norm for left in self.rest)]
        return float(np.linalg.norm(norms))

    @checked
    def table(self, shares: Sequence[int] = SHARES) -> pd.DataFrame:
        """One row per changed module; what is no matrix is listed without singular values.

        Args:
            shares: of how many first directions the share of the squared norm is given.

        Returns:
            By full name: `layer`, `module`, `out`, `in`, `method`, `rank`, `stable rank`,
            `effective rank`, `first k` for each k, `norm`, `relative norm` (over the base's
            weight), `residual` (of randomised SVD: norm of what its values leave out over that of
            the change), `largest` singular value, `note`. NaN where it is not known or there is
            none.

        Raises:
            ValueError: a share of fewer than one direction.
        """
        if any(k < 1 for k in shares):
            raise ValueError(f"shares={list(shares)}: how many directions must be at least 1.")
        rows = [_row(one, shares) for one in self.modules]
        for left in self.rest:
            rows.append(
                {
                    "name": left.name,
                    "layer": left.layer,
                    "module": left.module,
                    "method": "not decomposed",
                    "norm": left.norm,
                    "relative norm": over(left.norm, left.base),
                    "note": left.why,
                }
            )
        columns = list(_row(_EMPTY, shares))
        return Table(rows, columns=columns).set_index("name")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per singular value: `name`, `layer`, `module`, `number` (from 1), `value`,
        `share` of the module's squared norm, and `share up to here`.
        """
        parts = []
        for one in self.modules:
            shares = one.values**2 / one.norm**2 if one.norm else np.full(len(one.values), np.nan)
            parts.append(
                pd.DataFrame(
                    {
                        "name": one.name,
                        "layer": one.layer,
                        "module": one.module,
                        "number": np.arange(1, len(one.values) + 1),
                        "value": one.values,
                        "share": shares,
                        "share up to here": shares.cumsum(),
                    }
                )
            )
        return Table(pd.concat(parts, ignore_index=True)) if parts else Table()

    @checked
    def plot(
        self,
        of: str = "first 1",
        *,
        ax: Axes | None = None,
        title: str | None = None,
        path: str | Path | None = None,
    ) -> Axes:
        """A map of layers x modules.

        Args:
            of: which column of `table`: `first 1` (share of the first direction; any `first k`),
                `stable rank`, `effective rank`, `rank`, `norm`, `relative norm`.
            ax: draw there; a new figure when not given.
            title: in place of the usual one; `""` for none.
            path: also write the figure there, under a temporary name first.

        Raises:
            ValueError: no such column; nothing has singular values.
        """
        wanted = of.removeprefix("first ")
        shares = (int(wanted),) if of != wanted and wanted.isdigit() else SHARES
        words = {
            "rank": "singular values above rounding",
            "stable rank": "stable rank",
            "effective rank": "effective rank",
            "norm": "norm of the weight change",
            "relative norm": "norm of the weight change over the base's weight",
            **{f"first {k}": _share_words(k) for k in shares},
        }
        drawn = Map.of(self.table(shares), of, words, self.n_layers)
        usual = f"{words[of]}: {self.student} ({self.kind})"
        usual = usual if title is None else title
        return draw_map(drawn, usual, notes=self._limits(), ax=ax, path=path)

    def _limits(self) -> list[str]:
        """What to know before trusting the numbers."""
        lines = list(self.notes)
        approximate = [one for one in self.modules if not one.is_whole]
        if approximate:
            worst = max(one.residual / one.norm for one in approximate if one.norm)
            found = max(len(one.values) for one in approximate)
            lines.append(
                f"{counted(len(approximate), 'module')} by randomised SVD (seed {self.seed}, first "
                f"{found} values): what they leave out is at most {worst:z.2%} of a change's norm"
            )
        return lines

    def __repr__(self) -> str:
        done = counted(len(self.modules), "module")
        lines = [
            f"spectrum of the weight change of {self.student} ({self.kind}): {done}",
            f"norm of all changes {self.norm:.4g}",
            *self._limits(),
        ]
        if self.modules:
            lines += ["", "by module, median over layers", self._summary()]
        if self.rest:
            lines += ["", "not decomposed"]
            lines += [f"  {line}" for line in _gathered(self.rest)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _summary(self) -> str:
        """Medians over layers, module by module."""
        table = self.table()
        table = table[table["method"] != "not decomposed"]
        columns = ["rank", "stable rank", "effective rank", "first 1", "first 4", "relative norm"]
        grouped = table.groupby("module", sort=False)
        summary = grouped[columns].median()
        summary.insert(0, "layers", grouped.size())
        return summary.to_string(float_format="{:z.3g}".format, na_rep="-")


_EMPTY = ModuleSpectrum("", "", 0, "", (0, 0), "", np.zeros(1), 0.0, 0.0)


def over(norm: float, base: float) -> float:
    """A norm over the base's: infinite over zeros, NaN of nothing over nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(norm) / np.float64(base))


def _share_words(k: int) -> str:
    return f"share of the squared norm in the first {counted(k, 'direction')}"


def _row(one: ModuleSpectrum, shares: Sequence[int]) -> dict[str, Any]:
    """A module's row of the table."""
    residual = one.residual / one.norm if one.norm else 0.0
    return {
        "name": one.name,
        "layer": one.layer,
        "module": one.module,
        "out": one.shape[0],
        "in": one.shape[1],
        "method": one.method,
        "rank": one.rank,
        "stable rank": one.stable_rank,
        "effective rank": one.effective_rank,
        **{f"first {k}": one.share(k) for k in shares},
        "norm": one.norm,
        "relative norm": one.relative,
        "residual": residual,
        "largest": one.values[0] if len(one.values) else 0.0,
        "note": one.note,
    }


def _gathered(rest: Sequence[NotDecomposed]) -> list[str]:
    """What was not decomposed, by what it is."""
    kinds: dict[tuple[str, str], list[NotDecomposed]] = {}
    for left in rest:
        kinds.setdefault((left.module, left.why), []).append(left)
    lines = []
    for (module, why), all_of in kinds.items():
        norm = np.sqrt(sum(left.norm**2 for left in all_of))
        many = f" in {counted(len(all_of), 'layer')}" if len(all_of) > 1 else ""
        lines.append(f"{module}{many}: {why}, norm {norm:.3g}")
    return lines
