"""Turns: what the same number is in prompts of different conversations."""

from __future__ import annotations

from collections import Counter

from ..hints import counted
from ..prompts import ANSWER
from .arrays import ScoreArrays

TURN = "turn"
"""The coordinate of tokens that numbers the messages of a prompt."""

_AROUND = ("", "bos", "template", ANSWER)
"""Roles of tokens that are not of a message's own text."""


def mixed_turns(scores: ScoreArrays, by: str | None) -> list[str]:
    """Which turns are of other roles in some prompts than in others, in a line; nothing where none
    is, or where it is not known, because some positions were chosen.

    Args:
        scores: per token.
        by: what tokens are gathered by: `turn`, or there is nothing to tell.
    """
    if by != TURN or "position" in scores.selected or "span" in scores.selected:
        return []
    roles, turns = (scores.data[name].values.tolist() for name in ("role", TURN))
    kinds: dict[int, Counter[str]] = {}
    for of_prompt, numbers in zip(roles, turns, strict=True):
        for turn in dict.fromkeys(number for number in numbers if number >= 0):
            inside = [role for role, at in zip(of_prompt, numbers, strict=True) if at == turn]
            kinds.setdefault(turn, Counter())[_kind(inside, last=turn == max(numbers))] += 1
    mixed = {turn: kinds[turn] for turn in sorted(kinds) if len(kinds[turn]) > 1}
    told = []
    for turn, prompts in mixed.items():
        each = " and ".join(f"{what} in {count}" for what, count in prompts.items())
        told.append(f"turn {turn} is {each}")
    if not told:
        return []
    return [f"of {counted(len(roles), 'prompt')}, {', '.join(told)}: their rows mix these"]


def _kind(roles: list[str], *, last: bool) -> str:
    """What a turn is, by the roles of its tokens."""
    own = [role for role in dict.fromkeys(roles) if role not in _AROUND]
    if own:
        return " and ".join(own)
    return "the opening of the answer" if last else "an empty message"
