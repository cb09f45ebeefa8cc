"""Run the benchmarks.

    python -m benchmarks                                   # all rows: a table, and out/bench.json
    python -m benchmarks --only graft_ig patch_gpt2        # these; other rows of out/bench.json stay
    python -m benchmarks --markdown docs/benchmarks.md     # nothing runs: the table of out/bench.json into the document

Exit code 1 where results are not equal to the stated tolerance; a missed target is printed as such and is no failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import instruments, making, memory, training  # noqa: F401  their rows register themselves
from .rows import RESULTS, ROWS, run
from .table import markdown, write_between_markers


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    options = parse(arguments)
    if options.list:
        for name, function in ROWS.items():
            print(f"{name:22}{(function.__doc__ or '').strip()}")
        return 0
    results: Path = options.out
    stored = {r["name"]: r for r in json.loads(results.read_text())} if results.is_file() else {}
    if options.markdown is not None:
        write_between_markers(options.markdown, markdown(ordered(stored)))
        return 0
    for name in options.only or ROWS:
        started = time.perf_counter()
        found = run(name)
        stored[name] = found.to_json()
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(ordered(stored), indent=1))
        print(f"{name}: {found.ratio:.2f} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
    print(markdown(ordered(stored)))
    unequal = [name for name in options.only or ROWS if not stored[name]["equal"]]
    for name in unequal:
        r = stored[name]
        print(f"NOT EQUAL: {name} differs by {r['max_abs_diff']}, tolerance {r['tolerance']}", file=sys.stderr)
    return 1 if unequal else 0


def ordered(stored: dict[str, dict]) -> list[dict]:
    """Stored rows in the order of the registry; rows that are no longer there are dropped."""
    return [stored[name] for name in ROWS if name in stored]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="NAME", help="run these rows only")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the stored table between the markers of FILE and stop"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows are stored")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
