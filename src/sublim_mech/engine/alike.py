"""Were the controls trained alike? What differs between a student and its controls, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..hints import counted
from ..models.deltas import LowRank
from ..models.students import EQUAL, Student
from ..prompts import Context
from ..prompts.same import is_one_context
from ..prompts.shared import parted
from ..results.record import (
    CHOSEN,
    FOR_LITTLE,
    NOT_ALIKE,
    OWN_CHANGE,
    OWN_DATA,
    OWN_TRAIT,
    PART_DATA,
    STORED,
    TWICE,
    UNKNOWN_CONTROLS,
    UNNAMED,
    UNTOLD,
)
from ..storage.compare import differences
from ..storage.manifest import GIVEN, Manifest
from .recipes import context_in_short, recipes_of

LITTLE = 0.1
"""Norm of a control's weight change over the student's below which it is told."""

IN_PART = 0.1
"""Part of a control's or the student's rows from which it is told that both were trained on
them."""

_SIDES = ("in the control", "in the student")


def pair_notes(
    student: Student,
    controls: Sequence[Student],
    trained_in: Context | None = None,
    tokenizer: Any = None,
) -> tuple[str, ...]:
    """What has to be read with a student and its controls, as sentences without a stop.

    `trained_in` is what the user said of a student without a manifest; by the tokenizer contexts of
    other names are told to be one.
    """
    notes = [f"the student ({student.name}): {note}" for note in student.notes]
    for control in controls:
        for note in control.notes:
            nothing = "; it controls for nothing" if note.startswith(EQUAL) else ""
            notes.append(f"control {control.name}: {note}{nothing}")

    # what the weights show, of all; what the manifests say, where there are two to compare
    context = trained_in if student.manifest is None else student.manifest.context
    controls = [_in_words_of(context, control, tokenizer) for control in controls]
    apart = {control.name: _apart(student, control, trained_in) for control in controls}
    # of one that was cut from the other there is nothing to know but that
    one_change = {c.name: told for c in controls if (told := _one_change(student, c))}
    if student.manifest is None:
        undecided = [n for n, different in apart.items() if not (different or n in one_change)]
        which = "its controls were" if len(undecided) == len(controls) else _were(undecided)
        if undecided:
            notes.append(
                f"the student's training is unknown ({_no_manifest(student)}): whether {which} "
                f"{UNTOLD}"
            )
    else:
        unknown = {c.name: c for c in controls if c.manifest is None and c.name not in one_change}
        notes += [f"{UNKNOWN_CONTROLS} {names}" for names in _by_reason(unknown)]
        named = [one.name for one in controls if one.manifest is not None and one.manifest.trait]
        # labels of a teacher without trait have none; whoever wrote given rows may have one
        if named and not student.manifest.trait and student.manifest.teacher == GIVEN:
            which = f"control{'s' * (len(named) > 1)} {', '.join(named)}"
            have = "have others" if len(named) > 1 else "has another"
            notes.append(f"{UNNAMED}: whether {which} {have} is not known")
    notes += _once_more(controls)
    for control in controls:
        if _chosen_tokens(student, control):
            notes.append(f"control {control.name} {CHOSEN}: whether alike is not known")
        if _same_trait(student, control):
            notes.append(
                f"control {control.name} {OWN_TRAIT}, so that their difference says nothing of it"
            )
        elif _same_data(student, control):
            notes.append(
                f"control {control.name} {OWN_DATA}, so that their difference says nothing of what "
                "these teach"
            )
        elif (shared := _rows_of_both(student, control)) is not None:
            notes.append(
                f"control {control.name} was trained on {shared} {PART_DATA}, so that their "
                "difference lacks what these teach"
            )
        if control.name in one_change:
            notes.append(
                f"control {control.name} is{one_change[control.name]}, so that their difference "
                "says nothing of a trait"
            )
        part = control.norm / student.norm if student.norm and control.deltas else 1.0
        if part < LITTLE:
            notes.append(
                f"control {control.name} changed its weights by {100 * part:.2g}% of what the "
                f"student did (norms): {FOR_LITTLE}"
            )
        known = student.manifest is not None and control.manifest is not None
        known = known or not _both_trained(student, control)
        if not known and student.deltas and control.deltas and _stored_otherwise(student, control):
            notes.append(
                f"control {control.name} {STORED} ({control.kind}, the student "
                f"{student.kind}): their weights do not tell whether they were trained alike"
            )
        if apart[control.name]:
            notes.append(f"control {control.name} {NOT_ALIKE}: {'; '.join(apart[control.name])}")
    return tuple(notes)


def peer_notes(
    students: Mapping[str, Student], trained_in: Context | None = None, tokenizer: Any = None
) -> tuple[str, ...]:
    """What has to be read with students beside each other, none of which controls for another, as
    sentences without a stop: what is known of each, and how they were trained otherwise.

    Args:
        students: by what they are called.
        trained_in: what the user said of the first one, where it has no manifest.
        tokenizer: by which contexts of other names are told to be one.
    """
    (first, student), *others = students.items()
    notes = [f"{name}: {note}" for name, one in students.items() for note in one.notes]
    unknown = {}
    for name, one in students.items():
        sources = [of for of, other in students.items() if _cut_from(one, other)]
        if sources and one.extracted is not None:
            notes.append(
                f"{name} is {sources[0]}'s own change at rank {one.extracted.rank} (extract_lora)"
            )
        elif one.manifest is None:
            unknown[name] = one
    notes += [f"training unknown {names}" for names in _by_reason(unknown)]
    context = trained_in if student.manifest is None else student.manifest.context
    for name, other in others:
        here, sides = _in_words_of(context, other, tokenizer), (f"in {name}", f"in {first}")
        different = _contexts_differ(student, here, trained_in, sides)
        if student.manifest is not None and here.manifest is not None:
            different = _manifests_differ(here, student, sides)
        if different:
            notes.append(f"{name} was trained otherwise than {first}: {'; '.join(different)}")
    return tuple(notes)


def _apart(student: Student, control: Student, trained_in: Context | None) -> list[str]:
    """How a control was trained otherwise: by the manifests, or else by the weights, where both
    were trained and change something (that one does not is told) and they are stored alike.
    """
    if student.manifest is not None and control.manifest is not None:
        return _manifests_differ(control, student, _SIDES)
    different = _contexts_differ(student, control, trained_in)
    changed = student.deltas and control.deltas and _both_trained(student, control)
    if changed and not _stored_otherwise(student, control):
        there, here = _shape(control), _shape(student)
        if control.kind != student.kind:  # which says what the one has and the other lacks
            there, here = ({k: one[k] for k in there.keys() & here.keys()} for one in (there, here))
        told = differences(there, here, sides=_SIDES)
        # numbers that agree may be of other modules
        different = different + (told or _at_other_modules(student, control))
    return different


def _manifests_differ(control: Student, student: Student, sides: tuple[str, str]) -> list[str]:
    """How two students that have manifests were trained otherwise than each other."""
    assert control.manifest is not None
    assert student.manifest is not None
    both = control.manifest, student.manifest
    return [
        *differences(*recipes_of(control, student), sides=sides),
        *_other_prompts(*both, sides),
        *_cut_answers(*both, sides),
    ]


def _cut_from(one: Student, other: Student) -> bool:
    """Whether `extract_lora` cut a student from another."""
    return one.extracted is not None and other.hash in one.extracted.of


def _both_trained(student: Student, control: Student) -> bool:
    """Whether neither was cut from another: their ranks and scales are those of training."""
    return student.extracted is None and control.extracted is None


def _one_change(student: Student, control: Student) -> str:
    """That a control is the student's own change, because one was cut from the other or both from
    a third, in words; empty where it is not.
    """
    own, its = student.extracted, control.extracted
    if its is not None and _cut_from(control, student):
        return f", at rank {its.rank}, {OWN_CHANGE} (extract_lora cut it from the student)"
    if own is not None and _cut_from(student, control):
        return f", uncut, {OWN_CHANGE} (extract_lora cut the student from it at rank {own.rank})"
    if own is not None and its is not None and set(own.of) & set(its.of):
        return (
            f", at rank {its.rank}, {OWN_CHANGE} (extract_lora cut both from one student, the "
            f"student at rank {own.rank})"
        )
    return ""


def _by_reason(unknown: Mapping[str, Student]) -> list[str]:
    """Students of whose training nothing is known, those of one reason in one text."""
    why: dict[str, list[str]] = {}
    for name, student in unknown.items():
        why.setdefault(_no_manifest(student), []).append(name)
    return [f"({reason}): {', '.join(names)}" for reason, names in why.items()]


def _no_manifest(student: Student) -> str:
    """Why nothing is known of a student's training."""
    if student.extracted is None:
        return "no manifest"
    return f"not trained but cut by extract_lora, at rank {student.extracted.rank}"


def _in_words_of(context: Context | None, control: Student, tokenizer: Any) -> Student:
    """A control whose context is called as the student's where both are one."""
    manifest = control.manifest
    if tokenizer is None or context is None or manifest is None or manifest.context == context:
        return control
    if not is_one_context(tokenizer, manifest.context, context):
        return control
    return replace(control, manifest=replace(manifest, context=context))


def _contexts_differ(
    student: Student,
    control: Student,
    trained_in: Context | None,
    sides: tuple[str, str] = _SIDES,
) -> list[str]:
    """How a control's context differs from the one the user said of a student without manifest."""
    if student.manifest is not None or control.manifest is None or trained_in is None:
        return []
    there, here = (context_in_short(one) for one in (control.manifest.context, trained_in))
    return differences(there, here, "context.", sides=sides)


def _same_trait(student: Student, control: Student) -> bool:
    """Whether manifests say that both were given one trait."""
    if student.manifest is None or control.manifest is None:
        return False
    own, its = (one.trait.casefold() for one in (student.manifest, control.manifest))
    return own == its != ""


def _same_data(student: Student, control: Student) -> bool:
    """Whether manifests say that both were trained on the same data, answers and labels too.

    Where answers are all that teaches, those rows count that were trained on, in any order;
    manifests that do not have each of them know the data as a whole.
    """
    if student.manifest is None or control.manifest is None:
        return False
    both = student.manifest, control.manifest
    own, its = (one.data.get("hash") for one in both)
    same_data = bool(own) and own == its
    if not all(map(_of_answers, both)):
        return same_data
    own, its = (one.results.get("rows_hash") for one in both)
    each_is_known = all(one.results.get("row_digests") for one in both)
    return (bool(own) and own == its) or (same_data and not each_is_known)


def _rows_of_both(student: Student, control: Student) -> str | None:
    """How many of the student's different rows a control was trained on too, in words, where
    answers are all that teaches; None where these are few, or not known again.
    """
    if student.manifest is None or control.manifest is None:
        return None
    both = student.manifest, control.manifest
    own, its = (parted(one.results.get("row_digests", "")) for one in both)
    shared = len(own & its)
    if not all(map(_of_answers, both)) or shared < max(1.0, IN_PART * min(len(own), len(its))):
        return None
    return f"{shared:,} of {len(own):,}"


def _once_more(controls: Sequence[Student]) -> list[str]:
    """Which controls are one training but for its seeds, in a sentence each."""
    notes = []
    for place, control in enumerate(controls):
        for other in controls[:place]:
            if _same_data(other, control) and not differences(*recipes_of(other, control)):
                notes.append(
                    f"control {control.name} is control {other.name} {TWICE}, trained alike on the "
                    "same rows and answers: their mean counts it twice"
                )
                break
    return notes


def _chosen_tokens(student: Student, control: Student) -> bool:
    """Whether both were trained at tokens that somebody chose, and these are not the same."""
    manifests = (one.manifest for one in (student, control))
    own, its = (one.data.get("tokens") if one is not None else None for one in manifests)
    return own is not None and its is not None and own != its


def _of_answers(manifest: Manifest) -> bool:
    """Whether a student was taught by answers alone, and not by a teacher's labels over them."""
    return manifest.objective.startswith("cross-entropy")


def _other_prompts(control: Manifest, student: Manifest, sides: tuple[str, str]) -> list[str]:
    """Whether two manifests say that other prompts were trained on, in words.

    Manifests older than the hash of the prompts know what the prompts have in common, and soft
    labels, whose rows are the same for all students, the tokens that occurred.
    """
    if control.prompts and student.prompts:
        known = [one.trained_on.digests for one in (control, student)]
        # of the same data few steps may have taken others
        other = control.prompts != student.prompts or (all(known) and known[0] != known[1])
        if other and (shared := len(known[0] & known[1])):
            sizes = " and ".join(f"{len(n):,} {side}" for n, side in zip(known, sides, strict=True))
            return [f"training prompts: {shared:,} are the same, of {sizes}"]
    else:
        there, here = control.trained_on, student.trained_on
        other = (there.prefix, there.heads, there.tails) != (here.prefix, here.heads, here.tails)
        if control.data.get("support") and student.data.get("support"):
            other = other or there.seen != here.seen
    if other:
        return [f"training prompts: other ones {sides[0]} than {sides[1]}"]
    # where a teacher labels, the answers are what it reads, and no part of what it teaches
    own, its = (one.results.get("rows_hash") for one in (student, control))
    labelled = not (_of_answers(student) or _of_answers(control))
    if labelled and own and its and own != its:
        return [f"answers that are labelled: other ones {sides[0]} than {sides[1]}"]
    return []


def _cut_answers(control: Manifest, student: Manifest, sides: tuple[str, str]) -> list[str]:
    """Whether two manifests say that answers were cut at a length for one and for the other none,
    in words; that more were cut of one may be of its rows.
    """
    cut = [one.results.get("cut") for one in (control, student)]
    if None in cut or bool(cut[0]) == bool(cut[1]):
        return []
    told = (f"{number or 'none'} {side}" for number, side in zip(cut, sides, strict=True))
    return [f"answers cut at max_length: {', '.join(told)}"]


def _were(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"control {names[0]} was"
    return f"controls {', '.join(names)} were"


def _stored_otherwise(student: Student, control: Student) -> bool:
    """Whether one is an adapter and the other a full checkpoint, into which the same adapter may
    have been merged.
    """
    return (student.kind == "full") != (control.kind == "full")


def _at_other_modules(student: Student, control: Student) -> list[str]:
    """Where a control that changes as many modules, with the same ranks and scales in all, changes
    others, or each with the rank and scale of another.
    """
    others = sorted(control.deltas.keys() - student.deltas.keys())
    if others:
        which = f"{len(others)} of {len(control.deltas)}"
        return [f"changed modules: as many, but {which} are none of the student's ({others[0]})"]
    apart = []
    for path, here in student.deltas.items():
        there = control.deltas.get(path)
        if isinstance(here, LowRank) and isinstance(there, LowRank):
            same = math.isclose(here.scale, there.scale, rel_tol=1e-5)
            if len(here.a) != len(there.a) or not same:
                apart.append(path)
    if not apart:
        return []
    return [f"ranks and scales: others in {counted(len(apart), 'module')} ({apart[0]})"]


_SCALE = "scale (lora_alpha / r, of rsLoRA / sqrt(r))"


def _shape(student: Student) -> dict[str, Any]:
    """What a student without manifest shows of its training: where it differs from the base, and
    with what rank and scale.
    """
    pairs = [delta for delta in student.deltas.values() if isinstance(delta, LowRank)]
    shape: dict[str, Any] = {"kind": student.kind, "changed modules": len(student.deltas)}
    if pairs:
        shape["rank"] = _one_or_all({len(pair.a) for pair in pairs})
        shape[_SCALE] = _one_or_all({float(f"{pair.scale:.6g}") for pair in pairs})
    return shape


def _one_or_all(values: set[Any]) -> Any:
    """The only one of some values, else all of them."""
    return next(iter(values)) if len(values) == 1 else sorted(values)
