"""How estimates agree with exact values, of those compared cells that some scores hold.

`confirm` compares cells of scores as `attribute` gave them: of their headline, all controls
included. A selection may hold some of these cells, none of them, or other numbers (those of one
model alone), and a contrast holds others in any case. So agreement is told of what is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .arrays import ScoreArrays
from .record import Confirmation, Record, signs_counted

POOR_BELOW = 0.8
"""Pearson or share of equal signs below which the agreement is called poor."""

FEWEST_TOP, FEWEST_CELLS = 2, 4
"""Of how many of the strongest cells, and of all, agreement is told at least: `confirm`'s own."""

_NUMBERS = ("top", "estimate", "exact")
"""What a compared cell has beside its labels."""


class Agreement(NamedTuple):
    """What is known of how some scores agree with exact values.

    Attributes:
        line: that in words.
        poor: whether the agreement is too poor to rely on them; where it is not known of these
            cells, whether it was before they were chosen.
        cells: the compared cells that these scores hold; none where other numbers were compared.
        confirmation: the agreement over these cells; None where they are too few.
    """

    line: str
    poor: bool
    cells: Sequence[Mapping[str, Any]]
    confirmation: Confirmation | None = None


def agreement(scores: ScoreArrays) -> Agreement | None:
    """How some scores agree with exact values; None where nothing was compared."""
    record, confirmation = scores.record, scores.record.confirmation
    if confirmation is None:
        return None
    poor = confirmation.poor
    found = "the agreement was poor" if poor else ""
    if record.minus:  # which keeps that some were poor
        told = "not confirmed: a contrast of scores"
        return Agreement(_joined(told, "of some of them " + found if found else ""), poor, ())
    what = f"{_compared(record)} was compared with exact values before this selection"
    if scores.data["model"].values.tolist() != list(record.students):
        return Agreement(_joined(f"not confirmed: {what}", found), poor, ())
    cells = [cell for cell in confirmation.cells if _holds(scores, cell)]
    if len(cells) == len(confirmation.cells):
        return Agreement(_told(confirmation), poor, cells, confirmation)
    top = sum(bool(cell["top"]) for cell in cells)
    if top < FEWEST_TOP or len(cells) < FEWEST_CELLS:
        held = f"{len(cells) or 'none'} of the {len(confirmation.cells)} cells in which"
        line = _joined(f"not confirmed in this selection: it holds {held} {what}", found)
        return Agreement(line, poor, cells)
    here = compared(cells, seed=confirmation.seed, exact=confirmation.exact)
    # a selection may hold none but cells of one size, of which Pearson says little: those of one
    # layer, say; whether estimates follow exact values is asked of them as they are, from 0
    follows = here.sign >= POOR_BELOW and _cosine(cells) >= POOR_BELOW
    return Agreement(_told(here, confirmation), not follows, cells, replace(here, poor=not follows))


def _cosine(cells: Sequence[Mapping[str, Any]]) -> float:
    """The correlation of estimates and exact values about 0, not about their means."""
    estimate, exact = (np.array([cell[of] for cell in cells]) for of in _NUMBERS[1:])
    norms = float(np.linalg.norm(estimate) * np.linalg.norm(exact))
    return float(estimate @ exact) / norms if norms else math.nan  # (of cells that are all 0)


def compared(cells: Sequence[Mapping[str, Any]], *, seed: int, exact: str) -> Confirmation:
    """The agreement over some cells.

    Args:
        cells: per cell its labels, `top`, `estimate` and `exact`.
        seed: of the random ones.
        exact: what the exact value is.
    """
    both = pd.DataFrame([{name: cell[name] for name in _NUMBERS[1:]} for cell in cells])
    estimates, values = both["estimate"].to_numpy(), both["exact"].to_numpy()
    pearson = float(both.corr("pearson").iloc[0, 1])
    counted = signs_counted(estimates, values)
    sign = float((np.sign(estimates) == np.sign(values))[counted].mean())
    return Confirmation(
        k=sum(bool(cell["top"]) for cell in cells),
        seed=seed,
        pearson=pearson,
        spearman=float(both.corr("spearman").iloc[0, 1]),
        sign=sign,
        poor=not (pearson >= POOR_BELOW and sign >= POOR_BELOW),  # NaN is poor
        exact=exact,
        cells=tuple(cells),
    )


def _holds(scores: ScoreArrays, cell: Mapping[str, Any]) -> bool:
    """Whether some scores hold a cell: by the labels along their axes, and by what was chosen of
    axes that are gone.
    """
    for axis, label in cell.items():
        if axis in _NUMBERS:
            continue
        if axis in scores.data["effect"].dims:
            kept = scores.data[axis].values.tolist()
        else:
            kept = np.atleast_1d(scores.selected.get(axis, label)).tolist()
        if label not in kept:
            return False
    return True


def _compared(record: Record) -> str:
    """Whose numbers were compared."""
    student, *controls = record.students
    if len(controls) > 1:
        return f"{student} - the mean of all {len(controls)} controls"
    return f"{student} - controls" if controls else student


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _told(found: Confirmation, of: Confirmation | None = None) -> str:
    """An agreement in words.

    Args:
        found: the agreement.
        of: that of all compared cells, where these are some of them.
    """
    top, rest = _counts(found)
    which, about_0 = f"{top} strongest and {rest} random cells", ""
    if of is not None:
        about_0 = f"correlation about 0: {_cosine(found.cells):z.2f}, "
        tops, rests = _counts(of)
        which = f"{top} of the {tops} strongest and {rest} of the {rests} random cells"
        which += ", those in this selection"
    alone = f", Pearson {found.pearson_top:z.2f}" if top > 2 else ""  # of two it is 1 or -1 anyway
    return (
        f"confirmed on {which}: {about_0}Pearson {found.pearson:z.2f}, "
        f"Spearman {found.spearman:z.2f}, {found.told_sign()}; of the strongest alone, exact "
        f"values are {found.scale:z.2f} times the estimates{alone}"
    )


def _counts(found: Confirmation) -> tuple[int, int]:
    top = sum(bool(cell["top"]) for cell in found.cells)
    return top, len(found.cells) - top
