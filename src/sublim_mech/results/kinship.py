"""Which scores that stand in one table are no evidence of their own: of the same students.

A headline is a student minus the mean of its controls. Where a control of one file is the student
of another, what the one has is taken off the other: two students that are each other's control have
one headline with two signs, and the same shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from ..hints import signed
from .arrays import ScoreArrays
from .held import held, holds_student
from .rounding import floor_of

Students = tuple[str, frozenset[str]]
"""The hash of the model that a headline is of, and those of its controls: the models in the numbers
(`held`), whoever else was scored with them."""


def kinship(scores: Mapping[str, ScoreArrays]) -> list[str]:
    """What scores have in common by construction, in a sentence each; nothing of students of their
    own, also where they share a control.

    Args:
        scores: what they are called -> scores that were measured alike.
    """
    of = {name: _students(one) for name, one in scores.items()}
    bases = {name: one.record.base.hash for name, one in scores.items()}
    rings = _rings(of, bases)
    told = [_of_ring(ring) for ring in rings]
    for one, other in combinations(of, 2):
        if bases[one] != bases[other] or any({one, other} <= set(ring) for ring in rings):
            continue
        pair = {one: of[one], other: of[other]}
        both = scores[one], scores[other]
        told.append(_of_two(pair, students=all(map(holds_student, both)), apart=_apart(*both)))
    return [line for line in told if line]


def _students(scores: ScoreArrays) -> Students:
    student, *controls = (source.hash for source in held(scores).values())
    return student, frozenset(controls)


def _rings(of: Mapping[str, Students], bases: Mapping[str, str]) -> list[list[str]]:
    """Names of scores whose students are, all of them, each the others' controls."""
    sets: dict[tuple[str, frozenset[str]], list[str]] = {}
    for name, (student, controls) in of.items():
        if controls:
            sets.setdefault((bases[name], controls | {student}), []).append(name)
    return [
        names
        for (_, members), names in sets.items()
        if len(names) == len({of[name][0] for name in names}) == len(members)
    ]


def _of_ring(names: list[str]) -> str:
    if len(names) == 2:
        one, other = names
        return (
            f"{one} and {other}: each student is the other's control, so that by construction the "
            f"effect of {other} is that of {one} with its sign turned, and shares are the same: "
            "they are one result, not two"
        )
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{listed}: each student is a control of the others, so that by construction their effects "
        "add up to 0"
    )


def _apart(scores: ScoreArrays, other: ScoreArrays) -> str:
    """How far two scores of the same models are apart, in words; empty where it is rounding."""
    apart = float(np.nanmax(np.abs(scores.total.values - other.total.values), initial=0.0))
    if apart <= floor_of(scores):
        return ""
    return f"{signed(apart)[1:]} {scores.unit}"


def _of_two(pair: Mapping[str, Students], *, students: bool, apart: str) -> str:
    """What two scores have in common.

    Args:
        pair: whose numbers they are, by what they are called.
        students: whether both are of a student, none of a control by itself.
        apart: how far their total effects are apart on a prompt at most; empty of rounding.
    """
    (one, (first, its)), (other, (second, others)) = pair.items()
    if first == second and its == others:
        alike = "student" if students else "model"
        alike += " and controls" * bool(its)
        of = f"{one} and {other}: scores of one {alike}"
        if apart:
            return (
                f"{of}; that they differ (by up to {apart} in a prompt's total effect) is the "
                "precision that these were computed in (dtype=), or the machine"
            )
        return f"{of}, so that they are the same by construction"
    if first == second:
        return f"{one} and {other}: one student, with other controls"
    if second in its and first in others:
        return (
            f"{one} and {other}: each student is a control of the other, so that what the one has "
            "is taken off the other"
        )
    for name, student, whose, controls in ((one, first, other, others), (other, second, one, its)):
        if student in controls:
            return (
                f"{whose}: the student of {name} is a control of it, so that what {name} has is "
                f"taken off {whose}"
            )
    return ""
