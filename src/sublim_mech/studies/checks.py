"""Checks that the configurations of studies share."""

from __future__ import annotations

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
