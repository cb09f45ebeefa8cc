"""The page of `qwen.py`: tables and figures of the stages that are finished."""

from __future__ import annotations

from pathlib import Path


def write_page(out: Path, page: Path) -> None:
    """Write the page."""
