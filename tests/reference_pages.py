"""Which public names the library has, and which page of the reference documents them."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
DIRECTIVE = re.compile(r"^::: (sublim_mech[\w.]*)$", re.MULTILINE)


def directives() -> dict[str, Path]:
    """Path of a module -> the page that documents its public names."""
    documented = {}
    for page in (DOCS / "reference").glob("*.md"):
        for path in DIRECTIVE.findall(page.read_text()):
            documented[path] = page
    return documented


def public(module: ModuleType) -> dict[str, Any]:
    """The public names of a module: its `__all__`, or else what it defines itself."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    defined = {}
    for name, thing in vars(module).items():
        if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__:
            defined[name] = thing
    return defined
