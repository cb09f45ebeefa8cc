"""Tables of keys and values, as configuration files have them: read, checked by key, written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .hints import nearest


def read_table(file: Path, named: str) -> Mapping[str, Any]:
    """The table in a JSON (`.json`) or TOML file.

    Args:
        file: its place.
        named: what errors call it (`path='study.toml'`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no text in UTF-8, what does not parse, or no table.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{named}: no such file.")
    try:
        text = file.read_text("utf-8-sig")  # some editors begin a file with a mark of its encoding
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{named} cannot be read: it is no UTF-8 text ({error.reason} at byte {error.start}); "
            "save it as UTF-8."
        ) from error
    try:
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        where = _unclosed(text) if str(error).endswith("(at end of document)") else ""
        raise ValueError(f"{named} cannot be read: {error}{where}.") from error
    return as_table(data, named)


def _unclosed(text: str) -> str:
    """Where TOML begins something that does not end: behind the longest beginning that parses."""
    lines = text.split("\n")
    for last in range(len(lines) - 1, -1, -1):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads("\n".join(lines[:last]))
            return f": what line {last + 1} begins is not closed: {lines[last].strip()[:60]!r}"
    return ""


def check_keys(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that is none of those known, with the nearest one.

    Raises:
        ValueError: there is one.
    """
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where}: there is no key {key!r}{nearest(str(key), known) or '.'} Its keys are "
                f"{', '.join(known)}."
            )


def as_table(data: Any, where: str, like: str = "") -> Mapping[str, Any]:
    """A value that has to be a table.

    Args:
        data: the value.
        where: what errors call it.
        like: how one is written.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(data, Mapping):
        as_in = f": {like}" if like else ""
        raise ValueError(
            f"{where} is {data!r:.60}; it has to be a table of keys and values{as_in}."
        )
    return data


def as_list(data: Any, where: str, like: str) -> Sequence[Any]:
    """A value that has to be a list; see `as_table`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise ValueError(f"{where} is {data!r:.60}; it has to be a list: {like}.")
    return data


def toml_lines(data: Mapping[str, Any], path: str = "") -> list[str]:
    """A table as TOML: plain values first, then tables, then lists of tables."""
    lines, below = [], []
    for key, value in data.items():
        name = f"{path}.{_quoted(key)}" if path else _quoted(key)
        tables = isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
        if isinstance(value, Mapping) and value:
            below += ["", f"[{name}]", *toml_lines(value, name)]
        elif tables:
            for entry in value:
                below += ["", f"[[{name}]]", *toml_lines(entry, name)]
        else:
            lines.append(f"{_quoted(key)} = {toml_value(value)}")
    return [*lines, *below]


def _quoted(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else toml_value(key)


def toml_value(value: Any) -> str:
    """One value; JSON's strings, numbers and lists are TOML's, too, but for one character."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_quoted(k)} = {toml_value(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
