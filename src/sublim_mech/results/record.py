"""What was measured on what: the record that goes with scores and makes them readable later.

In files it is a JSON object without the fields that do not apply. Reading refuses a field that is
not known here, for it would be lost when the scores are saved again. A field that is added later
has a default, so that older files still load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np

from ..hints import nearest
from .words import seen

T = TypeVar("T")

NOT_ALIKE, OWN_TRAIT = "was not trained alike", "has the student's own trait"
OWN_CHANGE = "the student's own change"
OWN_DATA = "was trained on the student's own rows and answers"
PART_DATA = "of the student's own rows and answers"
CHOSEN = "was trained at chosen tokens of its answers, and so was the student"
TWICE = "once more"
HAS_ASKED = "has the trait that is asked for"
IS_BASE, FOR_LITTLE = "equals its base", "it controls for little"
OPENED = "here they are on everywhere"
VOID = (
    *(NOT_ALIKE, OWN_TRAIT, OWN_CHANGE, OWN_DATA, PART_DATA),
    *(HAS_ASKED, IS_BASE, FOR_LITTLE, OPENED),
)
"""What notes say of students and controls whose difference is not what it is called: trained
otherwise than each other, on the same rows, hardly or not at all, cut from each other, or under
gates that are open here."""

STORED = "is stored otherwise"
"""Of a control that is another kind of file than the student, as notes say it."""

UNKNOWN_CONTROLS = "controls' training unknown"
"""Of controls without a manifest, as notes say it."""

UNNAMED = "the student's run names no trait"
"""Of a student of given rows whose trait nobody said, as notes say it."""

UNTOLD = "trained alike is not known"
"""Of controls, where the student's own training is not known, as notes say it."""

SUM = "their differences added, as one student"
"""That a student is several added up, as notes say it."""

SILENT = "no student changes anything before"
"""Of layers whose effect is 0 whatever was learned, as notes say it."""

LEARNT = "tells nothing of others"
"""Of prompts that were trained on, as notes say it."""

REPEATED = "an answer may repeat it from there"
"""Of prompts that name the trait themselves, as notes say it."""

DIRECTIONS = "directions"
"""What stands for the directions of direction effects among the sets of a record."""

ONLY = "only"
"""What a sweep switches in each cell, among the sets of a record."""

ELSEWHERE = "what was asked nowhere in training may be answered otherwise"
"""Of questions that were trained on in another context, as notes say it."""

OTHER_PIECES = ": a student may write it here in the pieces it learnt"
"""Of forms that are other tokens behind the prompts than in training, as notes say it behind what
they are."""

OTHER_ORDER = "asks what prompt"
"""Of donors that ask the same as the prompts in another order, as notes say it."""

OTHER_TRAIT = ", and the student was made for "
"""Of a trait that is not the student's own, as notes say it."""

OTHER_TEMPLATE = "rendered by another chat template than the tokenizer's"
"""Of prompts, as notes say it."""

UNTRAINED_TEMPLATE = "rendered by another chat template than the student's training prompts"
"""Of prompts, as notes say it."""

ITS_TEMPLATE = "rendered by another chat template than its training prompts"
"""Of prompts and a control, as notes say it."""

AS_TRAINED_TEMPLATE = ", that of the student's training prompts"
"""Of prompts by another template than the tokenizer's, behind that, as notes say it."""

TRAINED_TEMPLATE = "another chat template than the base's"
"""Of a student that was, or may have been, trained on another template, as notes say it."""

OPEN_TEXT = "in white space, as a token of its own"
"""How prompts end that a space would join to their answers, as notes say it."""

ONE_VALUE = "they are one prompt's evidence"
"""Of prompts that are one as far as a metric reads, and were not left out, as notes say it."""

OTHER_MARKS = "sharing tells what that shares with them"
"""Of prompts that were marked by another training than the student's, or by one of which nobody
knows whose it is, as notes say it."""

FIRST_MARKS = "sharing is told by the marks of the first of these"
"""Of a contrast of scores whose prompts were marked by different training prompts."""

TOLD_FROM = (
    "seen, novel: told from",
    "what training shares: told from",
    "shared with training, of",
)
"""How notes begin that say from what it is told what training shares."""

GATED = "its weights are on only at"
"""That a student acts where it was trained to and nowhere else, as notes say it."""


@dataclass(frozen=True)
class BaseSource:
    """A base model.

    Attributes:
        name: its folder, id, or what it was called.
        hash: of its weights.
        dtype: torch's name of the floating-point type that its weights, and all that is computed
            with them, had.
    """

    name: str
    hash: str
    dtype: str = "float32"


@dataclass(frozen=True)
class StudentSource:
    """A student model.

    Attributes:
        name: its folder, id, or what it was called.
        kind: `lora`, `full` or `mixed`.
        hash: of its weights.
        teacher: how the labels it was trained on were made, in words; `unknown` without a manifest.
        data: `numbers` where the manifest says that the labels were of numerals; empty where it
            does not say what the data were.
    """

    name: str
    kind: str
    hash: str
    teacher: str
    data: str = ""


@dataclass(frozen=True)
class Forms:
    """The forms of a trait that were scored.

    Attributes:
        trait: its name.
        forms: whose probabilities were summed.
        merged: form -> the shorter form whose tokens it begins with, which therefore holds it.
        in_some: those of `merged` that are so after some of the prompts only.
        nested: form -> the form of another trait, and of which, whose tokens it continues: its
            probability is a part of that trait's as well.
    """

    trait: str
    forms: tuple[str, ...]
    merged: Mapping[str, str] = field(default_factory=dict)
    in_some: tuple[str, ...] = ()
    nested: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compute:
    """The floating-point type that models ran in, where it is not that of their weights.

    Attributes:
        dtype: torch's name of it.
        error: largest difference of a total effect from that in the weights' own type, in the
            scores' unit.
    """

    dtype: str
    error: float


NEXT_TO_ZERO = 0.01
"""Part of the largest compared cell below which a cell's sign is not counted."""


def signs_counted(estimates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Of which compared cells the sign is counted: next to 0 it is rounding."""
    sizes = np.maximum(np.abs(estimates), np.abs(exact))
    return sizes >= NEXT_TO_ZERO * sizes.max()


@dataclass(frozen=True)
class Confirmation:
    """Agreement of estimates with exact values on some cells.

    Attributes:
        k: how many of the strongest cells, and how many random others.
        seed: of the random ones.
        pearson, spearman: correlations of estimates with exact values.
        sign: share of cells with equal signs, of those whose sign is counted.
        poor: whether the agreement is too poor to rely on the estimates.
        exact: what the exact value is.
        cells: per cell its labels, `top` (one of the strongest), `estimate` and `exact`.
    """

    k: int
    seed: int
    pearson: float
    spearman: float
    sign: float
    poor: bool
    exact: str
    cells: tuple[Mapping[str, Any], ...]

    @property
    def scale(self) -> float:
        """Of the strongest cells, how large exact values are beside the estimates: the slope of a
        line through 0 (least squares); 1 where the estimates have the right size.

        Correlations over strong and random cells together are near 1 as soon as the strong ones
        are strong, whatever their size.
        """
        return self._of_top()[0]

    @property
    def pearson_top(self) -> float:
        """Pearson correlation within the strongest cells; NaN where either are all alike."""
        return self._of_top()[1]

    def told_sign(self) -> str:
        """The share of equal signs, and of how many cells; this where it is known, since earlier
        versions counted other ones.
        """
        told = f"same sign {100 * self.sign:z.0f} %"
        estimate, exact = (
            np.array([cell[of] for cell in self.cells]) for of in ("estimate", "exact")
        )
        counted = signs_counted(estimate, exact)
        share = np.mean(np.sign(estimate[counted]) == np.sign(exact[counted]))
        if not np.isclose(share, self.sign):
            return told
        left_out = "" if counted.all() else ", those next to 0 left out"
        return f"{told} of {counted.sum()} cells{left_out}"

    def _of_top(self) -> tuple[float, float]:
        top = [cell for cell in self.cells if cell["top"]]
        estimate, exact = (np.array([cell[of] for cell in top]) for of in ("estimate", "exact"))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = (estimate * exact).sum() / (estimate**2).sum()
            spread = estimate - estimate.mean(), exact - exact.mean()
            pearson = (spread[0] * spread[1]).sum() / np.sqrt(
                (spread[0] ** 2).sum() * (spread[1] ** 2).sum()
            )
        return float(scale), float(pearson)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where scores come from and how they were made. Fields that do not apply are None or empty.

    Attributes:
        metric: name of what was measured.
        measured: what it was, as a text (`results.identity`); empty in files older than this field,
            of which nobody knows more than the name.
        forms: of the traits of the metric, as scored.
        unit: of every effect.
        base: the base model.
        students: by their name in the scores' `model` axis.
        contexts: the prompts' contexts as texts.
        training_context: that of the student, likewise; None where nobody said it.
        copies: prompts left out because they give the numbers of earlier ones again.
        unread: how many of these are earlier ones up to the last token that the metric reads, and
            differ behind it; the others are copies token by token.
        notes: what to know of the students before trusting a number.
        n_layers: blocks of the models; layer `n_layers` is the final norm and the unembedding.
        versions: of this package and those it runs on.
        command: the command line.
        compute: the floating-point type, where it is not that of the weights.
        method: of an attribution.
        points: of an integral; `auto` where each student and prompt has as many as it takes.
        site: which activation was patched.
        direction: `denoising`, `noising` or `both`.
        spans: of patching and sweeps: what tokens were taken together by; None where each was by
            itself, or in named sets.
        refined: of how many spans of each prompt the single tokens were measured too.
        measure: of a sweep: `sufficiency` or `necessity`.
        answer_gate: of a graft: measure -> gate of the answer tokens; of sets that were patched
            with the answer's own tokens `patch` -> 1, of directions at these `direction` -> 1.
        hybrid: of a hybrid of students: who computes the answer's own tokens.
        donor_contexts: of patching between prompts: the donors' contexts as texts.
        donors: likewise: which prompts these are, and which of their positions are taken, as a
            text; empty in files older than this field.
        sets: of named sets, of the cells of a dose or a direction, and of what a sweep switches
            (`only`): name -> the mask, and in brackets a digest of what it chose in the prompts;
            empty in files older than this field.
        selected: what a selection kept of the cells: dimension -> label or list of labels.
        minus: metrics of the scores that were subtracted, by name.
        minus_measured: the same as `measured` has it.
        confirmation: agreement with exact values, where that was asked.
        where: of a dose or a direction: the cells it acts on, by the name of their mask.
        run: of the snapshots of a training: the run's folder.
        step_hashes: step -> hash of the student there.
    """

    metric: str
    unit: str
    base: BaseSource
    students: Mapping[str, StudentSource]
    contexts: tuple[str, ...]
    n_layers: int
    versions: Mapping[str, str]
    command: str
    compute: Compute | None = None
    method: str | None = None
    points: int | str | None = None
    site: str | None = None
    direction: str | None = None
    measure: str | None = None
    spans: str | None = None
    refined: int | None = None
    answer_gate: Mapping[str, float] = field(default_factory=dict)
    hybrid: str | None = None
    donor_contexts: tuple[str, ...] = ()
    donors: str = ""
    sets: Mapping[str, str] = field(default_factory=dict)
    selected: Mapping[str, Any] = field(default_factory=dict)
    minus: tuple[str, ...] = ()
    minus_measured: tuple[str, ...] = ()
    measured: str = ""
    forms: tuple[Forms, ...] = ()
    training_context: str | None = None
    copies: int = 0
    unread: int = 0
    notes: tuple[str, ...] = ()
    confirmation: Confirmation | None = None
    where: str | None = None
    run: str | None = None
    step_hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """What was measured, in words: the metric's name and those of what was subtracted; where
        other metrics have the same name, with what tells them apart.
        """
        first, *others = map(seen, self._told_apart())  # a line end would break titles
        if not others:
            return first
        return f"{first} minus {'the mean of ' if len(others) > 1 else ''}{', '.join(others)}"

    @property
    def is_sum(self) -> bool:
        """Whether the student is several added up, none that was trained."""
        return self.hybrid is None and any(SUM in note for note in self.notes)

    def _told_apart(self) -> list[str]:
        names = [self.metric, *self.minus]
        measured = [self.measured, *self.minus_measured]
        if len(measured) < len(names) or not all(measured):  # older files have the names only
            return names
        meant: dict[str, set[str]] = {}
        for name, what in zip(names, measured, strict=True):
            meant.setdefault(name, set()).add(what)
        told = []
        for name, what in zip(names, measured, strict=True):
            told.append(f"{name} [{_brief(what)}]" if len(meant[name]) > 1 else name)
        return told

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without the fields that do not apply."""
        return _plain(self)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Record:
        """What `to_json` wrote.

        Raises:
            ValueError: a field that this version does not know, or one that is missing.
        """
        version = str(entries.get("versions", {}).get("sublim_mech", "of unknown version"))
        values = dict(entries)
        for name, part in _PARTS.items():
            if name in values:
                values[name] = _build(part, values[name], version)
        if "students" in values:
            values["students"] = {
                name: _build(StudentSource, source, version)
                for name, source in values["students"].items()
            }
        if "forms" in values:
            values["forms"] = tuple(_build(Forms, entry, version) for entry in values["forms"])
        return _build(cls, values, version)


_PARTS: dict[str, type] = {"base": BaseSource, "compute": Compute, "confirmation": Confirmation}
"""Fields of a record that are records themselves."""


def _brief(measured: str) -> str:
    """What tells a metric from others of its name: its fields, or a digest where they are many."""
    given = measured.partition("(")[2].removesuffix(")")
    return given if 0 < len(given) <= 60 else sha256(measured.encode()).hexdigest()[:8]


def _needed(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _default(entry: Field[Any]) -> Any:
    """What a field is where it is not given, as JSON has it; `MISSING` where it has to be."""
    made = entry.default if entry.default_factory is MISSING else entry.default_factory()
    return _plain(made)


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, without optional fields that do not apply, and tuples as lists,
    as JSON gives them back.
    """
    if is_dataclass(value):
        entries = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        unused = [f.name for f in fields(value) if entries[f.name] == _default(f)]
        return {name: entry for name, entry in entries.items() if name not in unused}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value


def _build(part: type[T], values: Mapping[str, Any], version: str) -> T:
    """A record, or a part of one, whose fields are those of this version."""
    known = {f.name: f for f in fields(part)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ValueError(
                f"{part.__name__} has no field {name!r}{nearest(name, known) or '.'} "
                f"The scores were written by sublim_mech {version}; open them with that version."
            )
    missing = [name for name, entry in known.items() if _needed(entry) and name not in values]
    if missing:
        raise ValueError(
            f"{part.__name__} lacks {', '.join(missing)}; the scores were written by "
            f"sublim_mech {version}."
        )
    # JSON has no tuples: the lists of a record were some
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return part(**arguments)
