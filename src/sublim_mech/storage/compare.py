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
    lines: list[str] = []
    for key in sorted({*there, *here}):
        one, other = there.get(key), here.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{parent}{key}.", sides=sides)
        elif one != other or (key in there) != (key in here):
            said = f"{_said(there, key)} {sides[0]}, {_said(here, key)} {sides[1]}"
            lines.append(f"{parent}{key}: {said}")
    return lines


def _said(record: Mapping[str, Any], key: str) -> str:
    if key not in record:
        return "nothing"
    text = repr(record[key])
    return text if len(text) <= _LONGEST else f"{text[:_SHOWN]}..."
