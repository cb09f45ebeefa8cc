"""Scores in words: their title, what to know before trusting them, and what `repr` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np
import pandas as pd

from ..hints import counted
from ..stats import FEWEST
from .arrays import ScoreArrays, holding_whole
from .completeness import points_in_words
from .confirming import agreement
from .contexts import TURNS, quoted
from .curves import crossings, curve, linearity, nulls_in_words, spread_in_words
from .held import notes_held
from .identity import name_and_digest
from .kinds import KINDS, Table
from .limit_kinds import OF_LAYERS, SHARES, Kind, Shown
from .limits import in_full, limits
from .limits_of_students import over_contexts, where_asked
from .record import GATED, ONE_VALUE, ONLY, SUM, Forms
from .rounding import is_coarse, known_to
from .select import select
from .spreading import MIXED, switched_in_words
from .stability import is_map, reliability
from .tables import (
    LAYER,
    by,
    denominator,
    denominator_of_layers,
    denominator_of_total,
    sets,
    strongest,
    totals,
    unchanged,
)
from .turns import mixed_turns
from .words import seen

POOR_AGREEMENT = "AGREEMENT WITH EXACT VALUES IS POOR: use the exact instrument"
_FORMS = 6  # traits whose forms are printed before it says how many more there are


def title(scores: ScoreArrays) -> str:
    """What was scored, in one line."""
    record = scores.record
    parts = [f"{KINDS[scores.kind].title} {record.what}"]
    if record.hybrid is not None:
        parts = [f"parts of a hybrid, {record.what}", f"answers computed by {record.hybrid}"]

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
    only, _ = name_and_digest(record.sets.get(ONLY, ""))
    if only not in ("", "everything"):
        parts.append(f"only {only}")
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
    than these fields. That the training context was not given is a limit.
    """
    record = scores.record
    if not record.measured:
        return []
    where = [] if record.training_context is None else [where_asked(record)]
    return [*forms_in_words(record.forms), *where]


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


def warning(scores: ScoreArrays) -> str | None:
    """What no picture of these scores may leave out: that exact values disagree."""
    found = agreement(scores)
    return POOR_AGREEMENT if found is not None and found.poor else None


def notes(scores: ScoreArrays) -> list[str]:
    """What to know of prompts and students beside what limits them, how the estimates agree with
    exact values, and what the floating-point type costs.
    """
    lines = [*_left_out(scores), *filter(None, [unchanged(scores)])]
    if several := over_contexts(scores):
        lines.append(f"{several}; score each context by itself")
    if scores.record.spans is not None:
        which = switched_in_words(scores.data, scores.record)
        lines.append(
            f"spans by {scores.record.spans}: the effect of a span is that of all its tokens"
            f"{which and f' {which}'} at once, no sum of theirs"
            f"{which and '; the other tokens were left alone, and have none'}"
        )
    if scores.record.refined is not None:
        lines.append(
            f"single tokens of the {counted(scores.record.refined, 'strongest span')} of each "
            "prompt; other tokens show the value of their span (not refined)"
        )
    are_limits = SUM, GATED, ONE_VALUE, TURNS
    lines += [
        note for note in notes_held(scores) if not any(phrase in note for phrase in are_limits)
    ]
    lines += points_in_words(scores)
    compared, compute = agreement(scores), scores.record.compute
    # of estimates that were not compared it is a limit
    if compared is not None and (compared.confirmation or not KINDS[scores.kind].estimate):
        lines.append(compared.line)
    if compute is not None:
        lines.append(
            f"computed in {compute.dtype}: totals off by up to {compute.error:.2g} {scores.unit}"
        )
    elif is_coarse(scores):
        lines.append(
            f"models in {scores.record.base.dtype}: up to {known_to(scores):.2g} {scores.unit} on "
            "a prompt may be rounding; float32 tells"
        )
    return lines


def _left_out(scores: ScoreArrays) -> list[str]:
    """Which prompts were left out because they give the numbers of others again."""
    record = scores.record
    copies, given = record.copies - record.unread, scores.data.sizes["prompt"] + record.copies
    lines = []
    if copies:
        lines.append(
            f"{copies} of {given} prompts {'is a copy' if copies == 1 else 'are copies'} "
            "of others, token by token: left out, for copies are no evidence"
        )
    if record.unread:
        is_one = "is another one" if record.unread == 1 else "are others"
        lines.append(
            f"{record.unread} of {given} prompts {is_one} up to the last token that the metric "
            "reads, and nothing behind it moves a number: left out, for copies are no evidence"
        )
    return lines


UNTESTED = f"not tested: in fewer than {FEWEST} prompts"
"""What is said of cells whose place too few of enough prompts have."""


def noise_note(scores: ScoreArrays, colour: str = "light grey") -> str:
    """What grey cells mean, or why nothing is grey."""
    prompts = scores.data.sizes["prompt"]
    if prompts < FEWEST:
        return f"{counted(prompts, 'prompt')}: cells not tested (needs {FEWEST})"
    return f"{colour}: not distinguishable from 0 over {prompts} prompts (sign-flip max-T, 5 %)"


def footing(scores: ScoreArrays) -> str:
    """What a legend says of a map: what grey cells mean, and how stable it is."""
    parts = [noise_note(scores), *([reliability(scores).short] if is_map(scores) else [])]
    return "; ".join(parts)


def effect_label(scores: ScoreArrays, whose: str = "") -> str:
    """What a scale of effects measures; whose effects where they are not of these scores alone."""
    return f"effect on {scores.record.what}, {scores.unit}: {whose or scores.headline_name}"


def about(scores: ScoreArrays, *without: Kind, shown: Shown = SHARES) -> list[str]:
    """What stands above every table of some scores: what was measured on what, and what limits the
    numbers below, but for what stands with them, and limits of what the table does not show.
    """
    lines = [f"{title(scores)}, {prompts(scores)}, {scores.unit}", *provenance(scores)]
    lines += in_full(scores, *_told_below(scores), *without, shown=shown)
    lines += notes(scores)
    poor = warning(scores)
    return lines if poor is None else [*lines, poor]


def around(scores: ScoreArrays, by: str | None = None) -> list[str]:
    """All that is said of a table of some scores where it stands without their report: what stands
    above every table, and what a report says beside its own.

    Args:
        scores: whose table it is.
        by: what tokens are gathered by.
    """
    of_layers = by == LAYER and scores.additive
    lines = about(scores, shown=OF_LAYERS if of_layers else SHARES)
    if has_shares(scores):
        lines.append(denominator_of_layers(scores) if of_layers else denominator(scores))
    elif scores.has_steps:
        lines.append(_by_step(scores))
    elif KINDS[scores.kind].table != "totals":
        lines.append(denominator_of_total(scores))
    if "vector" in scores.data["effect"].dims:
        lines += filter(None, [nulls_in_words(scores), spread_in_words(scores)])
    return [*lines, *mixed_turns(scores, by), *_gap(scores)]


def has_shares(scores: ScoreArrays) -> bool:
    """Whether tables of tokens give their shares of what all cells add up to."""
    return scores.additive and scores.has_tokens and not scores.has_steps


def _told_below(scores: ScoreArrays) -> list[Kind]:
    """Limits that stand below tables, or beside them (`tables.denominator`)."""
    return ["gap", "noise"] if has_shares(scores) else ["gap"]


def with_interval(count: int, of: str = "prompts") -> str:
    """What a bar or a line with its interval is, in a figure.

    Args:
        count: prompts.
        of: what the interval is over, where there are enough of them.
    """
    if count < FEWEST:  # that they are few is a limit
        return f"mean and interval over {count} prompts"
    return f"mean and 95 % interval over {of}"


def report(scores: ScoreArrays) -> str:
    """What `repr` prints."""
    scores = holding_whole(scores)
    lines = about(scores)
    if scores.has_steps:
        lines += ["", _by_step(scores), show(curve(scores))]
        return "\n".join([*lines, *_gap(scores)])
    lines.append(show(totals(scores)))
    if "direction" in scores.data["effect"].dims:  # they are never mixed
        for name in scores.data["direction"].values.tolist():
            lines.append(f"\ndirection {name}")
            one = select(scores, {"direction": name})
            lines += [*_lines_of_cells(one)[1:], *_stability(one)]
    else:
        lines += [*_LINES[KINDS[scores.kind].table](scores), *_stability(scores)]
    return "\n".join([*lines, *_gap(scores)])


def _by_step(scores: ScoreArrays) -> str:
    """What a table over steps holds: of grafts no shares, as a table of one step has them."""
    told = f"effects by step, {scores.unit} ({scores.headline_name})"
    if scores.kind == "graft":
        told += ": sufficiency and necessity too, not over the total"
    return told


def _gap(scores: ScoreArrays) -> list[str]:
    return [limit.text for limit in limits(scores) if limit.kind == "gap"]


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
        table = by(scores, "sharing")
        lines += ["", f"by sharing ({gathered})", show(table)]
        if MIXED in table.index:
            lines.append(
                f"{MIXED}: spans whose tokens are of several classes; of shared or not shared "
                "where all of them are, else of neither"
            )
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
    notes = crossed.attrs.get("notes", ())
    lines = ["", f"where the curves enter and settle ({whose})", show(crossed), *notes]
    if len(table) > 2 * MOST_BOUNDARIES:
        return [*lines, "", f"{len(table)} boundaries: scores.curve() has them"]
    return [*lines, "", f"effect of all tokens up to each one ({whose})", show(table)]


def _lines_of_dose(scores: ScoreArrays) -> list[str]:
    lines = ["", f"effect by gate ({scores.headline_name})", show(curve(scores))]
    scales = set(curve(scores).index)
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
    whose = "; ".join(filter(None, [scores.headline_name, nulls_in_words(scores)]))
    heading = f"shares of the total effect ({whose}), {which}"
    spread = spread_in_words(scores)
    return ["", heading, *([spread] if spread else []), show(shown)]


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

    form = f"{{:z.{decimals}f}}".format  # what rounds to 0 has no sign
    counts = {} if decimals == 3 else {name: _count for name in _COUNTS if name in table}
    return table.to_string(float_format=form, formatters=counts, na_rep="-", index=index)


_COUNTS = ("tokens", "token share")
"""Columns that are no effects, however small these are."""


def _count(value: float) -> str:
    """A count as a table has it; of whole numbers without decimals."""
    if np.isnan(value):
        return "-"
    return str(value) if isinstance(value, int | np.integer) else f"{value:z.3f}"
