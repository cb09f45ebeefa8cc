"""What limits the log-probabilities of an evaluation, in the words of scores (`results.limits`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from ..hints import counted
from ..results.ceiling import ceiling_of, reached
from ..results.limits_of_effects import ALONG, Moved, moved_apart
from ..results.rounding import floor_at
from ..results.words import names_apart, seen
from .estimates import over_questions

if TYPE_CHECKING:
    from .outcome import Evaluation

MOST = 3
"""Rows of the table of which the same is said in lines of their own."""

_LONGEST = 30  # columns of a context that are shown


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        at: its place, `(context, trait)`.
        context: its name, as the table shows it.
        trait: its name.
    """

    at: tuple[int, int]
    context: str
    trait: str


def of_the_controls(evaluation: Evaluation) -> list[str]:
    """Of which rows a large part of `specific`, and of `own - others`, is what the controls lost or
    gained, or all of it; nothing of rows where these are inside their own noise.
    """
    if not evaluation.has_controls:
        return []
    lines = _of_the_controls(evaluation, evaluation.change)
    if evaluation.data.sizes["trait"] > 1:
        others = evaluation.change_minus_others
        of = " in own - others; see table(minus_others=True)"
        lines += _of_the_controls(evaluation, others, of)
    return lines


def _of_the_controls(evaluation: Evaluation, change: xr.DataArray, of: str = "") -> list[str]:
    """The same of one kind of change, `(model, context, trait, question)`; `of`: which it is and
    where to look, where it is not that of the column `change`.

    Rows whose headline is all the controls' come first, and count as the like of their own kind.
    """
    own, each = change.isel(model=0), change.isel(model=slice(1, None))
    controls = each.mean("model")
    stands_out = over_questions(own - controls).excludes_zero  # (context, trait)
    if evaluation.data.sizes["question"] == 1:
        stands_out = np.ones_like(stands_out)
    # what rounding makes has no parts
    size = abs(own - controls).max("question").transpose("context", "trait").values
    stands_out = stands_out & (size > floor_at(evaluation.data["log_prob"].values))
    own, controls = own.mean("question"), controls.mean("question")
    whole: list[str] = []
    between: list[str] = []
    parts: list[str] = []
    for row in _rows(evaluation):
        here = {"context": row.at[0], "trait": row.at[1]}
        moved = Moved(float(own.isel(here)), float(controls.isel(here)))
        if not stands_out[row.at]:
            continue
        means = each.isel(here).mean("question")
        by_name = dict(zip(map(str, means["model"].values), means.values.tolist(), strict=True))
        named = ", ".join(filter(None, _names(evaluation, row)))
        where = f"{named}: " if named else ""
        if told := moved.told("nats"):
            (whole if moved.part > 1 or moved.along > ALONG else parts).append(
                f"{where}{told}{of or '; see the column change'}"
            )
        if apart := moved_apart(moved.headline, by_name):
            between.append(f"{where}{apart}{of}")
    return [*_first(whole), *_first(between), *_first(parts)]


def at_the_ceiling(evaluation: Evaluation) -> list[str]:
    """In which rows a model's log-probability cannot rise any more; nothing of those whose base is
    there too.
    """
    levels = evaluation.data["log_prob"].mean("question").transpose("model", "context", "trait")
    base, *students = levels.values
    names = evaluation.data["model"].values.tolist()[1:]
    several = "" if levels.sizes["trait"] > 1 else ", of several traits,"
    lines = []
    for row in _rows(evaluation):
        there = [
            name
            for name, level in zip(names, students, strict=True)
            if reached(base[row.at], level[row.at])
        ]
        if there:
            context, _ = _names(evaluation, row)
            who = ": ".join(filter(None, [context, ", ".join(there)]))
            lines.append(
                f"{who}: {ceiling_of(f'log P({row.trait})')}: it cannot rise any more; own - others"
                f"{several} has no ceiling"
            )
    return _first(lines)


def notes_in(notes: Sequence[str], context: str, contexts: Sequence[str]) -> list[str]:
    """Notes without those of other contexts; those of this one without its name.

    Args:
        notes: of an evaluation.
        context: the one whose notes are wanted.
        contexts: all of them.
    """
    others = tuple(f"{name}: " for name in contexts if name != context)
    own = f"{context}: " if others else ""
    return [note.removeprefix(own) for note in notes if not (others and note.startswith(others))]


def short_contexts(names: Sequence[str]) -> dict[str, str]:
    """Contexts by their names, with what a table calls each: long system prompts are shortened,
    those that begin alike so that they are told apart, and line breaks are to be seen.
    """
    short = names_apart(map(seen, names), _LONGEST)
    return {name: short[seen(name)] for name in names}


def _rows(evaluation: Evaluation) -> Iterator[Row]:
    called = short_contexts(evaluation.data["context"].values.tolist())
    for i, context in enumerate(called.values()):
        for j, trait in enumerate(evaluation.data["trait"].values.tolist()):
            yield Row((i, j), context, trait)


def _names(evaluation: Evaluation, row: Row) -> tuple[str, str]:
    """Context and trait of a row, each only where there are others."""
    sizes = evaluation.data.sizes
    return (
        row.context if sizes["context"] > 1 else "",
        row.trait if sizes["trait"] > 1 else "",
    )


def _first(lines: Sequence[str]) -> list[str]:
    """As many as a table is read with."""
    if len(lines) <= MOST:
        return list(lines)
    return [*lines[:MOST], f"and the like of {counted(len(lines) - MOST, 'more row')}"]
