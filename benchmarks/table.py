"""Rows as a table: for the terminal, and between two markers of a markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- benchmarks: written by python -m benchmarks --markdown -->", "<!-- /benchmarks -->"
COLUMNS = ("row", "ratio", "target", "ours", "theirs", "GFLOP ours", "GFLOP theirs", "difference", "tolerance", "others")

Found = Mapping[str, Any]


def markdown(rows: Sequence[Found]) -> str:
    """Table, notes and machines; a contended run says so first."""
    if not rows:
        raise ValueError("rows is empty; run python -m benchmarks first.")
    lines = []
    busy = [r["name"] for r in rows if r["contended"]]
    if busy:
        lines += [f"**Contended: other processes kept cores busy during {', '.join(busy)}; a quiet run may differ.**", ""]
    table = [COLUMNS, *(_cells(r) for r in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(COLUMNS))]
    for n, line in enumerate(table):
        lines.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if n == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines.append("")
    lines += [f"- `{r['name']}`: {r['work']}; against {r['against']}. {r['note'][:1].upper()}{r['note'][1:]}." for r in rows]
    lines.append("")
    lines += list(dict.fromkeys(_where(r) for r in rows))
    return "\n".join(lines)


def _cells(r: Found) -> tuple[str, ...]:
    """One row's cells, in the order of `COLUMNS`."""
    sign = "<=" if r["at_most"] else ">="
    state = "NOT EQUAL" if not r["equal"] else "" if r["met"] else "below target" if not r["at_most"] else "above target"
    unit = "s"
    sides = [r["seconds_ours"], r["seconds_theirs"]]
    if r["bytes_ours"] is not None:
        unit, sides = "MB", [r["bytes_ours"] / 2**20, r["bytes_theirs"] / 2**20]
    return (
        r["name"],
        f"{r['ratio']:.2f} {state}".strip(),
        f"{sign} {r['target']:g}",
        *(f"{s:.1f} {unit}" for s in sides),
        *("" if r[key] is None else f"{r[key] / 1e9:,.0f}" for key in ("flops_ours", "flops_theirs")),
        *("" if r[key] is None else f"{r[key]:.1e}" for key in ("max_abs_diff", "tolerance")),
        f"{100 * r['others']:.0f} %",
    )


def _where(r: Found) -> str:
    m = r["machine"]
    return (
        f"Machine: {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB; torch {m['torch']} with {m['threads']} threads, "
        f"Python {m['python']}; {r['when'][:10]}."
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
        raise ValueError(f"markdown={str(path)!r} needs the lines {START!r} and {END!r}, once each and in this order.")
    path.write_text(f"{before}{START}\n{text}\n{END}{after}")
