"""A template's variables as a value: JSON-like, immutable, equal whatever their order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


class Options(Mapping[str, Any]):
    """What a context gives to its template, `{"enable_thinking": False}`.

    Names are sorted, lists are kept as tuples; two are equal where their JSON is, so that `False`
    is not `0`.

    Raises:
        ValueError: a name that is no text, a value that JSON has no word for.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        given = {} if given is None else given
        self._values = {name: _frozen(given[name], name) for name in sorted(given, key=_name)}
        self._json = json.dumps(self.plain())

    def plain(self) -> dict[str, Any]:
        """As dicts and lists, new ones at each call."""
        return {name: _plain(value) for name, value in self._values.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Options):
            return self._json == other._json
        try:
            return self == Options(other) if isinstance(other, Mapping) else NotImplemented
        except ValueError:
            return False

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        return repr(self.plain())


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(
            f"options: the name {name!r} is no text; pass {{'enable_thinking': False}} or the like."
        )
    return name


def _frozen(value: Any, name: str) -> Any:
    """A JSON value, its lists as tuples and its objects as `Options`."""
    if value is None or type(value) in (str, bool, int):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return tuple(_frozen(each, name) for each in value)
    if isinstance(value, Mapping):
        return Options(value)
    raise ValueError(
        f"options[{name!r}]: {value!r} is nothing that JSON can hold; pass a text, a finite "
        "number, True, False, None, or lists and dicts of these."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return value.plain()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
