"""Options that are named wrongly are errors, with the nearest names that exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'a' or 'b'?"`, or nothing where no name is near.

    Example:
        >>> from sublim_mech.hints import nearest
        >>> nearest("atention", ["attention", "mlp"])
        "; did you mean 'attention'?"
    """
    near_names = get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near_names:
        return ""
    return f"; did you mean {' or '.join(map(repr, near_names))}?"


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: it is none of them; says all and the nearest.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{argument}={value!r} is none of {', '.join(choices)}{nearest(str(value), choices)}"
        )


def strict(function: Callable[P, R], name: str = "") -> Callable[P, R]:
    """The same function; an unknown keyword is a TypeError that offers the nearest ones.

    Args:
        function: takes options by keyword.
        name: what errors call it; its own name when not given.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.name != "self"]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in kwargs:
            if key not in known:
                called = name or getattr(function, "__name__", "")
                raise TypeError(
                    f"{called} has no option {key!r}{nearest(key, known) or '.'} "
                    f"Its options are {', '.join(known)}."
                )
        return function(*args, **kwargs)

    return checked
