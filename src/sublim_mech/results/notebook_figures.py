"""Figures that a notebook shows by themselves, once, at the end of their cell at the latest."""

from __future__ import annotations

import io
import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself.

    A plain one is shown only after `%matplotlib inline`.
    """

    def _ipython_display_(self) -> None:
        _show(self)


class NotebookAxes(Axes):
    """Axes whose figure a notebook shows by itself."""

    def _ipython_display_(self) -> None:
        _show(self.figure.figure)


_waiting: list[Figure] = []
"""Figures drawn in the cell that is running and not shown yet; empty outside notebooks."""


def show_after_cell(figure: Figure) -> None:
    """Have a notebook show a figure when its cell has run, if that has not happened by then."""
    shell = _notebook()
    if shell is None:
        return
    if _show_waiting not in shell.events.callbacks["post_execute"]:
        shell.events.register("post_execute", _show_waiting)
    _waiting.append(figure)


def _show_waiting() -> None:
    """What runs once, when the cell has run."""
    _notebook().events.unregister("post_execute", _show_waiting)
    while _waiting:
        _display(_waiting.pop(0))


def _show(figure: Any) -> None:
    """Show a figure now, after those that were drawn before it."""
    if _notebook() is None:
        raise NotImplementedError  # a terminal then prints what it is
    while figure in _waiting:
        first = _waiting.pop(0)
        if first is figure:
            break
        _display(first)
    _display(figure)


def _notebook() -> Any:
    """The shell of a notebook; None in a script and in a terminal."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _display(figure: Figure) -> None:
    shown = sys.modules["IPython"].display
    shown.display(shown.Image(encoded(figure, "png")))


def encoded(figure: Figure, form: str) -> bytes:
    """A figure as the bytes of a file of some format."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120)
    return buffer.getvalue()
