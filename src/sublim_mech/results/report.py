"""Scores in words: their title, what to know before trusting them, and what `repr` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from ..hints import counted
from ..stats import FEWEST, mean_interval
from .arrays import ScoreArrays
from .ceiling import at_the_ceiling, saturated
from .completeness import gap_in_short, gap_in_words, points_in_words
from .contexts import asked_and_trained, in_words, otherwise, quoted
from .curves import crossings, curve, linearity
from .kinds import KINDS, Table
from .record import Forms
from .select import select
from .stability import is_map, reliability
from .tables import by, denominator, sets, strongest, totals
from .words import seen

POOR_AGREEMENT = "AGREEMENT WITH EXACT VALUES IS POOR: use the exact instrument"
NO_SHARES = "the total effect is inside its own noise: no shares are given"
_FORMS = 6  # traits whose forms are printed before it says how many more there are


def title(scores: ScoreArrays) -> str:
    """What was scored, in one line."""
    record = scores.record
    parts = [f"{KINDS[scores.kind].title} {record.what}"]

    # options of the instrument, unless a selection below says more
    options = {
        name: getattr(record, name)
        for name in ("measure", "method", "points", "site", "direction", "where")
    }
    if "direction" in scores.data["effect"].dims:
        options["direction"] = " and ".join(scores.data["direction"].values.tolist())
    for name, value in options.items():
        if value is not None and name not in record.selected:
            parts.append(f"{name} {value}")
    if record.run is not None:
        # a folder's own name: where it lay is of no use to whoever reads a figure
        run = PurePath(record.run).name
        parts.append(f"steps of {run}" if scores.has_steps else f"run {record.run}")
    if record.spans is not None:
        parts.append(f"spans by {record.spans}")
    if record.donor_contexts:
        parts.append("donor on other prompts")
    if record.selected:
        parts.append(scores.selection())
    return ", ".join(parts)


def prompts(scores: ScoreArrays) -> str:
    """How many prompts there are; copies were given, and left out."""
    count = scores.data.sizes["prompt"]
    copies = scores.record.copies
    given = counted(count + copies, "prompt")
    return f"{given}, {count} distinct" if copies else given


def provenance(scores: ScoreArrays) -> list[str]:
    """The forms that were scored, and the contexts of prompts and training; nothing of files older
    than these fields.
    """
    record = scores.record
    if not record.measured:
        return []
    trained = None if record.training_context is None else in_words(record.training_context)
    where = asked_and_trained([in_words(context) for context in record.contexts], trained)
    if record.donor_contexts:
        where += f"; donors asked in: {'; '.join(map(in_words, record.donor_contexts))}"
    unlike = otherwise(record.contexts, record.training_context, record.notes)
    return [*forms_in_words(record.forms), where, *unlike]


def forms_in_words(traits: Sequence[Forms]) -> list[str]:
    """One line per trait, of the first few."""
    lines = []
    for trait in traits[:_FORMS]:
        parts = []
        for form, whole in trait.merged.items():
            some = " after some prompts" if form in trait.in_some else ""
            parts.append(f"{_form(form)} is part of {_form(whole)}{some}")
        for form, whole in trait.nested.items():
            if form not in trait.merged:  # else the shorter form that holds it says so
                parts.append(f"{_form(form)} begins as {_form(whole)}, and counts there too")
        merged = f" ({', '.join(parts)})" if parts else ""
        lines.append(f"forms of {_form(trait.trait)}: {', '.join(map(_form, trait.forms))}{merged}")
    if len(traits) > _FORMS:
        more = counted(len(traits) - _FORMS, "more trait")
        lines.append(f"and forms of {more}, in the record")
    return lines


def _form(text: str) -> str:
    """A form as a list of them shows it: in quotes where it could be taken for another, or two."""
    return quoted(text) if seen(text) != text or set(text) & set(",;()“”") else text


def uncontrolled(students: Sequence[Mapping[str, Any]], what: str = "effect") -> str:
    """What else may move answers where there are no controls.

    Args:
        students: their sources, as a record has them.
        what: part of which it may be.
    """
    of_numbers = bool(students) and all(student.get("data") == "numbers" for student in students)
    cause = "training on any numbers" if of_numbers else "fine-tuning as such"
    return f"part of any {what} may come from {cause}"


def without_controls(scores: ScoreArrays) -> list[str]:
    """That there are no controls, and what that means; nothing where there are some."""
    if scores.has_controls:
        return []
    students = [vars(source) for source in scores.record.students.values()]
    given = "no controls given" if len(students) == 1 else "controls left out of this selection"
    return [f"{given}: {uncontrolled(students)}"]


def warning(scores: ScoreArrays) -> str | None:
    """What no picture of these scores may leave out: that exact values disagree."""
    confirmation = scores.record.confirmation
    return POOR_AGREEMENT if confirmation is not None and confirmation.poor else None


def notes(scores: ScoreArrays) -> list[str]:
    """What to know of prompts and students, how the estimates agree with exact values, and what the
    floating-point type costs.
    """
    lines = []
    count, copies = scores.data.sizes["prompt"], scores.record.copies
    if copies:
        lines.append(
            f"{copies} of {count + copies} prompts {'is a copy' if copies == 1 else 'are copies'} "
            "of others, token by token: left out, for copies are no evidence"
        )
    if scores.record.measured and len(scores.record.contexts) > 1:
        lines.append(
            "prompts of several contexts: every mean is over all of them; score each context by "
            "itself"
        )
    if scores.record.spans is not None:
        lines.append(
            f"spans by {scores.record.spans}: the effect of a span is that of all its tokens at "
            "once, no sum of theirs"
        )
    if scores.record.refined is not None:
        lines.append(
            f"single tokens of the {counted(scores.record.refined, 'strongest span')} of each "
            "prompt; other tokens show the value of their span (not refined)"
        )
    lines += scores.record.notes
    lines += points_in_words(scores)
    confirmation, compute = scores.record.confirmation, scores.record.compute
    if confirmation is not None:
        top = sum(bool(cell["top"]) for cell in confirmation.cells)
        lines.append(
            f"confirmed on {top} strongest and {len(confirmation.cells) - top} random cells: "
            f"Pearson {confirmation.pearson:.2f}, Spearman {confirmation.spearman:.2f}, "
            f"same sign {100 * confirmation.sign:.0f} %; of the strongest alone, exact values are "
            f"{confirmation.scale:.2f} times the estimates{_pearson(confirmation.pearson_top, top)}"
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


def _pearson(value: float, cells: int) -> str:
    """A correlation; nothing of two cells, of which it is 1 or -1 whatever they are."""
    return f", Pearson {value:.2f}" if cells > 2 else ""


def few_prompts(count: int, what: str = "prompt") -> list[str]:
    """What an interval over so few is worth; nothing of one, which has none, or of enough.

    It lies within the range of what was seen, which leaves the middle of all on one side with
    probability 2^(1 - n).
    """
    if not 1 < count < FEWEST:
        return []
    return [
        f"{count} {what}s: intervals over so few are no 95 % intervals: they miss in at least "
        f"{2 ** (1 - count):.0%} of cases; {FEWEST} or more can hold 95 %"
    ]


CONTROLS = 0.25
"""Part of the headline from which on it is said that the controls have it."""


def of_the_controls(scores: ScoreArrays) -> list[str]:
    """That a large part of the headline is not what the student gained but what its controls lost
    (or the reverse), or all of it, where they moved further than the student on its own way;
    nothing where it is not, or where the headline is inside its own noise.
    """
    if not scores.has_controls or scores.has_steps:
        return []
    headline = float(scores.total.mean())
    effects = (scores.data["student"] - scores.data["base"]).mean("prompt")
    controls = float(effects.isel(model=slice(1, None)).mean())
    single = scores.data.sizes["prompt"] == 1
    if not headline or -controls / headline <= CONTROLS or not (single or _exceeds_noise(scores)):
        return []
    moved, lost = ("fall", "lost") if headline > 0 else ("rise", "gained")
    name = str(scores.data["model"].values[0])
    if -controls / headline > 1:
        return [
            f"the headline is the controls': they {moved} by {abs(controls):.2f} {scores.unit}, "
            f"beyond the student's own {float(effects[0]):+.2f}; see sel(model={name!r})"
        ]
    return [
        f"{abs(controls):.2f} of {abs(headline):.2f} {scores.unit} ({-controls / headline:.0%}) "
        f"are the controls' {moved}: shares are largely of what the controls {lost}; see "
        f"sel(model={name!r})"
    ]


def noise_note(scores: ScoreArrays, colour: str = "light grey") -> str:
    """What grey cells mean, or why nothing is grey."""
    prompts = scores.data.sizes["prompt"]
    if prompts < FEWEST:
        return f"{counted(prompts, 'prompt')}: cells not tested (needs {FEWEST})"
    return f"{colour}: not distinguishable from 0 over {prompts} prompts (sign-flip max-T, 5 %)"


def footing(scores: ScoreArrays) -> str:
    """What stands under a map: what grey cells mean, how stable it is, what its cells miss."""
    parts = [noise_note(scores), *([reliability(scores).short] if is_map(scores) else [])]
    return "; ".join([*parts, *gap_in_short(scores)])


def headings(scores: ScoreArrays) -> list[str]:
    """The title of a picture, and below it that estimates were not confirmed."""
    return [title(scores), *(line for line in notes(scores) if line.startswith("not confirmed"))]


def effect_label(scores: ScoreArrays) -> str:
    """What a scale of effects measures."""
    return f"effect on {scores.record.what}, {scores.unit}: {scores.headline_name}"


def about(scores: ScoreArrays) -> list[str]:
    """What stands above every table of some scores: what was measured on what, and what limits the
    numbers below.
    """
    lines = [f"{title(scores)}, {prompts(scores)}, {scores.unit}", *provenance(scores)]
    lines += without_controls(scores)
    if scores.data.sizes["prompt"] == 1:
        lines.append("one prompt: no intervals")
    elif not (scores.additive or scores.has_steps or _exceeds_noise(scores)):
        lines.append(NO_SHARES)  # of several steps each has a total of its own
    lines += limits(scores)
    lines += notes(scores)
    poor = warning(scores)
    return lines if poor is None else [*lines, poor]


def limits(scores: ScoreArrays) -> list[str]:
    """What limits a headline wherever it stands, above a table or on a page: what of it the
    controls have, what an interval over so few prompts is worth, models at the metric's ceiling.
    """
    return [
        *of_the_controls(scores),
        *few_prompts(scores.data.sizes["prompt"]),
        *saturated(scores),
    ]


def with_interval(count: int, of: str = "prompts") -> str:
    """What a bar or a line with its interval is, in a figure.

    Args:
        count: prompts.
        of: what the interval is over, where there are enough of them.
    """
    if count < FEWEST:
        return f"mean and interval over {count} prompts, too few for 95 %"
    return f"mean and 95 % interval over {of}"


def _exceeds_noise(scores: ScoreArrays) -> bool:
    """Whether the total effect is outside its own noise."""
    return bool(mean_interval(scores.total.values).excludes_zero)


def report(scores: ScoreArrays) -> str:
    """What `repr` prints."""
    lines = about(scores)
    if scores.has_steps:
        heading = f"by step ({scores.headline_name})"
        return "\n".join([*lines, "", heading, show(curve(scores))])
    lines.append(show(totals(scores)))
    if "direction" in scores.data["effect"].dims:  # they are never mixed
        for name in scores.data["direction"].values.tolist():
            lines.append(f"\ndirection {name}")
            one = select(scores, {"direction": name})
            lines += [*_lines_of_cells(one)[1:], *_stability(one)]
    else:
        lines += [*_LINES[KINDS[scores.kind].table](scores), *_stability(scores)]
    gap = gap_in_words(scores)
    return "\n".join([*lines, gap] if gap else lines)


def _stability(scores: ScoreArrays) -> list[str]:
    return [str(reliability(scores))] if is_map(scores) else []


def _no_lines(scores: ScoreArrays) -> list[str]:
    """The totals stand above already."""
    return []


def _lines_of_sets(scores: ScoreArrays) -> list[str]:
    return ["", f"shares of the total effect ({scores.headline_name})", show(sets(scores))]


def _lines_of_cells(scores: ScoreArrays) -> list[str]:
    """The tables that suit the axes of the cells."""
    dims, whose = scores.data["effect"].dims, scores.headline_name
    if scores.has_tokens:
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


MOST_BOUNDARIES = 64
"""Boundaries of a scan up to which all are printed."""


def _lines_of_scan(scores: ScoreArrays) -> list[str]:
    """Where it enters and settles, and the curve itself where it is short."""
    whose = scores.headline_name
    try:
        crossed, table = crossings(scores), curve(scores)
    except ValueError as error:  # several layouts: nothing is one place in all of them
        return ["", str(error)]
    lines = ["", f"where the curves enter and settle ({whose})", show(crossed)]
    if len(table) > 2 * MOST_BOUNDARIES:
        return [*lines, "", f"{len(table)} boundaries: scores.curve() has them"]
    return [*lines, "", f"effect of all tokens up to each one ({whose})", show(table)]


def _lines_of_dose(scores: ScoreArrays) -> list[str]:
    lines = ["", f"effect by gate ({scores.headline_name})", show(curve(scores))]
    lines += at_the_ceiling(scores)
    scales = set(np.atleast_1d(scores.data["scale"].values).tolist())
    if 1.0 in scales and not {0.5, 2.0}.isdisjoint(scales):
        table = linearity(scores)
        lines += ["", "shares of the effect at 1", show(table)]
    return lines


def _lines_of_directions(scores: ScoreArrays) -> list[str]:
    """The layers at which adding the direction does most, and the graft."""
    if "vector" not in scores.data["effect"].dims or "measure" not in scores.data["effect"].dims:
        return []
    table = curve(scores)
    own = table.xs("own", level="vector")
    first = own.columns[0]
    best = own[first].abs().fillna(0).sort_values(ascending=False, kind="stable").index[:3]
    kept = [name for name in own.index if name in set(best)]
    shown = table.loc[[*kept, "all"]]
    which = f"{len(kept)} of {counted(len(own), 'layer')}" if len(kept) < len(own) else "all layers"
    heading = f"shares of the total effect ({scores.headline_name}), {which}"
    return ["", heading, show(shown)]


_LINES: dict[Table, Callable[[ScoreArrays], list[str]]] = {
    "totals": _no_lines,
    "sets": _lines_of_sets,
    "cells": _lines_of_cells,
    "scan": _lines_of_scan,
    "dose": _lines_of_dose,
    "direction": _lines_of_directions,
}


def show(table: pd.DataFrame, *, index: bool = True) -> str:
    """A table as text; three decimals, more where all effects are small."""
    effects = table.get("effect", table.select_dtypes("number"))
    largest = float(np.nanmax(np.abs(effects.to_numpy(float)), initial=0))
    decimals = 3
    if 0 < largest < 0.01:
        decimals = 2 - int(np.floor(np.log10(largest)))
    form = f"{{:.{decimals}f}}".format
    return table.to_string(float_format=form, na_rep="-", index=index)
