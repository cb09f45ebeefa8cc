"""Scores in words: their title, what to know before trusting them, and what `repr` prints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ..stats import FEWEST, mean_interval
from .arrays import ScoreArrays
from .kinds import KINDS, Table
from .select import select
from .tables import by, denominator, sets, strongest, totals

POOR_AGREEMENT = "AGREEMENT WITH EXACT VALUES IS POOR: use the exact instrument"
NO_SHARES = "the total effect is inside its own noise: no shares are given"


def title(scores: ScoreArrays) -> str:
    """What was scored, in one line."""
    record = scores.record
    metric = record.metric
    if record.minus:
        mean_of = "the mean of " if len(record.minus) > 1 else ""
        metric += f" minus {mean_of}{', '.join(record.minus)}"
    parts = [f"{KINDS[scores.kind].title} {metric}"]

    # options of the instrument, unless a selection below says more
    options = {
        name: getattr(record, name) for name in ("measure", "method", "points", "site", "direction")
    }
    if "direction" in scores.data["effect"].dims:
        options["direction"] = " and ".join(scores.data["direction"].values.tolist())
    for name, value in options.items():
        if value is not None and name not in record.selected:
            parts.append(f"{name} {value}")
    if record.donor_contexts:
        parts.append("donor on other prompts")
    if record.selected:
        parts.append(scores.selection())
    return ", ".join(parts)


def warning(scores: ScoreArrays) -> str | None:
    """What no picture of these scores may leave out: that exact values disagree."""
    confirmation = scores.record.confirmation
    return POOR_AGREEMENT if confirmation is not None and confirmation.poor else None


def notes(scores: ScoreArrays) -> list[str]:
    """How the estimates agree with exact values, and what the floating-point type costs."""
    lines = []
    confirmation, compute = scores.record.confirmation, scores.record.compute
    if confirmation is not None:
        top = sum(bool(cell["top"]) for cell in confirmation.cells)
        lines.append(
            f"confirmed on {top} strongest and {len(confirmation.cells) - top} random cells: "
            f"Pearson {confirmation.pearson:.2f}, Spearman {confirmation.spearman:.2f}, "
            f"same sign {100 * confirmation.sign:.0f} %"
        )
    elif KINDS[scores.kind].estimate:
        # without a site (gradient x input) no intervention gives the exact value
        how = "no exact counterpart" if scores.record.site is None else "sublim_mech.confirm"
        lines.append(f"not confirmed: estimates from gradients ({how})")
    if compute is not None:
        lines.append(
            f"computed in {compute.dtype}: totals off by up to {compute.error:.2g} {scores.unit}"
        )
    return lines


def noise_note(scores: ScoreArrays, colour: str = "light grey") -> str:
    """What grey cells mean, or why nothing is grey."""
    prompts = scores.data.sizes["prompt"]
    if prompts < FEWEST:
        return f"{prompts} prompt{'s' if prompts > 1 else ''}: cells not tested (needs {FEWEST})"
    return f"{colour}: not distinguishable from 0 over {prompts} prompts (sign-flip max-T, 5 %)"


def headings(scores: ScoreArrays) -> list[str]:
    """The title of a picture, and below it that estimates were not confirmed."""
    return [title(scores), *(line for line in notes(scores) if line.startswith("not confirmed"))]


def effect_label(scores: ScoreArrays) -> str:
    """What a scale of effects measures."""
    return f"effect on {scores.record.metric}, {scores.unit}: {scores.headline_name}"


def report(scores: ScoreArrays) -> str:
    """What `repr` prints."""
    lines = [f"{title(scores)}, {scores.data.sizes['prompt']} prompts, {scores.unit}"]

    # what limits every number below
    if not scores.has_controls:
        lines.append("no controls given: part of any effect may come from training on any numbers")
    if scores.data.sizes["prompt"] == 1:
        lines.append("one prompt: no intervals")
    elif not scores.additive and not bool(mean_interval(scores.total.values).excludes_zero):
        lines.append(NO_SHARES)
    lines += notes(scores)
    poor = warning(scores)
    if poor is not None:
        lines.append(poor)

    lines.append(show(totals(scores)))
    if "direction" in scores.data["effect"].dims:  # they are never mixed
        for name in scores.data["direction"].values.tolist():
            lines.append(f"\ndirection {name}")
            lines += _lines_of_cells(select(scores, {"direction": name}))[1:]
    else:
        lines += _LINES[KINDS[scores.kind].table](scores)
    if scores.knows_whole:
        lines.append(f"completeness gap {scores.gap:.2%} of the total effect (all cells)")
    return "\n".join(lines)


def _no_lines(scores: ScoreArrays) -> list[str]:
    """The totals stand above already."""
    return []


def _lines_of_sets(scores: ScoreArrays) -> list[str]:
    return ["", f"shares of the total effect ({scores.headline_name})", show(sets(scores))]


def _lines_of_cells(scores: ScoreArrays) -> list[str]:
    """The tables that suit the axes of the cells."""
    dims, whose = scores.data["effect"].dims, scores.headline_name
    if "position" in dims:
        return _lines_of_tokens(scores)
    if scores.has_sets and "head" not in dims:
        table = sets(scores)
        grid = table["effect"].unstack("set", sort=False)
        sizes = table["tokens"].groupby("set", sort=False).first()
        grid.columns = [f"{name} ({size:.3g})" for name, size in sizes.items()]
        heading = f"effect by layer and token set (tokens), mean over prompts ({whose})"
        return ["", heading, show(grid)]
    if "layer" in dims:
        heading = f"strongest cells, mean over prompts ({whose})"
        return ["", heading, show(strongest(scores, 5), index=False)]
    return []


def _lines_of_tokens(scores: ScoreArrays) -> list[str]:
    dims, whose = scores.data["effect"].dims, scores.headline_name
    gathered = whose
    if not scores.additive:
        averaged = ["tokens", *(f"{dim}s" for dim in ("layer", "head") if dim in dims)]
        gathered = f"{whose}, mean over {' and '.join(averaged)}"
    shares = [denominator(scores)] if scores.additive else []
    lines = ["", *shares, f"by role ({gathered})", show(by(scores, "role"))]
    if "sharing" in scores.data.coords:
        lines += ["", f"by sharing ({gathered})", show(by(scores, "sharing"))]
    heading = f"strongest cells of single prompts ({whose})"
    return [*lines, "", heading, show(strongest(scores, 5), index=False)]


_LINES: dict[Table, Callable[[ScoreArrays], list[str]]] = {
    "totals": _no_lines,
    "sets": _lines_of_sets,
    "cells": _lines_of_cells,
}


def show(table: pd.DataFrame, *, index: bool = True) -> str:
    """A table as text; three decimals, more where all effects are small."""
    effects = table.get("effect", table)
    largest = float(np.nanmax(np.abs(effects.to_numpy(float)), initial=0))
    decimals = 3
    if 0 < largest < 0.01:
        decimals = 2 - int(np.floor(np.log10(largest)))
    form = f"{{:.{decimals}f}}".format
    return table.to_string(float_format=form, na_rep="-", index=index)
