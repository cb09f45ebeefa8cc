"""What was measured on what: the record that goes with scores and makes them readable later.

In files it is a JSON object without the fields that do not apply. Reading refuses a field that is
not known here, for it would be lost when the scores are saved again. A field that is added later
has a default, so that older files still load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from ..hints import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class BaseSource:
    """A base model: its name and the hash of its weights."""

    name: str
    hash: str


@dataclass(frozen=True)
class StudentSource:
    """A student model.

    Attributes:
        name: its folder, id, or what it was called.
        kind: `lora`, `full` or `mixed`.
        hash: of its weights.
        teacher: how the labels it was trained on were made, in words; `unknown` without a manifest.
    """

    name: str
    kind: str
    hash: str
    teacher: str


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


@dataclass(frozen=True)
class Confirmation:
    """Agreement of estimates with exact values on some cells.

    Attributes:
        k: how many of the strongest cells, and how many random others.
        seed: of the random ones.
        pearson, spearman: correlations of estimates with exact values.
        sign: share of cells with equal signs.
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


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where scores come from and how they were made. Fields that do not apply are None or empty.

    Attributes:
        metric: name of what was measured.
        unit: of every effect.
        base: the base model.
        students: by their name in the scores' `model` axis.
        contexts: the prompts' contexts as JSON texts.
        n_layers: blocks of the models; layer `n_layers` is the final norm and the unembedding.
        versions: of this package and those it runs on.
        command: the command line.
        compute: the floating-point type, where it is not that of the weights.
        method: of an attribution.
        points: of an integral.
        site: which activation was patched.
        direction: `denoising`, `noising` or `both`.
        measure: of a sweep: `sufficiency` or `necessity`.
        answer_gate: of a graft: measure -> gate of the answer tokens.
        donor_contexts: of patching between prompts: the donors' contexts as JSON texts.
        selected: what a selection kept of the cells: dimension -> label or list of labels.
        minus: metrics of the scores that were subtracted.
        confirmation: agreement with exact values, where that was asked.
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
    points: int | None = None
    site: str | None = None
    direction: str | None = None
    measure: str | None = None
    answer_gate: Mapping[str, float] = field(default_factory=dict)
    donor_contexts: tuple[str, ...] = ()
    selected: Mapping[str, Any] = field(default_factory=dict)
    minus: tuple[str, ...] = ()
    confirmation: Confirmation | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without the fields that do not apply."""
        entries = _plain(self)
        unused = [name for name in _optional() if entries[name] in (None, [], {})]
        return {name: value for name, value in entries.items() if name not in unused}

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
        return _build(cls, values, version)


_PARTS: dict[str, type] = {"base": BaseSource, "compute": Compute, "confirmation": Confirmation}
"""Fields of a record that are records themselves."""


def _optional() -> list[str]:
    """Fields of a record that may not apply."""
    return [f.name for f in fields(Record) if not _needed(f)]


def _needed(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries and tuples as lists, as JSON gives them back."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
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
