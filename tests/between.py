"""What a script writes into a page, between two marks of it."""

from __future__ import annotations

from pathlib import Path


def write_between(file: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the marks of a page, in one step."""
    before, _, rest = file.read_text().partition(begin)
    work = file.with_suffix(".tmp")
    work.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
    work.replace(file)
