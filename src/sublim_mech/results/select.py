"""Some of the cells of scores, and the contrast of two: `Scores.sel` and `Scores.minus`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import xarray as xr

from ..hints import nearest
from ..prompts import CLASSES, UNIONS
from .arrays import CONTEXT, DONOR_CONTEXT, TOLD, WHOLE, ScoreArrays, with_whole
from .cells import count_runs
from .contexts import apart
from .held import held, notes_held, notes_of_some
from .identity import first_difference, name_and_digest
from .kinds import PARTS, STEP
from .record import DIRECTIONS, FIRST_MARKS, ONLY, Compute, Record, StudentSource
from .spreading import SWITCHED

S = TypeVar("S", bound=ScoreArrays)
T = TypeVar("T")

_KEPT = ("prompt", "model", "layer")
"""Dimensions that every table and picture needs: a single label does not drop them."""

_ALIKE = (
    "base",
    "students",
    "contexts",
    "site",
    "method",
    "measure",
    "spans",
    "refined",
    "direction",
    "answer_gate",
    "hybrid",
    "where",
    "run",
    "selected",
)
"""Fields of the record that must be equal where scores are subtracted or stand in one table."""
_OPTIONS = ("points", "donor_contexts")
"""Likewise what of an instrument's options makes other numbers of the same models."""


def select(scores: S, labels: Mapping[str, Any]) -> S:
    """See `Scores.sel`."""
    # what all cells add up to is known only while they are all there
    data, record, selected = with_whole(scores), scores.record, scores.selected
    # where a token stands in its prompt can be counted only while the prompt is whole
    if any(name in labels and name in data["effect"].dims for name in ("position", "span")):
        runs, dims = count_runs(scores.per_token()), ("prompt", "position")
        data = data.assign_coords(run=(dims, runs.run), index=(dims, runs.index))

    for name, wanted in labels.items():
        dim = _dimension(scores, name, wanted)
        single = isinstance(wanted, str) or np.ndim(wanted) == 0
        keep = _indices(name, [wanted] if single else list(wanted), data[name].values.tolist())
        everything = len(keep) == data.sizes[dim] and not single
        if dim == "prompt" and not everything:  # of whom they were copies is not kept
            record = replace(record, copies=0, unread=0, notes=notes_of_some(record.notes))
        data = data.isel({dim: keep})
        if dim == "prompt":
            record = _record_of_contexts(record, data)
        # the record says what is left out, except of prompts and models, which name themselves
        if dim == "direction" and single:  # as if only this one had been asked for
            record = replace(record, direction=str(data[dim].values[0]))
        elif dim not in ("prompt", "model") and not everything:
            kept = data[dim].values.tolist()
            selected[dim] = kept[0] if single else kept
        if single and dim not in _KEPT:
            # what is known of a label beside its name stays: the scale of a set
            kept_of = {
                name: data[name].values[0]
                for name in ("scale",)
                if name != dim and name in data.coords and data[name].dims == (dim,)
            }
            data = data.isel({dim: 0}, drop=True).assign_coords(kept_of)
    return replace(scores, data=data, record=replace(record, selected=selected))


def _record_of_contexts(record: Record, data: xr.Dataset) -> Record:
    """The record of some of the prompts: of several contexts those that these were asked in."""

    def kept(name: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        if name not in data.coords:
            return texts
        there = set(data[name].values.tolist())
        return tuple(text for text in texts if text in there)

    return replace(
        record,
        contexts=kept(CONTEXT, record.contexts),
        donor_contexts=kept(DONOR_CONTEXT, record.donor_contexts),
    )


def of_each_step(scores: S) -> dict[int, S]:
    """The scores of each of several steps."""
    # what all cells add up to is found once
    whole = replace(scores, data=with_whole(scores))
    return {step: select(whole, {STEP: step}) for step in scores.data[STEP].values.tolist()}


def _dimension(scores: ScoreArrays, name: str, wanted: Any) -> str:
    """The dimension that a label of this name selects on: its own, or that of a coordinate along a
    single one (`hook`, `layer_name`, `question`).
    """
    dims, coords = scores.data["effect"].dims, scores.data.coords
    if name in dims:
        return name
    along = coords[name].dims if name in coords else ()
    if len(along) == 1 and along[0] in dims:
        return str(along[0])
    if name == "hook":
        raise ValueError(
            f"hook={wanted!r}: these {scores.kind} scores have no hook names; choose by "
            f"{scores.dims()}."
        )
    if along == ("prompt", "position"):
        # the rest would count neither as tokens nor as effect, so shares would be of a part
        raise ValueError(
            f"{name}={wanted!r}: {name!r} belongs to the tokens, which stand at other positions in "
            f"every prompt. scores.by({name!r}) gathers the effect; concentration(scores, on=...) "
            "holds a set of tokens against its share; graft and patch take sets of tokens "
            "(sublim_mech.masks)."
        )
    raise ValueError(
        f"{name}={wanted!r}: these scores have no dimension {name!r}; they have {scores.dims()}."
    )


def _indices(name: str, wanted: Sequence[Any], known: Sequence[Any]) -> list[int]:
    """Where the wanted labels stand, in the order of the known ones."""
    if name in PARTS and all(isinstance(label, str) for label in known):
        wanted = [str(label) for label in wanted]  # numbers among words: `0`, `tail`, `rest`
    for label in wanted:
        if isinstance(label, slice):
            fix = f"{name}=range({_end(label.start)}, {_end(label.stop)})"
            raise ValueError(
                f"{name}={label}: labels are chosen one by one; pass a list or a range of them, "
                f"such as {fix}."
            )
        if label not in known:
            hint = nearest(label, map(str, known)) if isinstance(label, str) else ""
            shown = ", ".join(map(str, known))
            if len(known) > 12:
                shown = f"{known[0]}, {known[1]}, … {known[-1]}"
            raise ValueError(
                f"{name}={label!r} is not among these scores; they have {shown}{hint or '.'}"
            )
    if not wanted:
        raise ValueError(f"{name}=[] selects nothing; give at least one label.")
    return [i for i, label in enumerate(known) if label in wanted]


def _end(bound: Any) -> str:
    return "..." if bound is None else str(bound)


def contrast(scores: S, others: Sequence[ScoreArrays]) -> S:
    """See `Scores.minus`."""
    if not others:
        raise ValueError("minus() needs at least one other Scores; pass those to subtract.")
    for other in others:
        _check_comparable(scores, other)
    data = scores.data.copy()
    data = data.drop_vars([name for name in TOLD[:2] if name in data])  # of a single integral
    of_all = {"effect", "base", "student", *WHOLE[:2], *TOLD[2:]}
    names = of_all.intersection(data, *(other.data for other in others))
    data = data.drop_vars(of_all.intersection(data) - names)  # not kept by all: not known
    for name in names:
        subtracted = np.mean([other.data[name].values for other in others], axis=0)
        data[name] = scores.data[name] - subtracted
    return replace(scores, data=data, record=_record_of_contrast(scores, others))


def _record_of_contrast(scores: ScoreArrays, others: Sequence[ScoreArrays]) -> Record:
    records = [scores.record, *(other.record for other in others)]
    # estimates of a difference were not confirmed; that some were poor must not be forgotten
    confirmations = [record.confirmation for record in records if record.confirmation is not None]
    poor = [confirmation for confirmation in confirmations if confirmation.poor]
    # errors of rounding add up
    rounded = [record.compute for record in records if record.compute is not None]
    compute = None
    if rounded:
        compute = Compute(rounded[0].dtype, sum(one.error for one in rounded))
    notes = _once(note for one in (scores, *others) for note in notes_held(one))
    if any(_is_once_more(scores, other) for other in others):
        notes.insert(0, ONCE_MORE)
    notes += _marked_otherwise(scores, others)
    return replace(
        scores.record,
        metric=scores.record.what,
        measured=_measured(scores.record),
        minus=tuple(other.record.what for other in others),
        minus_measured=tuple(_measured(other.record) for other in others),
        forms=tuple(_once(forms for record in records for forms in record.forms)),
        notes=tuple(notes),
        confirmation=poor[0] if poor else None,
        compute=compute,
    )


def _marked_otherwise(scores: ScoreArrays, others: Sequence[ScoreArrays]) -> list[str]:
    """That the first of a contrast's scores has other marks of sharing, in a sentence."""
    if "sharing" not in scores.data.coords:
        return []
    own = scores.data["sharing"].values
    theirs = [one.data["sharing"].values for one in others if "sharing" in one.data.coords]
    apart = max((np.sum(own != marks) for marks in theirs), default=0)
    if not apart:
        return []
    return [
        f"what is subtracted was marked by other training prompts (otherwise at {apart} of "
        f"{np.sum(own != '')} tokens): {FIRST_MARKS}"
    ]


ONCE_MORE = (
    "both sides are of the same models and one metric: what is left is rounding of this machine or "
    "another, and no effect"
)
"""Of a contrast of a measurement and the same once more, as notes say it."""


def _is_once_more(scores: ScoreArrays, other: ScoreArrays) -> bool:
    """Whether two scores are one measurement, made twice."""
    models = [[one.hash for one in held(each).values()] for each in (scores, other)]
    bases = scores.record.base.hash, other.record.base.hash
    measured = _measured(scores.record), _measured(other.record)
    return models[0] == models[1] and bases[0] == bases[1] and measured[0] == measured[1]


def _measured(record: Record) -> str:
    """The identity of a metric, or of a contrast of several."""
    return " - ".join([record.measured, *record.minus_measured])


def _once(parts: Iterable[T]) -> list[T]:
    """Each of several parts once, in their order."""
    different: list[T] = []
    for part in parts:
        if part not in different:
            different.append(part)
    return different


def _check_comparable(scores: ScoreArrays, other: ScoreArrays) -> None:
    """Raise where a paired difference would mix things that are not the same."""
    _Same("minus").check(scores, other, (*_ALIKE, *_OPTIONS))


def check_measured_alike(scores: ScoreArrays, other: ScoreArrays, where: str) -> None:
    """Raise where two scores are not of one measurement on several students.

    Args:
        scores: what is shown beside the other.
        other: the other.
        where: how errors begin.

    Raises:
        ValueError: another metric, context, option or prompt; other cells, but for the weights that
            each student changes where all of them are there and add up; controls in one of them
            only.
    """
    same, record, other_record = _Same(where), scores.record, other.record
    told = [_measured(one) if one.measured else one.what for one in (record, other_record)]
    if told[0] != told[1]:
        forms = [_forms(one) for one in (record, other_record)]
        for words in ([one.what for one in (record, other_record)], forms, first_difference(*told)):
            if words[0] != words[1]:
                same.refuse("metrics", *words)
    if scores.has_controls != other.has_controls:
        with_controls = {True: "with controls", False: "without"}
        same.refuse("controls", *(with_controls[one.has_controls] for one in (scores, other)))
    alike = tuple(name for name in _ALIKE if name not in ("base", "students", "hybrid"))
    # what all cells add up to is each student's whole effect, whichever weights it changes
    whole = all(one.additive and not one.selected for one in (scores, other))
    fields = (*alike, *_OPTIONS)
    same.check(scores, other, fields, models=False, weights=not whole)


def _forms(record: Record) -> str:
    """A metric and the forms that it counts."""
    return f"{record.what} by {'; '.join(', '.join(of.forms) for of in record.forms)}"


@dataclass(frozen=True)
class _Tokens:
    """Tokens of a prompt and of its answers."""

    asked: list[str]
    answered: list[str]


def _tokens(data: xr.Dataset, prompt: int) -> _Tokens:
    token, role = data["token"].values[prompt], data["role"].values[prompt]
    asked = (role != "") & (role != "answer")
    return _Tokens(token[asked].tolist(), token[role == "answer"].tolist())


_WITH_LAYERS = ("sweep", "direction")
"""Kinds whose instruments take `layers=`."""

SELECT, UNSELECT = "select the same cells of both", "leave sel(...) out: take all cells of both"
ALIKE = "score both alike"
INSTEAD = {
    "contexts": f"{ALIKE}; a trait in several contexts is evaluate(pair, [trait], contexts=[...])",
    "students": f"{ALIKE}; of two students load one as the other's control, or compare(...) them",
}
"""What to do where what differs may be the very question, by the record's field."""


@dataclass(frozen=True)
class _Same:
    """What has to be the same in two scores.

    Attributes:
        where: how errors begin.
    """

    where: str

    def check(
        self,
        scores: ScoreArrays,
        other: ScoreArrays,
        fields: Sequence[str],
        *,
        models: bool = True,
        weights: bool = True,
    ) -> None:
        """Raise where two scores differ in kind, unit, fields of the record, labels or tokens.

        Args:
            scores: the one.
            other: the other.
            fields: of the record.
            models: whether the models have to be called alike.
            weights: whether the layers and modules have to be the same.
        """
        if scores.kind != other.kind:
            self.refuse("kinds", scores.kind, other.kind)
        if scores.unit != other.unit:
            self.refuse("units", scores.unit, other.unit)
        for name in fields:
            value, other_value = getattr(scores.record, name), getattr(other.record, name)
            # students that are in neither's numbers may differ
            alike = name == "students" and dict(held(scores)) == dict(held(other))
            if value != other_value and not alike:
                if name == "students":
                    self._refuse_other_controls(scores, other)
                words = _in_words(name, scores, other)
                one, another = words or self.shown(value, other_value)
                fix = INSTEAD.get(name, ALIKE)
                if name == "selected":
                    fix = SELECT if value and other_value else UNSELECT
                self.tell(name, one, another, fix)
        self._check_definitions(scores, other)
        if scores.data["effect"].dims != other.data["effect"].dims:
            self.refuse("dimensions", scores.dims(), other.dims())
        without = () if weights else ("layer", "module")
        self._check_labels(scores, other, models=models, without=without)
        if scores.has_tokens:
            for prompt in range(scores.data.sizes["prompt"]):
                self._check_tokens(_tokens(scores.data, prompt), _tokens(other.data, prompt))

    def _check_definitions(self, scores: ScoreArrays, other: ScoreArrays) -> None:
        """Raise where a set of one name chose other cells, or donors are other prompts; of files
        older than these are kept nothing is known.
        """
        both = scores.record, other.record
        for name in both[0].sets:
            one, another = (record.sets.get(name, "") for record in both)
            unknown = not (one and another) or _left_out(name, scores)
            if unknown or name_and_digest(one)[1] == name_and_digest(another)[1]:
                continue
            if name == DIRECTIONS:
                self.tell("directions", one, another, f"{ALIKE}, with the same change and seed")
            self.tell(f"masks of the set {name!r}", one, another, "score both by one mask")
        switched = [record.sets.get(ONLY, "everything") for record in both]
        if scores.kind == "sweep" and "everything" in switched and len(set(switched)) > 1:
            self.tell("what is switched (only=)", *switched)
        one, another = (record.donors for record in both)
        if one and another and one != another:
            self.tell("donors", one, another, f"{ALIKE}, with the same donor_prompts")

    def _refuse_other_controls(self, scores: ScoreArrays, other: ScoreArrays) -> None:
        """Raise where both are of one student, which cannot be its own control."""
        models, others = dict(held(scores)), dict(held(other))
        own, its = models.pop("student", None), others.pop("student", None)
        if own is None or its is None or own.hash != its.hash:
            return
        if _measured(scores.record) != _measured(other.record):
            fix = (
                "score both under the same controls, or subtract the student's own effects alone, "
                "sel(model='student') of both"
            )
        elif models and others:
            fix = (
                "the student itself cancels, which leaves the controls: for these load one as the "
                "student, with the other as its control; compare(...) shows the student under both"
            )
        else:
            names = list(models or others)
            of = repr(names[0] if len(names) == 1 else names)
            fix = f"the student itself cancels, which leaves the controls: sel(model={of}) has them"
        words = [", ".join(map(_short, of_one.values())) or "none" for of_one in (models, others)]
        self.tell("controls of one student", words[0], words[1], fix)

    def _check_labels(
        self,
        scores: ScoreArrays,
        other_scores: ScoreArrays,
        *,
        models: bool,
        without: Sequence[str] = (),
    ) -> None:
        data, other = scores.data, other_scores.data
        cells = [str(d) for d in data["effect"].dims if d not in ("model", "prompt", "position")]
        cells += [name for name in ("first", "last", "refined") if "span" in data.dims]
        named = ("model",) if models else ()
        for name in (*named, "question", *cells, "hook", "tokens", SWITCHED):
            if name in without:
                continue
            labels = data[name].values.tolist() if name in data.coords else None
            other_labels = other[name].values.tolist() if name in other.coords else None
            if labels != other_labels:
                if name == "tokens" and labels and other_labels:
                    self._tell_sizes(scores, other_scores)
                if name == SWITCHED:
                    mine, its = (
                        "all" if of is None else str(np.sum(of)) for of in (labels, other_labels)
                    )
                    self.tell("tokens of spans that were switched", mine, its)
                fix = ALIKE
                if name in ("layer", "module") and scores.additive and scores.selected:
                    fix = UNSELECT
                elif name == "layer" and scores.kind in _WITH_LAYERS:
                    both = [layer for layer in labels or () if layer in (other_labels or ())]
                    fix = f"{ALIKE}: at the layers that both have, layers={both}"
                self.refuse(f"labels of {name!r}", labels, other_labels, fix)

    def _tell_sizes(self, scores: ScoreArrays, other: ScoreArrays) -> NoReturn:
        """Raise that sets have other tokens in one of two scores: the first of them, and why."""
        sizes, others = (
            np.reshape(one.data["tokens"].values, (one.data.sizes["prompt"], -1))
            for one in (scores, other)
        )
        at = int(np.flatnonzero((sizes != others).any(0))[0])
        named = scores.data["set"].values if "set" in scores.data else scores.selected["set"]
        name = str(np.atleast_1d(named)[at])
        mine, its = (f"{of[:, at].mean():.3g} a prompt" for of in (sizes, others))
        fix = ALIKE
        if name in (*CLASSES, *UNIONS["sharing"]):
            fix = (
                "the prompts were marked by other training prompts; mark both by the same ones, "
                "load_pair(..., trained_in=, trained_on=)"
            )
        self.tell(f"tokens of the set {name!r}", mine, its, fix)

    def _check_tokens(self, tokens: _Tokens, other: _Tokens) -> None:
        if tokens.asked != other.asked:
            self.refuse("tokens", "".join(tokens.asked), "".join(other.asked))
        if tokens.answered != other.answered:
            fix = "score the contrast in one run with the metric own_minus_others(trait, others)"
            self.refuse("answer tokens", tokens.answered, other.answered, fix)

    def refuse(self, what: str, value: Any, other: Any, fix: str = ALIKE) -> NoReturn:
        """Raise that the two differ in this."""
        one, another = self.shown(value, other)
        self.tell(what, one, another, fix)

    def shown(self, value: Any, other: Any) -> list[str]:
        """Values as Python writes them, of long ones the beginning; of long lists what one of them
        alone has.
        """
        texts = [repr(value), repr(other)]
        if all(len(text) < _LONGEST for text in texts):
            return texts
        if isinstance(value, list) and isinstance(other, list):
            both = (value, other), (other, value)
            alone = [[one for one in mine if one not in its] for mine, its in both]
            if any(alone):
                texts = [
                    f"{len(a)}, of which the other has not {of}" if of else str(len(a))
                    for a, of in zip((value, other), alone, strict=True)
                ]
            elif len(value) == len(other):
                return [f"the same {len(value)}", "in another order"]
        return [text if len(text) < _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts]

    def tell(self, what: str, one: str, other: str, fix: str = ALIKE) -> NoReturn:
        """Raise that the two differ in this, in words."""
        raise ValueError(f"{self.where}: {what} differ ({one} and {other}); {fix}.")


def _left_out(name: str, scores: ScoreArrays) -> bool:
    """Whether a set that the record names is none of those that are there."""
    if "set" in scores.data["effect"].dims:
        return name not in scores.data["set"].values.tolist()
    return "set" in scores.selected and scores.selected["set"] != name


_LONGEST = 150
"""Letters of a value in an error."""


def _short(student: StudentSource) -> str:
    return f"{student.name} {student.hash[:12]}"


_IN_SETS = {"patch": "answer_in_sets", "direction": "answer_in_set"}
"""Kinds of scores whose sets may hold the answer's own tokens, and the option that says so."""


def _in_words(name: str, *scores: ScoreArrays) -> Sequence[str]:
    """A field of two records as tables say it; nothing of those that are said as they are."""
    records = [one.record for one in scores]
    if name in ("contexts", "donor_contexts"):
        one, other = (getattr(record, name) for record in records)
        return apart(one or ("none",), other or ("none",))
    if name == "base":
        bases = [record.base for record in records]
        named = [f"{base.name} {base.hash[:12]}" for base in bases]
        if len({base.dtype for base in bases}) == 1:
            return named
        return [f"{name} in {base.dtype}" for name, base in zip(named, bases, strict=True)]
    if name == "answer_gate" and scores[0].kind in _IN_SETS:
        option = _IN_SETS[scores[0].kind]
        return [f"{option}={scores[0].kind in record.answer_gate}" for record in records]
    if name == "students":
        return [
            ", ".join(f"{model}: {_short(of)}" for model, of in held(one).items()) for one in scores
        ]
    if name == "selected":
        return [one.selection() or "all cells" for one in scores]
    return ()
