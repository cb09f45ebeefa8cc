"""Checks that the configurations of studies share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def tuples(owner: Any, *names: str) -> None:
    """Have sequences as tuples, which hash and compare."""
    for name in names:
        object.__setattr__(owner, name, tuple(getattr(owner, name)))


def named(what: str, name: str) -> None:
    """Refuse a name that no file could have."""
    if not name.strip() or "/" in name or name.startswith("."):
        raise ValueError(f"{what}(name={name!r}): give a name that a file could have.")


def not_empty(owner: Any, called: str, *names: str) -> None:
    """Refuse axes without entries."""
    for name in names:
        if not getattr(owner, name):
            raise ValueError(
                f"{called}: {name} is empty, so the grid has no runs; list at least one."
            )


def check_once(texts: Sequence[str], what: str) -> None:
    """Refuse a text that is given twice: copies are no evidence."""
    for place, text in enumerate(texts):
        if text in texts[:place]:
            first = texts.index(text)
            raise ValueError(
                f"{what}: number {place + 1} is number {first + 1} once more ({text!r}), and "
                "copies are no evidence; leave one out."
            )
