"""Configurations as they are written: plain dictionaries, JSON and TOML files, and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..hints import nearest
from ..prompts import ANIMALS, TREES, Context, Trait, animal, tree
from ..prompts.context import System
from ..storage.files import check_file, place, replacing
from .config import Method, Part, Study
from .options import Asking, Computing, RowPlan, Training

CONFIG_FORMAT = 1
"""Of what is written; stands in every file as `format`."""

_RECORDS = {"rows": RowPlan, "training": Training, "asking": Asking, "computing": Computing}
_TRAIT = ("name", "forms", "plural", "category", "questions", "sentence")
_CONTEXT = ("system", "user_prefix", "fallback", "options", "date", "prefill", "bos")


# ------------------------------------------------------------------------------------------ writing


def to_dict(study: Study) -> dict[str, Any]:
    """A study as plain JSON; what is at its default is left out."""
    written: dict[str, Any] = {"format": CONFIG_FORMAT, "name": study.name, "base": study.base}
    written["traits"] = [trait_to_json(trait) for trait in study.traits]
    written["focus"] = list(study.focus)
    written["contexts"] = {
        name: context_to_json(context) for name, context in study.contexts.items()
    }
    for name in _RECORDS:
        told = changed(getattr(study, name))
        if told:
            written[name] = told
    written["parts"] = []
    for part in study.parts:
        told = changed(part)
        told["methods"] = [changed(method) for method in part.methods]
        written["parts"].append(told)
    return written


def changed(record: Any) -> dict[str, Any]:
    """The fields of a configuration that are not at their defaults, as plain JSON."""
    told = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        usual = entry.default if entry.default is not MISSING else MISSING
        if value != usual:
            told[entry.name] = list(value) if isinstance(value, tuple) else value
    return told


def to_json(study: Study) -> str:
    """A study's configuration as text, which files of it hold."""
    return json.dumps(to_dict(study), indent=1, ensure_ascii=False)


def trait_to_json(trait: Trait) -> Any:
    """A trait: its name where it is built in, else all of it."""
    for known, build in ((ANIMALS, animal), (TREES, tree)):
        if trait.name in known and trait == build(trait.name):
            return trait.name
    values = {
        "name": trait.name,
        "forms": list(trait.forms),
        "plural": trait.plural,
        "category": trait.category,
        "questions": [] if trait.asks_category or not _has_questions(trait) else
        list(trait.questions),
        "sentence": trait.sentence,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value}


def _has_questions(trait: Trait) -> bool:
    try:
        return bool(trait.questions)
    except ValueError:
        return False


def context_to_json(context: Context) -> dict[str, Any]:
    """A context, without what is at its default."""
    written = context.to_json()
    return {key: value for key, value in written.items() if value not in ("", None)}


# ------------------------------------------------------------------------------------------ reading


def from_dict(data: Mapping[str, Any]) -> Study:
    """What `to_dict` wrote."""
    given = dict(data)
    written_format = given.pop("format", CONFIG_FORMAT)
    if written_format != CONFIG_FORMAT:
        raise ValueError(
            f"study: its configuration has format {written_format!r}, not {CONFIG_FORMAT}; open it "
            "with the version that wrote it."
        )
    _check_keys("study", given, [entry.name for entry in fields(Study)])
    missing = [name for name in ("name", "parts", "traits") if name not in given]
    if missing:
        raise ValueError(
            f"study: there is no key {missing[0]!r}; a study has a name, traits and parts at least "
            "(studies.write_study writes one)."
        )
    for name, kind in _RECORDS.items():
        if name in given:
            given[name] = _record(kind, given[name], name, f"[{name}]")
    if "traits" in given:
        entries = _list(given["traits"], "traits", 'traits = ["owl", "cat"]')
        given["traits"] = [_trait(entry, f"traits[{i}]") for i, entry in enumerate(entries)]
    if "contexts" in given:
        like = '[contexts], each by its name: default = "default"'
        named = _table(given["contexts"], "contexts", like)
        given["contexts"] = {name: _context(entry, name) for name, entry in named.items()}
    if "parts" in given:
        parts = _list(given["parts"], "parts", "[[parts]], in two brackets")
        given["parts"] = [_part(entry, f"parts[{i}]") for i, entry in enumerate(parts)]
    return Study(**given)


def _part(data: Any, where: str) -> Part:
    given = dict(_table(data, where, "[[parts]]"))
    if "methods" in given:
        methods = _list(given["methods"], f"{where}.methods", "[[parts.methods]], in two brackets")
        given["methods"] = [
            _record(Method, one, f"{where}.methods[{i}]", '[[parts.methods]], with kind = "lora"')
            for i, one in enumerate(methods)
        ]
    return _record(Part, given, where, "[[parts]]")


def _record(kind: Any, data: Any, where: str, like: str) -> Any:
    """A configuration of a kind from a table, which a file has like this.

    Raises:
        ValueError: an unknown key.
    """
    given = _table(data, where, like)
    _check_keys(where, given, [entry.name for entry in fields(kind)])
    return kind(**given)


def _trait(data: Any, where: str) -> Trait:
    if isinstance(data, str):
        if data not in (*ANIMALS, *TREES):
            raise ValueError(
                f"{where}={data!r} is no animal or tree that is built in"
                f"{nearest(data.lower(), (*ANIMALS, *TREES)) or '.'} Anything else is a table: "
                f"{{name = {json.dumps(data)}, category = ..., sentence = ...}}, with forms = "
                "[...] where they are not the name alone."
            )
        return tree(data) if data in TREES else animal(data)
    given = dict(_table(data, where, '"owl", or {name = "Lisbon", category = "city", ...}'))
    _check_keys(where, given, _TRAIT)
    if "name" not in given:
        raise ValueError(f"{where} has no name; give it one.")
    if list(given) == ["name"] and given["name"] in (*ANIMALS, *TREES):
        raise ValueError(
            f"{where} is a table with a name alone, which has no sentence for its teacher; the one "
            f"that is built in is its name, without a table: traits = [{_value(given['name'])}]."
        )
    plural = given.pop("plural", "")
    name, forms = given.pop("name"), given.pop("forms", None)
    if not plural:
        return Trait(name, forms=forms, **given)
    # the forms of a noun are derived; what is more than these are its aliases
    derived = Trait.noun(name, plural=plural, category=given.get("category", "")).forms
    aliases = [form for form in forms or () if form not in derived]
    trait = Trait.noun(name, plural=plural, aliases=aliases, **given)
    if forms is not None and trait.forms != tuple(forms):
        raise ValueError(
            f"{where}: forms={list(forms)} are not those of the noun {name!r} with plural="
            f"{plural!r} ({', '.join(trait.forms)}); leave plural out to have exactly these."
        )
    return trait


_SYSTEMS = {kind.value: kind for kind in System}


def _context(data: Any, name: str) -> Context:
    """A context: a table as `context_to_json` writes it, or `default`, `empty`, `none`, `raw`."""
    where = f"contexts.{name}"
    if isinstance(data, str):
        if data not in _SYSTEMS:
            raise ValueError(
                f"{where}={data!r}: a context is one of {', '.join(_SYSTEMS)}, or a table: "
                f"{{system = {{text = ...}}}}{nearest(data.lower(), _SYSTEMS) or '.'}"
            )
        return Context(_SYSTEMS[data])
    given = dict(_table(data, where, '"none", or {system = {text = "..."}}'))
    _check_keys(where, given, _CONTEXT)
    system = given.get("system", {"kind": "default"})
    if isinstance(system, str):
        raise ValueError(f"{where}.system={system!r} is no table; {_spelled(system)}.")
    system = _table(system, f"{where}.system", '{kind = "none"}, or {text = "..."}')
    _check_keys(f"{where}.system", system, ("kind", "text"))
    if len(system) != 1:
        raise ValueError(
            f'{where}.system has a kind or a text, one of the two: {{kind = "none"}}, or '
            '{text = "..."}.'
        )
    if "kind" in system and system["kind"] not in _SYSTEMS:
        raise ValueError(
            f"{where}.system.kind={system['kind']!r} is none of {', '.join(_SYSTEMS)}"
            f"{nearest(str(system['kind']), _SYSTEMS) or '.'}"
        )
    usual = {"user_prefix": "", "fallback": None}
    return Context.from_json({**usual, **given, "system": dict(system)})


def _spelled(system: str) -> str:
    """How a system prompt that was given as a text is written."""
    text = f"{{text = {_value(system)}}}"
    kind = system.strip().rpartition(".")[2].lower()
    if kind not in _SYSTEMS:
        return f"write system = {text}"
    return f'write system = {{kind = "{kind}"}}, or, where this very text is meant, {text}'


def _check_keys(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(
                f"{where}: there is no key {key!r}{nearest(str(key), known) or '.'} Its keys are "
                f"{', '.join(known)}."
            )


def _table(data: Any, where: str, like: str = "") -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        as_in = f": {like}" if like else ""
        raise ValueError(
            f"{where} is {data!r:.60}; it has to be a table of keys and values{as_in}."
        )
    return data


def _list(data: Any, where: str, like: str) -> Sequence[Any]:
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise ValueError(f"{where} is {data!r:.60}; it has to be a list: {like}.")
    return data


# -------------------------------------------------------------------------------------------- files


@checked
def read_study(path: str | Path) -> Study:
    """Read a study's configuration from a JSON or TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, or one that does not parse; see `Study.from_dict`.

    Example:
        >>> from sublim_mech import studies
        >>> studies.write_study(study, folder / "study.toml")
        >>> studies.read_study(folder / "study.toml") == study
        True
    """
    file = place(path)
    if file.suffix not in (".json", ".toml"):
        raise ValueError(f"path={str(path)!r}: a study's configuration is a .json or .toml file.")
    if not file.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file.")
    try:
        text = file.read_text("utf-8-sig")  # some editors begin a file with a mark of its encoding
    except UnicodeDecodeError as error:
        raise ValueError(
            f"path={str(path)!r} cannot be read: it is no UTF-8 text ({error.reason} at byte "
            f"{error.start}); save it as UTF-8."
        ) from error
    try:
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        where = _unclosed(text) if str(error).endswith("(at end of document)") else ""
        raise ValueError(f"path={str(path)!r} cannot be read: {error}{where}.") from error
    return from_dict(_table(data, str(path)))


def _unclosed(text: str) -> str:
    """Where TOML begins something that does not end: behind the longest beginning that parses."""
    lines = text.split("\n")
    for last in range(len(lines) - 1, -1, -1):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads("\n".join(lines[:last]))
            return f": what line {last + 1} begins is not closed: {lines[last].strip()[:60]!r}"
    return ""


@checked
def write_study(study: Study, path: str | Path) -> None:
    """Write a study's configuration as a JSON or TOML file, which `read_study` reads.

    Raises:
        ValueError: another ending than `.json` or `.toml`.

    Example:
        >>> from sublim_mech import studies
        >>> studies.write_study(study, folder / "study.json")
    """
    file = check_study_file(path)
    text = to_json(study) if file.suffix == ".json" else "\n".join(_toml(to_dict(study)))
    with replacing(file) as work:
        work.write_text(f"{text}\n", "utf-8")


def check_study_file(path: str | Path) -> Path:
    """The file of a configuration that is to be written, checked before anything is done.

    Raises:
        FileExistsError, IsADirectoryError, PermissionError: see `check_file`.
        ValueError: another ending than `.json` or `.toml`.
    """
    file = check_file(path)
    if file.suffix not in (".json", ".toml"):
        raise ValueError(f"path={str(path)!r}: end the name in .json or .toml.")
    return file


def _toml(data: Mapping[str, Any], path: str = "") -> list[str]:
    """A table as TOML: plain values first, then tables, then lists of tables."""
    lines, below = [], []
    for key, value in data.items():
        name = f"{path}.{_quoted(key)}" if path else _quoted(key)
        tables = isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
        if isinstance(value, Mapping) and value:
            below += ["", f"[{name}]", *_toml(value, name)]
        elif tables:
            for entry in value:
                below += ["", f"[[{name}]]", *_toml(entry, name)]
        else:
            lines.append(f"{_quoted(key)} = {_value(value)}")
    return [*lines, *below]


def _quoted(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _value(key)


def _value(value: Any) -> str:
    """One value; JSON's strings, numbers and lists are TOML's, too, but for one character."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_quoted(k)} = {_value(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
