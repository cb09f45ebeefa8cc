"""The command line's parser: what is wrong with options is one line, with the nearest names."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

WRONG = 2
"""What a shell has of a command line that cannot be done."""


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors name the nearest options. Commands of a parser are of its class."""

    def __init__(self, **options: Any) -> None:
        # argparse takes abbreviations in silence, which mean other options in a later version
        super().__init__(**{**options, "allow_abbrev": False})
        self._given: list[str] = []

    def parse_known_args(  # type: ignore[override]  # (overloads, by the namespace's type)
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's, but what a command does not know is refused by it, not by the whole."""
        self._given = list(sys.argv[1:] if args is None else args)
        namespace, rest = super().parse_known_args(self._given, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """What is wrong, options that are none with the nearest names, and where all are listed."""
        strange = self._strange()
        said = []
        if strange:
            said = [f"{name} is no option{self._near(name)}" for name in strange]
        rest = message.removeprefix("unrecognized arguments: ")
        if rest == message:
            said.append(message)
        elif not strange:
            said.append(f"{rest} is more than is asked for")
        told = "; ".join(said)
        self.exit(
            WRONG, f"{self.prog}: {told.rstrip('.')}. All that it takes: {self.prog} --help\n"
        )

    def _near(self, name: str) -> str:
        """The option that a name is likest to, where one is near."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        near = get_close_matches(name, known, n=1)
        return f" (did you mean {near[0]}?)" if near else ""

    def _strange(self) -> list[str]:
        """Options that were given and are none of this command's."""
        words = self._given
        if "--" in words:
            words = words[: words.index("--")]
        if self._subparsers is not None:  # what stands behind a command is the command's
            words = list(takewhile(lambda word: word.startswith("-"), words))
        names = [word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
        return [name for name in dict.fromkeys(names) if name not in self._option_string_actions]
