"""What differs between two records, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST = 40  # letters of a value that is shown whole
_SHOWN = 24  # letters of a longer one


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    parent: str = "",
    *,
    sides: tuple[str, str] = ("there", "here"),
) -> list[str]:
    """Where two nested mappings differ, as `key: this there, that here`.

    Args:
        there: one, such as what a folder's record says.
        here: the other, such as what is asked for.
        parent: what stands before the keys, `optimiser.`.
        sides: what the two are called.
    """
    return side_by_side(different(there, here, parent), sides=sides)


def side_by_side(
    apart: Mapping[str, tuple[Any, Any]],
    parent: str = "",
    *,
    sides: tuple[str, str] = ("there", "here"),
) -> list[str]:
    """Pairs of values by name, as `name: this there, that here`; arguments as of `differences`."""
    return [
        f"{parent}{name}: {brief(one)} {sides[0]}, {brief(other)} {sides[1]}"
        for name, (one, other) in apart.items()
    ]


class Nothing:
    """The value of a key that is not there."""


def different(
    there: Mapping[str, Any], here: Mapping[str, Any], parent: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Where two nested mappings differ: the values of either, by dotted key; `Nothing` where one
    has none.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*there, *here}):
        one, other = there.get(key, Nothing), here.get(key, Nothing)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= different(one, other, f"{parent}{key}.")
        elif one != other:
            found[f"{parent}{key}"] = one, other
    return found


def brief(value: Any) -> str:
    """A value as it is shown, not all of a long one."""
    text = "nothing" if value is Nothing else repr(value)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_SHOWN]}...{text[0] if isinstance(value, str) else ''}"
