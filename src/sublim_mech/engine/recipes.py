"""What is compared of two manifests: how each was trained, so that one recipe reads the same in
both.

1. What makes no other student, or is told of a pair by itself, is left out.
2. One recipe may be asked for in several ways: all blocks by number or by none, a scale by alpha or
   as rank-stabilised, a mask by another name. Such options are left out where what they came to is
   the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Set
from typing import Any

from ..models.adapted import adapted_modules
from ..models.deltas import Replaced
from ..models.names import block_of
from ..models.students import Student
from ..prompts import Context
from ..storage.manifest import Manifest

Recipe = dict[str, Any]

_SELECTED = ("rows", "held_out", "subsample")
"""What decides which rows are trained on."""
_MASKED = {"where": "cells", "penalty": "tokens"}
"""The hash of all that a mask chose, answers too; beside it stands that of the prompts' part."""
_NO_TRACE = ("snapshots", "gradient_checkpointing")
"""Options that make no other student."""
_MEASURING = ("stop_at", "evaluate_every")
"""Options that make no other student where none stopped by them."""
_CLIPPED = 1e-5
"""Above what torch adds to a norm before it compares it with where to clip (1e-6)."""
_EVERYWHERE = {"mask": "everything", "answer": "open", "named": True}
"""What a manifest keeps of `where` that opens all there is: no gates at all."""


def recipes_of(control: Student, student: Student) -> tuple[Recipe, Recipe]:
    """The recipes of two students that have manifests; see `recipes`."""
    assert control.manifest is not None
    assert student.manifest is not None
    there, here = recipes(control.manifest, student.manifest)
    if control.manifest.kind == student.manifest.kind == "lora":
        _leave_out((there, here), "method", _same_modules(control, student))
    elif control.manifest.kind == student.manifest.kind and _same_changed(control, student):
        _leave_out((there, here), "method", ["freeze"])
    return there, here


def recipes(control: Manifest, student: Manifest) -> tuple[Recipe, Recipe]:
    """What is compared of two students, by their manifests alone: where one is an adapter and the
    other none, that they are, and not every option that the other kind lacks.
    """
    both = there, here = _recipe(control), _recipe(student)
    stopped = _may_have_stopped(control) or _may_have_stopped(student)
    _leave_out(both, "optimiser", (*_NO_TRACE, *(() if stopped else _MEASURING)))
    if _unclipped(control) and _unclipped(student):
        _leave_out(both, "optimiser", ["clip"])
    if there["optimiser"].get("bucket") != here["optimiser"].get("bucket"):
        _leave_out(both, "optimiser", ["order"])  # which says the bucket in words
    if _same_number(control, student) and not stopped:
        _leave_out(both, "data", _SELECTED)
    if control.kind != student.kind:
        shared = {*(there["method"].keys() & here["method"].keys()), "where"}
        _leave_out(both, "method", (there["method"].keys() | here["method"].keys()) - shared)
    elif control.kind == "lora" and _same_scale(there["method"], here["method"]):
        _leave_out(both, "method", ["alpha", "rslora"])
    _leave_out_masks(both)
    # as many steps as were asked for are told once
    if all(recipe["steps"] == recipe["optimiser"].get("steps") for recipe in both):
        for recipe in both:
            del recipe["steps"]
    return both


def context_in_short(context: Context) -> dict[str, Any]:
    """A context, its system prompt as a text or the name of its kind."""
    record = context.to_json()
    system = record["system"]
    return record | {"system": system.get("text", system.get("kind"))}


def _recipe(manifest: Manifest) -> Recipe:
    """What two students that differ in their trait alone have in common."""
    # how a teacher was made may name its trait
    teacher = manifest.teacher
    if manifest.trait:
        teacher = re.sub(rf"\b{re.escape(manifest.trait)}\b", "its trait", teacher)
    method = {key: value for key, value in manifest.method.items() if key != "store"}
    if _EVERYWHERE.items() <= method.get("where", {}).items():
        del method["where"]
    data = {k: manifest.data[k] for k in _SELECTED if manifest.data.get(k) is not None}
    # a subsample of all rows is none; the live seeds say whether any was left out
    if "subsample" not in manifest.seeds.get("live", ["subsample"]):
        data.pop("subsample", None)
    if manifest.data.get("tokens") is not None:
        data["tokens"] = (
            "chosen ones"  # which and how many hangs on the answers, and so on the trait
        )
    if manifest.data.get("support") is not None:
        data["support"] = sorted(manifest.data["support"])
    optimiser = dict(manifest.optimiser)
    if optimiser.get("clip") == math.inf:
        optimiser["clip"] = None
    return {
        "kind": manifest.kind,
        "teacher": teacher,
        "context": context_in_short(manifest.context),
        "method": method,
        "objective": manifest.objective,
        "data": data,
        "optimiser": optimiser,
        "steps": manifest.results.get("steps"),
    }


def _leave_out(both: tuple[Recipe, Recipe], part: str, keys: Iterable[str]) -> None:
    """Take options out of a part of two recipes."""
    out = set(keys)
    for recipe in both:
        recipe[part] = {key: value for key, value in recipe[part].items() if key not in out}


def _may_have_stopped(manifest: Manifest) -> bool:
    """Whether a training may have ended by its held-out loss: with fewer steps than asked for."""
    asked, taken = manifest.optimiser.get("steps"), manifest.results.get("steps")
    return manifest.optimiser.get("stop_at") is not None and (asked is None or taken != asked)


def _unclipped(manifest: Manifest) -> bool:
    """Whether no gradient of a training was clipped; older manifests do not say."""
    clip, largest = manifest.optimiser.get("clip"), manifest.results.get("largest_grad_norm")
    return clip is None or (largest is not None and largest + _CLIPPED < clip)


def _same_number(control: Manifest, student: Manifest) -> bool:
    """Whether as many rows were trained on, however they were chosen; older manifests do not say.
    (That prompts are others is told of a pair by itself.)
    """
    trained = control.results.get("rows"), student.results.get("rows")
    return trained[0] == trained[1] is not None


def _same_scale(there: Recipe, here: Recipe) -> bool:
    """Whether the updates of two LoRAs of one rank are multiplied by the same."""
    scales = []
    for method in (there, here):
        rank, alpha = method.get("rank"), method.get("alpha")
        if not rank or alpha is None:
            return False
        scales.append(alpha / (math.sqrt(rank) if method.get("rslora") else rank))
    return there["rank"] == here["rank"] and math.isclose(*scales, rel_tol=1e-9)


def _same_modules(control: Student, student: Student) -> list[str]:
    """Which of the options that choose modules came to the same in both LoRAs: all, where the same
    modules have an adapter; else the one whose part of their paths is the same.
    """
    there, here = (adapted_modules(one.model) for one in (control, student))
    if not there or not here:
        return []
    if there == here:
        return ["targets", "layers"]
    same = []
    if _in_blocks(there) == _in_blocks(here):
        same.append("targets")
    if {block_of(path) for path in there} == {block_of(path) for path in here}:
        same.append("layers")
    return same if len(same) == 1 else []


def _in_blocks(paths: Set[str]) -> set[str]:
    """Paths of modules without the number of their block."""
    return {re.sub(r"\.\d+\.", ".", path, count=1) for path in paths}


def _same_changed(control: Student, student: Student) -> bool:
    """Whether the weights show that two full fine-tunes changed the same parameters: the same
    modules, each of which has but one.
    """
    if not control.deltas or control.deltas.keys() != student.deltas.keys():
        return False
    return all(
        isinstance(delta, Replaced) and len(list(delta.module.parameters())) == 1
        for delta in control.deltas.values()
    )


def _leave_out_masks(both: tuple[Recipe, Recipe]) -> None:
    """Take out of `where` and `penalty` what is another although the same was chosen."""
    for part, option in (("method", "where"), ("optimiser", "penalty")):
        there, here = (recipe[part].get(option) for recipe in both)
        if there is None or here is None:
            continue
        cells = _MASKED[option]
        of_prompts = f"{cells}_of_prompts"
        closed = there.get("answer") == here.get("answer") == "closed"
        key = of_prompts if closed else cells
        out = {"mask", "named"} if there.get(key, 0) == here.get(key, 1) else set()
        # a mask covers answers as they are cut into tokens, and a control's are others
        if of_prompts in there and of_prompts in here:
            out.add(cells)
        # names of masks tell more than hashes of what these chose
        if "mask" not in out and there.get("mask") != here.get("mask"):
            out |= {cells, of_prompts}
        for recipe, mask in zip(both, (there, here), strict=True):
            kept = {name: value for name, value in mask.items() if name not in out}
            recipe[part] = {**recipe[part], option: kept}
