"""docs/commands.md says what `--help` says, and every command line in the docs is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands_table import BEGIN, END, commands, options, table

from sublim_mech.__main__ import parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:bash)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_tables_are_those_of_the_parser():
    page = (ROOT / "docs" / "commands.md").read_text()
    made = page.partition(BEGIN)[2].partition(END)[0].strip()
    assert made == table(), "python tests/commands_table.py writes them anew"


def test_every_argument_says_what_it_is():
    for name, command in commands().items():
        assert [one.dest for one in options(command) if not one.help] == [], name


def lines() -> list[tuple[str, str]]:
    """Every command line of the docs, with the page it stands on."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.partition("# ")[0].strip()
                if words.startswith("sublim-mech "):
                    found.append((page.name, words))
    return found


@pytest.mark.parametrize(("page", "line"), lines())
def test_every_command_line_of_the_docs_is_one(page, line):
    line = re.sub(r"[][]|\.\.\.", "", line.partition(" > ")[0])  # what may be left out
    line = re.sub(r"\$\w+/(\$\w+|\d+)", "0/4", line)
    words = shlex.split(re.sub(r"\$\w+", "1", line))[1:]
    assert callable(parser().parse_args(words).do), page


def test_a_command_line_that_is_none_is_noticed():
    with pytest.raises(SystemExit):
        parser().parse_args(["score", "BASE", "STUDENT", "--trait", "owl", "--form", "x", "--nope"])
