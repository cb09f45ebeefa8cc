"""Run the benchmarks.

    python -m benchmarks                                # all rows: a table, and out/bench.json
    python -m benchmarks --only graft_ig patch_gpt2     # these; other rows of the file stay
    python -m benchmarks --markdown docs/benchmarks.md  # nothing runs: the table of the file goes
                                                        # into the document

Exit code 1 where results are not equal to the stated tolerance; a missed target is printed as such
and is no failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import (  # noqa: F401  rows register
    instruments,
    lengths,
    making,
    memory,
    parts,
    processes,
    scanning,
    studies,
    training,
    weights,
    where,
)
from .rows import RESULTS, ROWS, run
from .table import markdown, write_between_markers


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    options = parse(arguments)
    if options.list:
        for name, function in ROWS.items():
            print(f"{name:22}{(function.__doc__ or '').strip()}")
        return 0

    file: Path = options.out
    stored: dict[str, dict] = {}
    if file.is_file():
        stored = {row["name"]: row for row in json.loads(file.read_text())}
    if options.markdown is not None:
        write_between_markers(options.markdown, markdown(ordered(stored)))
        return 0

    # every row is stored as soon as it is there, so that an interrupted run keeps what it has
    asked = options.only or list(ROWS)
    for name in asked:
        started = time.perf_counter()
        row = run(name)
        stored[name] = row.to_json()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(ordered(stored), indent=1))
        seconds = time.perf_counter() - started
        print(f"{name}: {row.ratio:.2f} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    print(markdown(ordered(stored)))

    unequal = [stored[name] for name in asked if not stored[name]["equal"]]
    for row in unequal:
        difference = f"differs by {row['max_abs_diff']}, tolerance {row['tolerance']}"
        print(f"NOT EQUAL: {row['name']} {difference}", file=sys.stderr)
    return 1 if unequal else 0


def ordered(stored: dict[str, dict]) -> list[dict]:
    """Stored rows in the order of the registry; rows that are no longer there are dropped."""
    return [stored[name] for name in ROWS if name in stored]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(ROWS), metavar="NAME", help="run these rows only"
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the stored table between the markers of FILE and stop",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows are stored")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
