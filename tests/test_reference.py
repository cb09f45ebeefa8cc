"""The site's navigation leads to every page, and every public name stands in the reference.

The site itself is built by `make docs`, which needs the extra `docs`; what it would refuse for a
forgotten name or page is told here without it.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from reference_pages import DOCS, LISTS, directives, entries, find, public

import sublim_mech as sm

NO_REFERENCE = {
    f"sublim_mech.{name}"
    for name in ("__main__", "arguments", "completion", "hints", "options", "tables", "threads")
}
OUTSIDE = {"readme.md", "contributing.md", "changelog.md"}  # pages of files outside docs/


def folders() -> list[str]:
    """All packages below `sublim_mech`, and its single modules."""
    everything = pkgutil.walk_packages(sm.__path__, "sublim_mech.")
    names = [m.name for m in everything if m.ispkg or m.name.count(".") == 1]
    return [name for name in names if name not in NO_REFERENCE]


@pytest.mark.parametrize("folder", folders())
def test_every_folder_has_a_page(folder):
    module = importlib.import_module(folder)
    if not public(module) and any(path.startswith(f"{folder}.") for path in directives()):
        return  # `making` holds folders and no names
    assert folder in directives(), f"{folder} has no `::: {folder}` in docs/reference"
    assert public(module), f"{folder} has no public names: give it an `__all__`"


@pytest.mark.parametrize("path", LISTS)
def test_every_listed_name_stands_on_the_page_of_a_folder(path):
    documented = [entry.thing for entry in entries()]
    missing = []
    for name, thing in public(find(path)).items():
        if not any(thing is other for other in documented):
            missing.append(name)
    assert not missing, f"{', '.join(missing)}: put them into the `__all__` of their folder"


def test_every_list_has_its_table():
    """`docs/hooks.py` fills a table in where a comment asks for it, and says nothing elsewhere."""
    asked = [
        comment
        for page in sorted((DOCS / "reference").glob("*.md"))
        for comment in re.findall("<!-- the names of (.*) -->", page.read_text())
    ]
    assert sorted(asked) == sorted(LISTS)


def test_the_navigation_leads_to_every_page():
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    navigation = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text())["nav"]
    assert sorted(leaves(navigation)) == sorted(pages | OUTSIDE)


def leaves(navigation: Any) -> Iterator[str]:
    """The pages of a navigation, depth first."""
    if isinstance(navigation, str):
        yield navigation
    else:
        below = navigation.values() if isinstance(navigation, dict) else navigation
        for item in below:
            yield from leaves(item)
