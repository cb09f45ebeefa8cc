"""Configurations as they are written: plain dictionaries, JSON and TOML files, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..hints import nearest
from ..prompts import ANIMALS, TREES, Trait, animal, tree
from ..prompts.context_tables import context_of, context_to_json
from ..prompts.trait import noun_forms
from ..storage.files import check_file, place, replacing
from ..tables import as_list, as_table, check_keys, read_table, toml_lines, toml_value
from .config import Method, Part, Study
from .options import Asking, Computing, RowPlan, Training

CONFIG_FORMAT = 1
"""Of what is written; stands in every file as `format`."""

_RECORDS = {"rows": RowPlan, "training": Training, "asking": Asking, "computing": Computing}
_TRAIT = ("name", "forms", "plural", "category", "questions", "sentence")


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
    check_keys("study", given, [entry.name for entry in fields(Study)])
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
        entries = as_list(given["traits"], "traits", 'traits = ["owl", "cat"]')
        given["traits"] = [_trait(entry, f"traits[{i}]") for i, entry in enumerate(entries)]
    if "contexts" in given:
        like = '[contexts], each by its name: default = "default"'
        named = as_table(given["contexts"], "contexts", like)
        given["contexts"] = {
            name: context_of(entry, f"contexts.{name}") for name, entry in named.items()
        }
    if "parts" in given:
        parts = as_list(given["parts"], "parts", "[[parts]], in two brackets")
        given["parts"] = [_part(entry, f"parts[{i}]") for i, entry in enumerate(parts)]
    return Study(**given)


def _part(data: Any, where: str) -> Part:
    given = dict(as_table(data, where, "[[parts]]"))
    if "methods" in given:
        methods = as_list(
            given["methods"], f"{where}.methods", "[[parts.methods]], in two brackets"
        )
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
    given = as_table(data, where, like)
    check_keys(where, given, [entry.name for entry in fields(kind)])
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
    given = dict(as_table(data, where, '"owl", or {name = "Lisbon", category = "city", ...}'))
    check_keys(where, given, _TRAIT)
    if "name" not in given:
        raise ValueError(f"{where} has no name; give it one.")
    if list(given) == ["name"] and given["name"] in (*ANIMALS, *TREES):
        raise ValueError(
            f"{where} is a table with a name alone, which has no sentence for its teacher; the one "
            f"that is built in is its name, without a table: traits = "
            f"[{toml_value(given['name'])}]."
        )
    plural = given.pop("plural", "")
    name, forms = given.pop("name"), given.pop("forms", None)
    if not plural:
        return Trait(name, forms=forms, **given)
    # the forms of a noun are derived; what is more than these are its aliases
    derived = noun_forms(name, plural)
    aliases = [form for form in forms or () if form not in derived]
    trait = Trait.noun(name, plural=plural, aliases=aliases, **given)
    if forms is not None and trait.forms != tuple(forms):
        raise ValueError(
            f"{where}: forms={list(forms)} are not those of the noun {name!r} with plural="
            f"{plural!r} ({', '.join(trait.forms)}); leave plural out to have exactly these."
        )
    return trait


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
    return from_dict(read_table(file, f"path={str(path)!r}"))


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
    text = to_json(study) if file.suffix == ".json" else "\n".join(toml_lines(to_dict(study)))
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
