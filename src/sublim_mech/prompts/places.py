"""Token positions that a function of the user's gives for a prompt."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import answer_of, refuse_answer, shown
from ..hints import counted
from .prompt import Prompt


def positions_of(argument: str, rule: Callable[[Prompt], Any], prompt: Prompt) -> list[int]:
    """The positions that a function gives, checked; negative ones count from the prompt's end.

    Args:
        argument: how errors call the function.
        rule: from a prompt to positions, in any order.
        prompt: the prompt.

    Raises:
        TypeError: it does not take a prompt, or gives something else than positions.
        ValueError: a position lies outside the prompt.
    """
    given = answer_of(argument, rule, prompt)
    positions = _whole_numbers(given)
    if positions is None:
        of = f"the prompt {prompt.question[:60]!r}"
        refuse_answer(argument, rule, given, of=of, wanted=_wanted(given))
    length = len(prompt)
    if any(not -length <= position < length for position in positions):
        raise ValueError(
            f"{argument} gives positions {positions} for a prompt of {counted(length, 'token')}; "
            f"give 0 to {length - 1}, or -{length} to -1 from the end."
        )
    return positions


def _whole_numbers(given: Any) -> list[int] | None:
    """What was given as a list of whole numbers; None where it is no such thing.

    True and False are none: a list of them is no list of positions.
    """
    elements = _elements(given)
    if elements is None:
        return None
    numbers = []
    for one in elements:
        if _is_truth(one):
            return None
        try:
            numbers.append(operator.index(one))
        except TypeError:
            return None
    return numbers


def _elements(given: Any) -> list[Any] | None:
    """What a container holds; None of what is no container of its elements."""
    if isinstance(given, str | bytes | Mapping):
        return None
    try:
        return list(given)
    except TypeError:  # such as an array of no dimension, whose class has elements
        return None


def _is_truth(given: Any) -> bool:
    """Whether it is True or False, of Python, numpy or torch, which all pass for 1 and 0."""
    return isinstance(given, bool) or str(getattr(given, "dtype", "")).endswith("bool")


def _wanted(given: Any) -> str:
    """What a function has to give in place of this."""
    wanted = "a list of token positions, whole numbers"
    if callable(getattr(given, "tokens", None)):  # a mask
        return f"{wanted}; a mask is passed itself, without a function around it"
    if isinstance(given, bool):
        return f"{wanted}, those of the tokens that are meant"
    try:
        return f"{wanted}; one alone is a list too: [{operator.index(given)}]"
    except TypeError:
        pass
    elements = _elements(given) or []
    if elements and all(map(_is_truth, elements)):
        return f"{wanted}; of a list of True and False: np.flatnonzero(...)"
    wrong = [one for one in elements if _whole_numbers([one]) is None]
    return f"{wanted}, and {shown(wrong[0])} is none" if wrong else wanted
