"""Masks of tokens by position, role, turn and sharing; and whatever else names tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..arguments import checked
from ..hints import counted
from ..prompts import ANSWER, CLASSES, ROLES, UNIONS, Prompt
from ..prompts.shared import HOW_TO_MARK
from .answer import answer_mask
from .mask import Mask, mask_of_tokens, whole_number

Where = Mask | Callable[[Prompt], Sequence[int]] | Sequence[int]
"""What names tokens (see `as_mask`): a mask, a function from a prompt to positions, positions."""

ALL_TOKENS = next(iter(UNIONS["role"]))
"""What `by_role` calls the set of everything."""

_CLASSES_NAMED = {name: (name,) for name in CLASSES} | UNIONS["sharing"]


@checked
def everything() -> Mask:
    """Every token in every module.

    Example:
        >>> (sm.masks.everything() & ~sm.masks.role("system")).name
        'everything & not system'
    """
    return Mask("everything", lambda prompt, modules: np.ones((1, 1), dtype=bool))


@checked
def positions(*numbers: int) -> Mask:
    """The tokens at these positions.

    Args:
        numbers: positions from 0; negative ones count from the end of the prompt.

    Raises:
        TypeError: a position is not a whole number.
        ValueError: none is given; when applied, one lies outside the prompt.

    Example:
        >>> sm.masks.positions(0, -1).tokens(prompts[0]) == [0, len(prompts[0]) - 1]
        True
    """
    if not numbers:
        raise ValueError("positions() is empty; give at least one position, positions(0, -1).")
    wanted = [int(number) for number in numbers]
    return mask_of_tokens(_counted("position", wanted), lambda prompt: wanted)


@checked
def role(*roles: str) -> Mask:
    """The tokens with one of these roles; none in a prompt that has no such token.

    Args:
        roles: `bos`, `template`, `system`, `user`, `assistant`; `text` of raw text; or `answer`
            alone, the answer's own tokens, which follow the prompt: a set that only `graft` takes,
            and that combines with masks of modules only (`masks.role("answer") &
            masks.layers(range(10))`).

    Raises:
        ValueError: no role is given, one that prompts do not have, or `answer` among others.

    Example:
        >>> mask = sm.masks.role("user")
        >>> prompts[0].tokens[mask.tokens(prompts[0])[0]]
        'Name'
    """
    _check_names("role", roles, ROLES)
    if ANSWER in roles:
        return _answer_alone("role", roles)
    return mask_of_tokens(
        " | ".join(roles),
        lambda prompt: [i for i, token_role in enumerate(prompt.roles) if token_role in roles],
    )


@checked
def turn(*turns: int) -> Mask:
    """The tokens of these turns, with the template tokens that open and close them.

    Args:
        turns: turns from 0 (the system's, where there is one); negative ones count from the end, -1
            is the answer that is asked for.

    Raises:
        TypeError: a turn is not a whole number.
        ValueError: none is given; when applied, the prompt has fewer turns.

    Example:
        >>> [prompts[0].tokens[t] for t in sm.masks.turn(-1).tokens(prompts[0])][:3]
        ['<|im_start|>', 'ass', 'istant']
    """
    if not turns:
        raise ValueError("turn() is empty; give at least one turn, turn(0).")
    wanted = [int(number) for number in turns]

    def inside(prompt: Prompt) -> list[int]:
        count = max(prompt.turns) + 1
        if any(not -count <= number < count for number in wanted):
            raise ValueError(
                f"turn({', '.join(map(str, wanted))}): the prompt {prompt.question!r} has "
                f"{counted(count, 'turn')}; give 0 to {count - 1}, or -{count} to -1 from the end."
            )
        from_start = {number % count for number in wanted}
        return [i for i, number in enumerate(prompt.turns) if number in from_start]

    return mask_of_tokens(_counted("turn", wanted), inside)


@checked
def sharing(*classes: str) -> Mask:
    """The tokens by what training shares with them; prompts must be marked (`mark_sharing`).

    Args:
        classes: `prefix`, `aligned`, `seen`, `novel`, `shared` (prefix or aligned) or `not shared`;
            or `answer` alone, as in `role`.

    Raises:
        ValueError: no class is given, an unknown one, or `answer` among others; when applied, the
            prompt is not marked.

    Example:
        >>> late = sm.masks.sharing("aligned")
        >>> prompts[0].tokens[late.tokens(prompts[0])[-2]]
        'istant'
    """
    _check_names("sharing", classes, [*_CLASSES_NAMED, ANSWER])
    if ANSWER in classes:
        return _answer_alone("sharing", classes)
    wanted = {class_ for name in classes for class_ in _CLASSES_NAMED[name]}

    def inside(prompt: Prompt) -> list[int]:
        if prompt.sharing is None:
            raise ValueError(
                f"prompts: {prompt.question!r} is not marked by what training shares with it; "
                f"{HOW_TO_MARK}."
            )
        return [i for i, class_ in enumerate(prompt.sharing) if class_ in wanted]

    return mask_of_tokens(" | ".join(classes), inside)


@checked
def as_mask(where: Where, name: str) -> Mask:
    """A mask from whatever names tokens.

    Args:
        where: a mask, which is returned as it is; or token positions, or a function from a prompt
            to them (negative ones count from the end).
        name: the name of a mask made from positions.

    Raises:
        TypeError: it is none of these, or a position is not a whole number; when applied, the
            function takes no prompt, or gives something else than positions.
        ValueError: when applied, a position lies outside the prompt.

    Example:
        >>> last_three = sm.masks.as_mask(lambda prompt: range(-3, 0), "the last three")
        >>> len(last_three.tokens(prompts[0]))
        3
    """
    if isinstance(where, Mask):
        return where
    if callable(where):
        return mask_of_tokens(name, where)
    # the caller's list may change afterwards
    fixed = tuple(whole_number(position, repr(name)) for position in where)
    return mask_of_tokens(name, lambda prompt: fixed)


# -------------------------------------------------------------------------- sets that cover prompts


@checked
def by_role(prompts: Sequence[Prompt], *, answer: bool = False) -> dict[str, Mask]:
    """A mask for each role that occurs in the prompts, and one of all prompt tokens.

    Args:
        prompts: the prompts.
        answer: whether the answer's own tokens are a set as well.

    Example:
        >>> list(sm.masks.by_role(prompts))
        ['template', 'system', 'user', 'all prompt tokens']
    """
    present = {token_role for prompt in prompts for token_role in prompt.roles}
    sets: dict[str, Mask] = {name: role(name) for name in ROLES if name in present}
    if answer:
        sets[ANSWER] = answer_mask()
    return sets | {ALL_TOKENS: everything()}


@checked
def by_sharing(prompts: Sequence[Prompt], *, answer: bool = False) -> dict[str, Mask]:
    """A mask for each sharing class that occurs in the prompts, and `shared` and `not shared`.

    What occurs in none of them is left out. A prompt that is not marked counts as having all
    classes: its masks say so when applied.

    Args:
        prompts: the prompts.
        answer: whether the answer's own tokens are a set as well.

    Example:
        >>> list(sm.masks.by_sharing(prompts))
        ['prefix', 'aligned', 'seen', 'novel', 'shared', 'not shared']
    """
    present = {class_ for prompt in prompts for class_ in prompt.sharing or CLASSES}
    sets = {name: sharing(name) for name in CLASSES if name in present}
    if answer:
        sets[ANSWER] = answer_mask()
    unions = UNIONS["sharing"].items()
    return sets | {name: sharing(name) for name, classes in unions if present & set(classes)}


def _answer_alone(function: str, names: Sequence[str]) -> Mask:
    """The mask of the answer; refused beside other names, for a set is the prompt's or its own."""
    if set(names) != {ANSWER}:
        raise ValueError(
            f"{function}({', '.join(map(repr, names))}): the answer's own tokens are none of the "
            f"prompt's; give {function}('answer') alone. Who computes the answer while a set of "
            "prompt tokens is tested is said by answer_in_sufficiency=True and "
            "answer_in_necessity=False of graft."
        )
    return answer_mask()


def _counted(noun: str, numbers: Sequence[int]) -> str:
    """`turn 0`, `turns 0, 1`."""
    plural = "s" if len(numbers) > 1 else ""
    return f"{noun}{plural} {', '.join(map(str, numbers))}"


def _check_names(function: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse no names, and unknown ones."""
    if not names:
        raise ValueError(f"{function}() is empty; give at least one of {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ValueError(f"{function}({name!r}) is not known; choose among {', '.join(known)}.")
