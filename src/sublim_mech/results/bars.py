"""Bars with 95 % intervals over prompts: groups of tokens, layers, token sets, total effects.

`compare_bars` draws the scores of several students beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ..arguments import checked
from ..hints import counted, signed
from ..stats import mean_interval
from . import tables
from .arrays import ScoreArrays
from .bar_parts import (
    BarColumn,
    bar_picture,
    draw_bars,
    name_bar_scale,
    name_rows,
    over_prompts,
)
from .colours import (
    COMPARED_COLOURS,
    HEADLINE_COLOUR,
    MEASURE_COLOURS,
    OTHER_COLOUR,
    ROLE_COLOURS,
    SHARING_COLOURS,
    STUDENT_COLOUR,
)
from .dress import (
    in_ever_fewer_words,
    in_short,
    introduce,
    legend_entry,
    name_layers,
    name_scale,
)
from .kinship import kinship
from .limit_kinds import SHARES, TOTALS, Shown
from .report import effect_label, warning
from .select import check_measured_alike
from .style import MEDIUM, Picture, Wishes, letters
from .tokens import label
from .turns import mixed_turns
from .words import names_apart, percent, wrapped

_NAME = 60  # columns of what several students are called

MOST_ROWS = 30
"""Rows of bars in one picture; of more, those of largest effect are drawn."""


@checked
def role_bars(
    scores: ScoreArrays,
    *,
    by: str = "role",
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The effect gathered by a coordinate of the tokens, over all prompts, with 95 % intervals.

    Beside each bar: how many tokens it stands for and their share of the prompt's, and for
    attributions its share of the effect on the prompt's tokens.

    Args:
        scores: scores with a position axis.
        by: `role`, `sharing`, `turn` or `token`; of many tokens the 30 of largest effect.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: the scores have no position axis, or no such coordinate; `labels` names what is
            not there.
    """
    whole = tables.by(scores, by)
    table = _strongest(whole)
    rows = (1.1 if by == "token" else 1.5) * len(table)
    picture = bar_picture(scores, Wishes(ax, title, labels, path), rows=rows, shown=_shown(by))
    known = ROLE_COLOURS | SHARING_COLOURS if by in ("role", "sharing") else {}
    colours = [known.get(name, OTHER_COLOUR) for name in table.index]
    draw_bars(picture.ax, table, BarColumn("effect"), colours)

    names, said = [], []
    for name, row in table.iterrows():
        called = label(str(name)) if by == "token" else _called(picture, name, by)
        # never an effect without its share of the tokens
        notes = _notes_on_row([row])
        said += notes
        names.append("\n".join([called, *([", ".join(notes)] if by == "token" else notes)]))
    name_rows(picture, names)
    picture.ax.set_ylabel(by, fontsize=MEDIUM)
    how = f"{_gathered(scores)} of these tokens{_explained(scores, by, said)}"
    name_bar_scale(picture, scores, effect_label(scores), how)
    for line in mixed_turns(scores, by):
        picture.note(line)
    if len(whole) > len(table):
        picture.note(
            f"{len(table)} of {len(whole)} rows, those of largest effect; scores.by({by!r}) has all"
        )
    return picture.finish()


def _shown(by: str | None) -> Shown:
    """What bars of tokens or of sets show."""
    return SHARES._replace(classes=by not in ("role", "turn", "token"))


@checked
def layer_bars(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The effect of each layer over all tokens and prompts, with 95 % intervals: how deep it sits.

    Args:
        scores: scores with axes `layer` and `position`.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: no position or layer axis; both directions; heads, of which one must be chosen;
            `labels` names what is not there.
    """
    interval = mean_interval(tables.layer_totals(scores))
    picture = Picture(Wishes(ax, title, labels, path), scores, width=8, height=3.2)
    axes, places = picture.ax, np.arange(len(interval.mean))
    axes.axhline(0, color="black", linewidth=0.8)
    axes.bar(places, interval.mean, color=OTHER_COLOUR)
    axes.vlines(places, interval.low, interval.high, color="white", linewidth=3.5)
    axes.vlines(places, interval.low, interval.high, color="black", linewidth=1.5)
    name_scale(picture, axes, *in_ever_fewer_words(scores))
    name_layers(picture, axes, scores.layer_names())
    whose = "tokens"
    if scores.of_answer.values.any():  # rows by role keep them apart
        whose += ", the answer's own too"
    below = f"{_gathered(scores, whose)}; {over_prompts(scores)}"
    size = MEDIUM * picture.smaller
    below = wrapped(below, letters(picture.width, size))
    axes.set_xlabel(f"layer\n{below}", fontsize=size)
    introduce(picture, scores, counted(scores.data.sizes["prompt"], "prompt"), shown=TOTALS)
    return picture.finish()


@checked
def set_bars(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Sufficiency and necessity of each grafted token set, as shares of the total effect.

    Args:
        scores: grafts of token sets.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: no token sets; `labels` names what is not there.
    """
    table = tables.sets(scores)
    measures = [measure for measure in MEASURE_COLOURS if measure in table]
    picture = bar_picture(scores, Wishes(ax, title, labels, path), rows=1.6 * len(table) + 1)
    height = 0.8 / len(measures)
    for m, measure in enumerate(measures):
        offset = (m - (len(measures) - 1) / 2) * height
        column = BarColumn(measure, prefix=f"{measure} ", offset=offset, height=height)
        draw_bars(picture.ax, table, column, [MEASURE_COLOURS[measure]] * len(table))
    picture.ax.axvline(1, color="black", linewidth=0.8, linestyle=":")
    rows = [f"{picture.name(name)}\n{tables.size_in_words(row)}" for name, row in table.iterrows()]
    name_rows(picture, rows)
    picture.ax.set_ylabel("token set", fontsize=MEDIUM)
    below = name_bar_scale(
        picture,
        scores,
        f"share of the total effect: {scores.headline_name}",
        "0 = none, 1 = all of it",
    )
    handles = [legend_entry(picture, MEASURE_COLOURS[measure], measure) for measure in measures]
    picture.legend(handles, below=below)
    return picture.finish()


@checked
def total_bars(
    scores: ScoreArrays,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The total effect of student, controls and their difference.

    Args:
        scores: of any kind.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores -> what to call them; see `plots.plot`.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: `labels` names what is not there.
    """
    table = tables.totals(scores)
    picture = bar_picture(scores, Wishes(ax, title, labels, path), rows=len(table))
    known = {"student": STUDENT_COLOUR, scores.headline_name: HEADLINE_COLOUR}
    colours = [known.get(name, OTHER_COLOUR) for name in table.index]
    draw_bars(picture.ax, table, BarColumn("effect"), colours)
    name_rows(picture, [picture.name(name) for name in table.index])
    what = f"change of {scores.record.what} from the base model, {scores.unit}"
    name_bar_scale(picture, scores, what)
    return picture.finish()


@checked
def compare_bars(
    scores: Mapping[str, ScoreArrays],
    *,
    by: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    labels: Mapping[Any, str] | None = None,
    path: str | Path | None = None,
) -> Axes:
    """The scores of several students beside each other, with 95 % intervals over prompts.

    Bars of one colour are one student's. Rows are token sets for grafts (shares of each student's
    own total effect, whose size is told below), roles for scores of tokens, and the total effect
    for effects.

    Args:
        scores: what to call each student -> its scores; of one kind, metric, unit and instrument,
            on the same questions, all with controls or all without. At most 7.
        by: rows for scores of tokens: `role`, `sharing`, `turn` or `token`.
        ax: draw there; a new figure when not given.
        title: in place of what was scored.
        labels: names of the scores (rows, measures, the metric) -> what to call them.
        path: also write the figure there (format by its suffix), under a temporary name first.

    Raises:
        TypeError: `scores` is no mapping; `ax` is no Axes, `title` no text, `labels` no mapping.
        ValueError: fewer than two, more than 7, or scores that do not compare; the message says in
            what they differ. `by` for scores without tokens. `labels` names what is not there.

    Example:
        >>> from sublim_mech.results.bars import compare_bars
        >>> scores = sm.attribute(pair, prompts, trait, points=4, progress=False)
        >>> once_more = sm.attribute(pair, prompts, trait, points=4, progress=False)
        >>> axes = compare_bars({"rank 2": scores, "again": once_more}, by="role")
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['rank 2', 'again']
    """
    tables_of = _blocks(scores, by)
    first = next(iter(scores.values()))
    order = list(dict.fromkeys(row for table in tables_of.values() for row in table.index))
    if by == tables.LAYER:
        order.sort(key=tables.depth)
    rows = len(order) * (0.5 + 0.5 * len(scores)) + 1
    picture = bar_picture(first, Wishes(ax, title, labels, path), rows=rows)
    for one in scores.values():
        if one is not first:
            picture.warn(warning(one))
    shown = TOTALS if by == tables.LAYER else _shown(by)
    picture.limit(_limits_of_several(picture, scores, shown))

    height, handles = 0.8 / len(scores), []
    called = names_apart(scores, _NAME)
    for number, (name, table) in enumerate(tables_of.items()):
        offset = (number - (len(scores) - 1) / 2) * height
        column = BarColumn("effect", offset=offset, height=height)
        colour = COMPARED_COLOURS[number]
        draw_bars(picture.ax, table.reindex(order), column, [colour] * len(order))
        handles.append(Patch(color=colour, label=picture.text(called[name])))

    for line in mixed_turns(first, by):
        picture.note(line)
    names, said = [], []
    for row in order:
        parts = ", ".join(_called(picture, part, by) for part in row.split("\n"))
        notes = _notes_on_row(
            [table.loc[row] for table in tables_of.values() if row in table.index]
        )
        said += notes
        names.append("\n".join([parts, *notes]))
    name_rows(picture, names)
    what, how = _scale_of_several({called[name]: one for name, one in scores.items()})
    how += _explained(first, by, said, several=True)
    below = name_bar_scale(picture, first, what, how)
    picture.legend(handles, below=below)
    return picture.finish()


# ------------------------------------------------------------------------------- several students


def _blocks(scores: Mapping[str, ScoreArrays], by: str | None) -> dict[str, pd.DataFrame]:
    """Per student a table of `effect`, `low`, `high` and what is known of each row's size."""
    if not 2 <= len(scores) <= len(COMPARED_COLOURS):
        raise ValueError(
            f"scores: {len(scores)} given; compare_bars draws 2 to {len(COMPARED_COLOURS)} beside "
            "each other."
        )
    (first_name, first), *others = scores.items()
    for name, other in others:
        check_measured_alike(first, other, f"{first_name!r} and {name!r}")
    blocks = {name: _block(one, by) for name, one in scores.items()}
    if by == tables.LAYER and first.additive:
        blocks = tables.on_all_layers(blocks, scores)
    if not first.has_tokens:
        return blocks
    return {name: _strongest(table) for name, table in blocks.items()}


def _block(scores: ScoreArrays, by: str | None) -> pd.DataFrame:
    """What is drawn of one student."""
    if scores.has_tokens:
        return tables.by(scores, by or "role")
    if by is not None:
        raise ValueError(f"by={by!r}: {scores.kind} scores have no tokens to gather; leave it out.")
    if scores.kind == "effect":
        return tables.totals(scores).tail(1)
    if not scores.has_sets or "layer" in scores.data["effect"].dims:
        raise ValueError(
            "compare_bars draws effects, grafts of token sets and scores of tokens; draw layers "
            "by sets with scores.plot(ax=...), one beside the other."
        )
    # each measure of a set is a row of its own
    table, rows = tables.sets(scores), {}
    for name, entry in table.iterrows():
        for measure in MEASURE_COLOURS:
            if measure in table:
                rows[f"{name}\n{measure}"] = {
                    "tokens": entry["tokens"],
                    "token share": entry.get("token share", np.nan),
                    "effect": entry[measure],
                    "low": entry[f"{measure} low"],
                    "high": entry[f"{measure} high"],
                }
    return pd.DataFrame.from_dict(rows, orient="index")


def _limits_of_several(
    picture: Picture, scores: Mapping[str, ScoreArrays], shown: Shown
) -> list[str]:
    """What limits all of them, then what limits some, under their names."""
    called = names_apart(scores, _NAME)
    each = {called[name]: in_short(picture, one, shown=shown) for name, one in scores.items()}
    first, *others = each.values()
    of_all = [line for line in first if all(line in lines for lines in others)]
    of_some = [
        f"{name}: {line}" for name, lines in each.items() for line in lines if line not in of_all
    ]
    short = {called[name]: one for name, one in scores.items()}
    told = [*filter(None, [tables.other_layers(short)]), *kinship(short)]
    return [*of_all, *of_some, *map(picture.text, told)]


def _called(picture: Picture, name: object, by: str | None) -> str:
    """The name of a row; turns are numbers and tokens are texts, which nobody renames."""
    return str(name) if by in ("turn", "token") else picture.name(name)


def _scale_of_several(scores: Mapping[str, ScoreArrays]) -> tuple[str, str]:
    """What the scale measures, and over what; of several models each, in the legend's order."""
    first = next(iter(scores.values()))
    whose = " / ".join(dict.fromkeys(one.headline_name for one in scores.values()))
    if first.has_sets:
        totals = [f"{name} {signed(float(one.total.mean()))}" for name, one in scores.items()]
        how = f"0 = none, 1 = all of it; total effects: {', '.join(totals)} {first.unit}"
        return f"share of each one's own total effect: {whose}", how
    label = effect_label(first, whose)
    return label, f"{_gathered(first)} of these tokens" if first.has_tokens else ""


def _notes_on_row(entries: Sequence[pd.Series]) -> list[str]:
    """How many tokens a row stands for, and its share of the effect, per student where they
    differ.
    """
    notes = []
    if "tokens" in entries[0]:
        sizes = (tables.size_in_words(entry) for entry in entries)
        notes.append(" / ".join(dict.fromkeys(sizes)))
    shares = [entry.get("share", np.nan) for entry in entries]
    if not np.isnan(shares).all():  # the answer's own tokens have none
        notes.append(f"{' / '.join(map(_percent, shares))} {OF_EFFECT}")
    return notes


# ----------------------------------------------------------------------------------------- parts


def _strongest(table: pd.DataFrame) -> pd.DataFrame:
    """As many rows as a picture holds, in their order: those of largest absolute effect."""
    if len(table) <= MOST_ROWS:
        return table
    largest = np.argsort(-table["effect"].abs().fillna(0).to_numpy(), kind="stable")[:MOST_ROWS]
    return table.iloc[np.sort(largest)]


NO_SHARE, OF_EFFECT = "–", "of effect"


def _percent(share: float) -> str:
    return NO_SHARE if np.isnan(share) else percent(share)


def _explained(
    scores: ScoreArrays, by: str | None, notes: Sequence[str], *, several: bool = False
) -> str:
    """What the shares beside bars are of, and what stands for one that is not given; empty where
    there are no shares.

    Args:
        scores: what is drawn, or the first of several.
        by: what tokens were gathered by.
        notes: what stands beside the bars.
        several: whether several students are drawn.
    """
    shares = [note for note in notes if note.endswith(OF_EFFECT)]
    if not shares:
        return ""
    tokens = "all tokens, the answer's own too" if by == tables.LAYER else "all prompt tokens"
    whose = "each one's effect" if several else "the effect"
    cells = ", all cells" if scores.selected else ""
    told = f"; “{OF_EFFECT}”: of {whose} on {tokens}{cells}"
    if any(NO_SHARE in note for note in shares):
        told += f"; “{NO_SHARE}”: inside its own noise, or not known"
    return told


def _gathered(scores: ScoreArrays, whose: str = "cells") -> str:
    return f"{'sum' if scores.additive else 'mean'} over the {whose}"
