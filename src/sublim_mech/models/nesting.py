"""A changed module that has parameters of its own is one gated module with all that is inside it.

Linear attention keeps its decay beside its projections. What the student's module gives in place of
the base's holds what changed inside, too, so that gates of its own for that would count it twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from .deltas import Delta, Replaced

Digest = Callable[[Mapping[str, Delta]], str]


def fold(name: str, deltas: Mapping[str, Delta], digest: Digest) -> dict[str, Delta]:
    """Differences of which none stands inside another.

    Args:
        name: what messages call the student.
        deltas: the differences by path.
        digest: the content hash of differences.

    Raises:
        ValueError: a module with a low-rank update holds another that changes.
    """
    folded: dict[str, Delta] = {}
    for path, delta in deltas.items():
        if any(path.startswith(f"{outer}.") for outer in deltas):
            continue
        inner = {other: d for other, d in deltas.items() if other.startswith(f"{path}.")}
        if inner and not isinstance(delta, Replaced):
            raise ValueError(
                f"student={name!r} changes {path} by a low-rank update and {next(iter(inner))} "
                "inside it: what the two add cannot be told apart by token; train a student that "
                "leaves one of them as it is."
            )
        if inner and isinstance(delta, Replaced):
            square = delta.distance**2 + sum(other.norm() ** 2 for other in inner.values())
            delta = replace(delta, distance=math.sqrt(square), hash=digest({path: delta, **inner}))
        folded[path] = delta
    return folded
