"""The command `completion`: what a shell needs to complete the library's commands and options.

The script is written once, by shtab, from the parser itself; completing runs nothing of the
library, which takes seconds to load.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

SHELLS = ("bash", "zsh", "fish")

EXAMPLES = """
examples:
  sublim-mech completion bash > ~/.local/share/bash-completion/completions/sublim-mech
  sublim-mech completion zsh  > ~/.zfunc/_sublim-mech         # a folder of fpath
  sublim-mech completion fish > ~/.config/fish/completions/sublim-mech.fish
"""


def add_command(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Add the command to those of the library.

    Args:
        commands: of the parser.
        parser: the whole command line, when it is asked for.
    """
    asked = commands.add_parser(
        "completion",
        help="completion for a shell",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked.add_argument("shell", choices=SHELLS, help="whose completion script is printed")

    def write(given: argparse.Namespace) -> int:
        print(script(parser, given.shell))
        return 0

    asked.set_defaults(do=write, names={})


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a parser.

    Raises:
        ValueError: shtab is not installed.
    """
    try:
        shtab = importlib.import_module("shtab")
    except ModuleNotFoundError as error:
        raise ValueError(
            "completion: it is written by shtab, which is not installed here; pip install "
            '"sublim-mech[completion]".'
        ) from error
    files = _with_files(parser, shtab.FILE)
    try:
        return str(shtab.complete(parser, shell))
    finally:
        for action in files:
            del action.complete


def _with_files(parser: argparse.ArgumentParser, files: Any) -> list[Any]:
    """Have arguments completed by files that have no choices of their own; which ones were."""
    marked: list[Any] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                marked += _with_files(one, files)
        elif (
            action.choices is None
            and action.type is None
            and action.nargs != 0
            and not hasattr(action, "complete")  # several commands share it
        ):
            action.complete = files  # type: ignore[attr-defined]  # how shtab is told
            marked.append(action)
    return marked
