"""What differs between two records, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST = 40  # letters of a value that is shown whole
_SHOWN = 24  # letters of a longer one
_BEFORE = 16  # letters of a text that are shown before its first difference


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
    told = []
    for name, (one, other) in apart.items():
        shown = briefs(one, other)
        told.append(f"{parent}{name}: {shown[0]} {sides[0]}, {shown[1]} {sides[1]}")
    return told


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
    """A value as it is shown, not all of a long one: of a mask its name, of others as many elements
    as fit, and how many more there are.

    Example:
        >>> from sublim_mech.storage.compare import brief
        >>> brief({"mask": "role user", "answer": "closed", "cells": "9f" * 32})
        "mask 'role user', answer closed"
        >>> brief(list(range(30)))
        '[0, 1, 2, 3, 4, 5, 6, 7 and 22 more]'
    """
    if isinstance(value, Mapping) and isinstance(value.get("mask"), str):
        answer = f", answer {value['answer']}" if "answer" in value else ""
        return f"mask {value['mask']!r}{answer}"
    text = "nothing" if value is Nothing else repr(value)
    if len(text) <= _LONGEST:
        return text
    if isinstance(value, Mapping):
        return _first_of([f"{key!r}: {brief(one)}" for key, one in value.items()], "{}")
    if isinstance(value, list | tuple):
        return _first_of([brief(one) for one in value], "[]" if isinstance(value, list) else "()")
    return f"{text[:_SHOWN]}...{text[0] if isinstance(value, str) else ''}"


def briefs(one: Any, other: Any) -> tuple[str, str]:
    """Two values that differ, as `brief` has them; where that reads the same, each from where they
    differ.

    Example:
        >>> from sublim_mech.storage.compare import briefs
        >>> words = "one seeded permutation of the rows after the other"
        >>> briefs(words, f"{words}; regrouped by length")
        ("'...after the other'", "'...after the other; regrouped by length'")
        >>> briefs([*range(30)], [*range(29), 40])
        ('[29 alike, then 29]', '[29 alike, then 40]')
    """
    shown = brief(one), brief(other)
    if shown[0] != shown[1]:
        return shown
    if isinstance(one, str) and isinstance(other, str):
        first = _first_apart(one, other)
        start = max(first - _BEFORE, 0)
        start = one.find(" ", start, first) + 1 or start  # not in the middle of a word
        return _around(one, start, first), _around(other, start, first)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        first = _first_apart(one, other)
        return _behind(one, other, first), _behind(other, one, first)
    # what no record holds; all of it, rather than the same twice
    return repr(one), repr(other)


def _first_apart(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The place of the first difference between two texts or lists."""
    for place, (here, there) in enumerate(zip(one, other, strict=False)):
        if here != there:
            return place
    return min(len(one), len(other))


def _around(text: str, start: int, first: int) -> str:
    """A text from a place on to some letters behind its first difference from another."""
    end = first + _SHOWN
    return repr(f"{'...' * (start > 0)}{text[start:end]}{'...' * (end < len(text))}")


def _behind(values: Sequence[Any], others: Sequence[Any], first: int) -> str:
    """A list from its first difference from another on."""
    brackets = "[]" if isinstance(values, list) else "()"
    begins, _ = briefs(values[first], others[first])
    rest = _first_of([begins, *map(brief, values[first + 1 :])], brackets)
    return f"{brackets[0]}{first} alike, then {rest[1:]}" if first else rest


def _first_of(elements: Sequence[str], brackets: str) -> str:
    """As many elements as fit, the first one whatever its length, and how many more there are."""
    shown: list[str] = []
    for element in elements:
        if shown and len(", ".join([*shown, element])) > _SHOWN:
            break
        shown.append(element)
    more = len(elements) - len(shown)
    return f"{brackets[0]}{', '.join(shown)}{f' and {more} more' if more else ''}{brackets[1]}"
