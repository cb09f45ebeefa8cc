"""The table of adapter kinds, as `docs/adapters.md` has it: `make adapters`.

    python tests/adapter_table.py [FILE]

Every kind of `adapter_kinds.KINDS` is made on a tiny Llama, loaded live and from its folder, and
run beside PEFT's own forward. What stands between the markers of the file is written anew.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import adapter_kinds
from between import write_between

BEGIN, END = "<!-- made by `make adapters` -->", "<!-- end of what it made -->"


def row(name: str, outcome: adapter_kinds.Outcome) -> str:
    """One line of the table."""
    if outcome.refused:
        reason = outcome.refused.partition(": its adapter ")[2] or outcome.refused
        return f"| {name} | refused: {reason} | | |"
    held = [f"{outcome.low} low-rank"] * bool(outcome.low) + [f"{outcome.own} own"] * bool(
        outcome.own
    )
    stored = "" if outcome.stored is None else _size(outcome.stored)
    if outcome.folder:
        stored = f"refused: {outcome.folder.partition(': its adapter ')[2]}"
    return f"| {name} | {' + '.join(held)} | {_size(outcome.error)} | {stored} |"


def _size(error: float) -> str:
    """An error up to the power of ten it stays below."""
    return next((f"< 1e-{n}" for n in (5, 4, 3) if error < 10**-n), f"**{error:.0e}**")


def table() -> str:
    """All rows."""
    lines = ["| adapter | modules | live | from its folder |", "|---|---|---|---|"]
    for name in adapter_kinds.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, adapter_kinds.examine(name, Path(folder) / "run")))
    exact = sum("refused" not in line for line in lines) - 2
    lines += ["", f"{exact} kinds exact, {len(adapter_kinds.KINDS) - exact} refused."]
    return "\n".join(lines)


def main(file: Path) -> None:
    """Write the table into a page."""
    write_between(file, BEGIN, END, table())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/adapters.md"))
