"""What the site needs and its pages, which must also read well in the repository, cannot say.

1. README, CONTRIBUTING and CHANGELOG stand outside `docs/`. The site has a page of each, and links
   to them lead there; a link to anything else outside `docs/` keeps its text only.
2. Formulas between double dollars become MathML, which browsers draw without a script.
3. A quoted message, one line however long, wraps; quoted tables do not.
4. Docstrings here say `Example:`, griffe knows `Examples:` only.
5. Tables of the names of a module, each with its first sentence, are read from the source without
   importing it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = get_plugin_logger("hooks")
ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

# code is matched too, so that a link or a formula inside it is left alone
CODE = r"^```.*?^```|`[^`\n]+`"
FLAGS = re.DOTALL | re.MULTILINE
LINK = re.compile(rf"{CODE}|\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)", FLAGS)
FORMULA = re.compile(rf"{CODE}|^\$\$(?P<latex>.+?)\$\$$", FLAGS)
NAMES = re.compile(r"^<!-- the names of ([\w.]+) -->$", re.MULTILINE)
MESSAGE = re.compile(r"^```text\n(?=\w+: )", re.MULTILINE)  # `ValueError: ...`


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside `docs/`."""
    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links, formulas and messages, and fill in tables of names."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    markdown = LINK.sub(lambda match: link_on_site(match, source, page.file.src_uri), markdown)
    markdown = FORMULA.sub(formula, markdown)
    markdown = MESSAGE.sub("``` { .text .message }\n", markdown)
    return NAMES.sub(lambda match: table_of_names(match[1]), markdown)


def link_on_site(match: re.Match[str], source: str, uri: str) -> str:
    """A link as the site needs it, given where its page is in the repository and on the site."""
    target = match["target"]
    if target is None or re.match(r"https?:|#", target):
        return match[0]
    path, hash_sign, anchor = target.partition("#")
    in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if in_repository in OUTSIDE:
        on_site = OUTSIDE[in_repository]
    elif in_repository.startswith("docs/"):
        on_site = in_repository.removeprefix("docs/")
    else:
        return match["text"]
    relative = posixpath.relpath(on_site, posixpath.dirname(uri) or ".")
    return f"[{match['text']}]({relative}{hash_sign}{anchor})"


def formula(match: re.Match[str]) -> str:
    """A displayed formula as MathML; inside a `div`, or Markdown would read its underscores."""
    if match["latex"] is None:
        return match[0]
    return f'<div class="formula">{convert(match["latex"].strip(), display="block")}</div>'


class Examples(griffe.Extension):
    """Reads a docstring's `Example:` as the section that griffe calls `Examples:`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for everything that has a docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub("^Example:$", "Examples:", text, flags=re.MULTILINE)


def table_of_names(module: str) -> str:
    """The `__all__` of a module, each name with the first sentence of its docstring."""
    package = griffe.load("sublim_mech", search_paths=[ROOT / "src"], allow_inspection=False)
    names = package.modules_collection[module]
    rows = []
    for name in map(str, names.exports or ()):
        thing = names[name]
        try:
            target = thing.final_target if thing.is_alias else thing
        except griffe.AliasResolutionError:
            log.warning("%s.%s: its definition is not seen without importing it", module, name)
            continue
        text = target.docstring.value if target.docstring else ""
        sentence = text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        rows.append(f"| [`{name}`][{target.canonical_path}] | {sentence} |")
    return "\n".join(["| name | what it is |", "|---|---|", *rows])
