"""The options of every command, as `docs/commands.md` has them.

    python tests/commands_table.py [FILE]

They are read off the parser, as `--help` prints them. What stands between the markers of the file
is written anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from between import write_between

from sublim_mech.__main__ import parser

BEGIN = "<!-- made by `python tests/commands_table.py` -->"
END = "<!-- end of what it made -->"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command by its name."""
    (found,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def options(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, but for `--help`."""
    return [one for one in command._actions if not isinstance(one, argparse._HelpAction)]


def spelled(action: argparse.Action) -> str:
    """An argument as it is written."""
    value = str(action.metavar or action.dest)
    if action.option_strings:
        value = str(action.metavar or action.dest.upper())
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    forms = {None: value, "?": f"[{value}]", "+": value, 0: ""}
    if action.nargs == "+" and "..." not in value:
        forms["+"] = f"{value} [{value} ...]"
    return " ".join([*action.option_strings, forms[action.nargs]]).strip()


def table() -> str:
    """A table per command."""
    lines = []
    for name, command in commands().items():
        lines += [f"### `{name}`", "", "| | |", "|---|---|"]
        for action in options(command):
            told = [spelled(action), str(action.help or "")]
            first, second = (text.replace("|", "\\|") for text in told)
            need = " (needed)" if action.required and action.option_strings else ""
            lines.append(f"| `{first}` | {second}{need} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main(file: Path) -> None:
    """Write the tables into a page."""
    write_between(file, BEGIN, END, f"\n{table()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/commands.md"))
