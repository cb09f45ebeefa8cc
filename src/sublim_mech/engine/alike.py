"""Were the controls trained alike? What differs between a student and its controls, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..models.deltas import LowRank
from ..models.students import Student
from ..storage.compare import differences
from ..storage.manifest import Manifest

_SIDES = ("in the control", "in the student")


def pair_notes(student: Student, controls: Sequence[Student]) -> tuple[str, ...]:
    """What has to be read with a student and its controls, as sentences without a stop."""
    notes = [f"the student ({student.name}): {note}" for note in student.notes]
    for control in controls:
        notes += [f"control {control.name}: {note}" for note in control.notes]

    # what the weights show, of all; what the manifests say, where there are two to compare
    unknown = [control.name for control in controls if control.manifest is None]
    if student.manifest is None and controls:
        notes.append(
            "the student's training is unknown (no manifest): whether its controls were trained "
            "alike is not known"
        )
    elif unknown:
        notes.append(f"controls' training unknown (no manifest): {', '.join(unknown)}")
    for control in controls:
        if student.manifest is not None and control.manifest is not None:
            compared = _recipe(control.manifest), _recipe(student.manifest)
        elif student.deltas and control.deltas:
            compared = _shape(control), _shape(student)
        else:
            continue  # one of them changes nothing, which is told
        different = differences(*compared, sides=_SIDES)
        if different:
            notes.append(f"control {control.name} was not trained alike: {'; '.join(different)}")
    return tuple(notes)


def _recipe(manifest: Manifest) -> dict[str, Any]:
    """What two students that differ in their trait alone have in common."""
    # how a teacher was made may name its trait
    teacher = manifest.teacher
    if manifest.trait:
        teacher = re.sub(rf"\b{re.escape(manifest.trait)}\b", "its trait", teacher)
    context = manifest.context.to_json()
    system = context["system"]
    context["system"] = system.get("text", system.get("kind"))
    counted = ("rows", "held_out", "subsample", "support")
    return {
        "kind": manifest.kind,
        "teacher": teacher,
        "context": context,
        "method": {key: value for key, value in manifest.method.items() if key != "store"},
        "objective": manifest.objective,
        "data": {key: manifest.data[key] for key in counted if manifest.data.get(key) is not None},
        "optimiser": manifest.optimiser,
        "steps": manifest.results.get("steps"),
    }


def _shape(student: Student) -> dict[str, Any]:
    """What a student without manifest shows of its training: where it differs from the base, and in
    what rank.
    """
    ranks = {len(d.a) for d in student.deltas.values() if isinstance(d, LowRank)}
    shape: dict[str, Any] = {"kind": student.kind, "changed modules": len(student.deltas)}
    return shape | ({"rank": max(ranks) if len(ranks) == 1 else sorted(ranks)} if ranks else {})
