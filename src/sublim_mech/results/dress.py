"""What pictures of scores have in common: the words above them, the name of their scale, layers
along the axis, the strip of roles and what a legend says of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .arrays import ScoreArrays
from .colours import ROLE_COLOURS
from .confirming import agreement
from .elements import open_frame, spaced
from .held import notes_held
from .kinds import KINDS
from .limit_kinds import SHARES, Kind, Shown
from .limits import limits
from .limits_of_students import over_contexts, voided
from .record import (
    AS_TRAINED_TEMPLATE,
    ELSEWHERE,
    FIRST_MARKS,
    ITS_TEMPLATE,
    LEARNT,
    OPEN_TEXT,
    OTHER_MARKS,
    OTHER_ORDER,
    OTHER_PIECES,
    OTHER_TEMPLATE,
    OTHER_TRAIT,
    REPEATED,
    SILENT,
    TOLD_FROM,
    TRAINED_TEMPLATE,
    UNTRAINED_TEMPLATE,
)
from .report import effect_label, title, warning
from .stacking import Column
from .style import MEDIUM, SMALL, Picture, fitted
from .tables import unchanged
from .words import shortened, wrapped

SIZES = 0.2
"""By how much exact values have to differ in size from estimates where pictures say it."""


def introduce(
    picture: Picture, scores: ScoreArrays, line: str, *without: Kind, shown: Shown = SHARES
) -> None:
    """What stands around a picture: above it what was scored, a line on what of it, and warnings;
    below it what limits it.

    Args:
        picture: whose words they are.
        scores: what is drawn.
        line: below the title.
        without: limits of what the picture does not show.
        shown: what of the scores it does show.
    """
    picture.heading([picture.renamed(title(scores)), line])
    picture.warn(warning(scores))
    picture.limit(in_short(picture, scores, *without, shown=shown))


def in_short(
    picture: Picture, scores: ScoreArrays, *without: Kind, shown: Shown = SHARES
) -> list[str]:
    """What limits some scores, in short, under the names that the caller gave."""
    lines = []
    for limit in limits(scores, shown):
        if limit.kind not in without:
            whose = ", ".join(map(picture.name, limit.models))
            text = picture.renamed(limit.short)
            lines.append(f"{whose}: {text}" if whose else text)
    # tables have these among their notes
    if several := over_contexts(scores):
        lines.insert(0, several)
    if nothing := unchanged(scores):
        lines.append(nothing)
    silent = [note.partition(", so ")[0] for note in scores.record.notes if SILENT in note]
    learnt = [
        note.partition(": ")[0]
        for note in notes_held(scores)
        if any(one in note for one in (LEARNT, ELSEWHERE, REPEATED, OTHER_ORDER))
    ]
    learnt += [
        note.partition(OTHER_PIECES)[0] for note in notes_held(scores) if OTHER_PIECES in note
    ]
    told_from = [
        re.split(rf": a token of|, not of| \(numbers\.|: (?:{OTHER_MARKS}|{FIRST_MARKS})", note)[0]
        for note in scores.record.notes
        if shown.classes and any(one in note for one in (*TOLD_FROM, OTHER_MARKS, FIRST_MARKS))
    ]
    asked = [*_asked_otherwise(scores), *learnt]
    return [*lines, *voided(scores), *silent, *asked, *told_from, *_sized_otherwise(scores)]


def _asked_otherwise(scores: ScoreArrays) -> list[str]:
    """That the student was made for another trait than it is asked for, or asked by another chat
    template; and where answers do not follow their prompts token by token.
    """
    told = []
    for note in scores.record.notes:
        if OTHER_TRAIT in note or OPEN_TEXT in note:
            told.append(note.partition(": ")[0])
        elif OTHER_TEMPLATE in note:
            as_trained = AS_TRAINED_TEMPLATE if AS_TRAINED_TEMPLATE in note else ""
            told.append(f"{note.partition(OTHER_TEMPLATE)[0]}{OTHER_TEMPLATE}{as_trained}")
    held = notes_held(scores)
    told += [note for note in held if UNTRAINED_TEMPLATE in note or ITS_TEMPLATE in note]
    whose = [note.partition(": ")[0] for note in held if TRAINED_TEMPLATE in note]
    return [*told, *(f"{one}: {TRAINED_TEMPLATE} in training" for one in whose)]


def _sized_otherwise(scores: ScoreArrays) -> list[str]:
    """That confirmed estimates have another size than the exact values, which agreement is silent
    of: a correlation is 1 at any size.
    """
    compared = agreement(scores)
    if compared is None or compared.confirmation is None or not KINDS[scores.kind].estimate:
        return []
    scale = compared.confirmation.scale
    if abs(scale - 1) < SIZES:
        return []
    return [f"confirmed: of the strongest cells exact values are {scale:z.2f} times the estimates"]


def name_scale(
    picture: Picture,
    axes: Axes,
    *said: str,
    inches: float = 2.6,
    column: Column | None = None,
) -> None:
    """An open frame, small numbers, and what the upright scale of some axes measures.

    Args:
        picture: whose names it uses.
        axes: of the picture, or a part of them.
        *said: what it measures, in full, and in ever fewer words for where there is less room;
            broken into lines, and cut only where none of them fits.
        inches: that a line may take.
        column: of which the axes are a part.
    """
    open_frame(axes)
    axes.tick_params(labelsize=SMALL * picture.smaller)
    texts = [picture.renamed(text) for text in said]

    def name(inches: float, size: float, lines: int) -> None:
        text, fitting = fitted(texts, inches, size, lines=lines)
        axes.set_ylabel(picture.text(text), fontsize=fitting)

    name(inches, MEDIUM, 3)

    def fit() -> None:
        """In axes of the caller's: as long as these are high, beside them as little as may be."""
        dpi = axes.figure.figure.dpi
        wide, high = axes.bbox.width / dpi, 1.1 * axes.bbox.height / dpi
        size = MEDIUM * picture.smaller
        if column is not None:  # with room for words above it
            size, high = MEDIUM * column.smaller, 2 * column.to_middle(axes)
        name(min(inches, high), size, max(1, min(4, int(0.3 * wide * 72 / (1.25 * size)))))
        rows = axes.bbox.height / dpi / (0.2 * size / MEDIUM)
        if axes.get_yscale() == "linear":
            axes.locator_params(axis="y", nbins=max(1, min(7, int(rows))))

    picture.when_laid_out(fit)


def few_numbers(picture: Picture, axes: Axes) -> None:
    """As many numbers below axes of the caller's as there is room for."""

    def fit() -> None:
        inches = axes.bbox.width / axes.figure.figure.dpi
        room = int(inches / (0.42 * picture.smaller))
        axes.locator_params(axis="x", nbins=max(1, min(9, room)))

    picture.when_laid_out(fit)


def in_ever_fewer_words(scores: ScoreArrays) -> tuple[str, str, str]:
    """What a scale of effects measures, for `name_scale`."""
    return effect_label(scores), f"{scores.headline_name}, {scores.unit}", scores.unit


def name_layers(picture: Picture, axes: Axes, names: Sequence[str]) -> None:
    """Names of layers below axes, as many as there is room for."""
    shown = spaced(names, gap=0.5 * len(names) / picture.width)
    texts = [picture.text(wrapped(picture.name(names[i]), 12)) for i in shown]
    axes.set_xticks(shown, texts, fontsize=SMALL)


def role_strip(axes: Axes, roles: Iterable[str]) -> None:
    """A strip of colours: the role of each token, from 0 up to 1; white where it is none."""
    colours = [ROLE_COLOURS.get(str(role), "white") for role in roles]
    axes.bar(range(len(colours)), 1, width=1, color=colours)
    axes.set_ylim(0, 1)
    name_strips(axes, {"role": 0.5})


def name_strips(axes: Axes, heights: dict[str, float]) -> None:
    """Names beside strips of colours, by where each of them is."""
    axes.set_yticks(list(heights.values()), list(heights), fontsize=SMALL)
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)


def legend_entry(picture: Picture, colour: str, name: object) -> Patch:
    """What a legend says of a colour."""
    return Patch(color=colour, label=picture.text(shortened(picture.name(name), 40)))


def role_entries(picture: Picture, roles: Collection[str]) -> list[Patch]:
    """What a legend says of the roles that there are."""
    return [
        legend_entry(picture, colour, role)
        for role, colour in ROLE_COLOURS.items()
        if role in roles
    ]
