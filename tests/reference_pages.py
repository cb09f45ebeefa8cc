"""Which public names the library has, and which page of the reference documents them."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
DIRECTIVE = re.compile(r"^::: (sublim_mech[\w.]*)$", re.MULTILINE)
LISTS = ("sublim_mech", "sublim_mech.types")  # their pages are tables of names that stand elsewhere


def directives() -> dict[str, Path]:
    """Path of a module, or of a single thing -> the page that documents it."""
    documented = {}
    for page in (DOCS / "reference").glob("*.md"):
        for path in DIRECTIVE.findall(page.read_text()):
            documented[path] = page
    return documented


def find(path: str) -> Any:
    """The module or thing of this path.

    Raises:
        AttributeError: there is none.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def public(module: ModuleType) -> dict[str, Any]:
    """The public names of a module: its `__all__`, or else what it defines itself."""
    if hasattr(module, "__all__"):
        names = list(module.__all__)
    else:
        names = []
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return {name: getattr(module, name) for name in names if not name.startswith("_")}


class Entry(NamedTuple):
    """Something the reference documents."""

    anchor: str
    thing: Any
    page: Path


def entries() -> list[Entry]:
    """Everything the reference documents, but for the tables of names."""
    documented = []
    for path, page in directives().items():
        thing = find(path)
        documented.append(Entry(path, thing, page))
        if isinstance(thing, ModuleType) and path not in LISTS:
            for name, member in public(thing).items():
                documented.append(Entry(f"{path}.{name}", member, page))
    return documented
