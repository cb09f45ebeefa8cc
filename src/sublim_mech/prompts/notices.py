"""Notices: what is said once per call, however many prompts and answers of the call it concerns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..hints import counted, outside

_Gathered = dict[str, dict[str, None]]  # kind -> texts, each once and in order

_GATHERED: ContextVar[_Gathered | None] = ContextVar("notices", default=None)


def notice(kind: str, text: str) -> None:
    """Say something to the user: at once, or at the end of the `said_once` around the caller.

    Args:
        kind: what they are about, in words; of several notices of one kind the first is said, with
            the number of the others.
        text: what is said, a sentence with its full stop.
    """
    gathered = _GATHERED.get()
    if gathered is None:
        warnings.warn(text, UserWarning, stacklevel=outside())  # who called what tells
    else:
        gathered.setdefault(kind, {})[text] = None


@contextmanager
def said_once() -> Iterator[None]:
    """Gather the notices of what runs within, and say one of each kind at its end.

    Serves as a decorator too. Within another one, the outer speaks.
    """
    if _GATHERED.get() is not None:
        yield
        return
    gathered: _Gathered = {}
    token = _GATHERED.set(gathered)
    try:
        yield
    finally:
        _GATHERED.reset(token)
        for kind, (first, *others) in gathered.items():
            more = f" ({counted(len(others), 'more notice')} on {kind}.)" if others else ""
            warnings.warn(f"{first}{more}", UserWarning, stacklevel=outside())


@contextmanager
def said_before() -> Iterator[None]:
    """Drop the notices of what runs within, where it repeats what its caller has done already.

    Serves as a decorator too.
    """
    token = _GATHERED.set({})
    try:
        yield
    finally:
        _GATHERED.reset(token)
