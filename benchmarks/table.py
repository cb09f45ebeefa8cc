"""Rows as a table: for the terminal, and between two markers of a markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START = "<!-- benchmarks: written by python -m benchmarks --markdown -->"
END = "<!-- /benchmarks -->"
COLUMNS = (
    "row",
    "ratio",
    "target",
    "ours",
    "theirs",
    "GFLOP ours",
    "GFLOP theirs",
    "difference",
    "tolerance",
    "others",
)

Stored = Mapping[str, Any]
"""What `Row.to_json` gives."""


def markdown(rows: Sequence[Stored]) -> str:
    """Table, notes and machines; a contended run says so first."""
    if not rows:
        raise ValueError("rows is empty; run python -m benchmarks first.")
    lines = []
    busy = ", ".join(row["name"] for row in rows if row["contended"])
    if busy:
        warning = f"Contended: other processes kept cores busy during {busy}"
        lines += [f"**{warning}; a quiet run may differ.**", ""]

    table = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    header, *body = [_line(cells, widths) for cells in table]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    lines += [header, rule, *body, ""]

    lines += [_note(row) for row in rows]
    lines.append("")
    lines += list(dict.fromkeys(_where(row) for row in rows))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join(padded) + " |"


def _cells(row: Stored) -> tuple[str, ...]:
    """One row's cells, in the order of `COLUMNS`."""
    sign = "<=" if row["at_most"] else ">="
    if row["bytes_ours"] is None:
        sides = [f"{row[key]:.1f} s" for key in ("seconds_ours", "seconds_theirs")]
    else:
        sides = [f"{row[key] / 2**20:.1f} MB" for key in ("bytes_ours", "bytes_theirs")]
    flops = [_number(row[key], 1e-9, ",.0f") for key in ("flops_ours", "flops_theirs")]
    errors = [_number(row[key], 1, ".1e") for key in ("max_abs_diff", "tolerance")]
    return (
        row["name"],
        f"{row['ratio']:.2f} {_state(row)}".strip(),
        f"{sign} {row['target']:g}",
        *sides,
        *flops,
        *errors,
        f"{100 * row['others']:.0f} %",
    )


def _state(row: Stored) -> str:
    """What a ratio needs to have said beside it."""
    if not row["equal"]:
        return "NOT EQUAL"
    if row["met"]:
        return ""
    return "above target" if row["at_most"] else "below target"


def _number(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(scale * value, form)


def _note(row: Stored) -> str:
    note = row["note"]
    return (
        f"- `{row['name']}`: {row['work']}; against {row['against']}. {note[:1].upper()}{note[1:]}."
    )


def _where(row: Stored) -> str:
    machine = row["machine"]
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
        f"torch {machine['torch']} with {machine['threads']} threads, "
        f"Python {machine['python']}; {row['when'][:10]}."
    )


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the two markers of a file.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    whole = path.read_text()
    before, start, rest = whole.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in after:
        raise ValueError(
            f"markdown={str(path)!r} needs the lines {START!r} and {END!r}, once each and in this "
            "order."
        )
    path.write_text(f"{before}{START}\n{text}\n{END}{after}")
