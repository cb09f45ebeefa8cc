"""Sets of tokens by name, as instruments take them; a name that says what is in it must be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..models.names import Module
from ..prompts import ANSWER, CLASSES, ROLES, UNIONS, Prompt
from ..prompts.blank import is_blank
from ..prompts.shared import HOW_TO_MARK
from .answer import AnswerMask
from .mask import Mask
from .tokens import ALL_TOKENS, Where, as_mask

AXES = (
    "model", "prompt", "direction", "layer", "head", "module", "position", "span", "set", "measure",
    "token", "role", "turn", "sharing", "band", "whose",
)  # fmt: skip
"""Axes and coordinates of scores."""

OF_TOKENS = {"role": ROLES, "sharing": (*UNIONS["sharing"], *CLASSES)}
"""Coordinates by which `graft` has sets of its own (`sets="role"`), and what masks of these are
called.
"""

_OF_SHARING = {name: (name,) for name in CLASSES} | UNIONS["sharing"]


def named_sets(
    sets: Mapping[str, Where], prompts: Sequence[Prompt], modules: Sequence[Module]
) -> dict[str, Mask]:
    """The masks of named sets.

    Args:
        sets: name -> what names the tokens.
        prompts: the prompts they are used on.
        modules: all modules of the model.

    Raises:
        ValueError: a blank name, one with white space around it, or that of an axis; a set that is
            scaled by 0; `answer`, `all prompt tokens` or a sharing class, of a set that is another
            one.
    """
    named = {name: as_mask(where, name) for name, where in sets.items()}
    for name, mask in named.items():
        check_name(name)
        if mask.scale == 0:
            raise ValueError(
                f"sets: {name!r} is scaled by 0, which neither opens nor closes a gate, so that "
                "its effect would be 0 whatever was learned; leave the set out."
            )
        is_answer = isinstance(mask, AnswerMask)
        if name == ANSWER and not is_answer:
            raise ValueError(
                f"sets: {name!r} is what the answer's own tokens are called in every table, and "
                "this set holds tokens of the prompt; give it another name, or pass "
                "masks.role('answer')."
            )
        if name in (ALL_TOKENS, *_OF_SHARING):
            for prompt in prompts:
                if is_answer or not _is_true(name, mask, prompt, modules):
                    _refuse_misnamed(name, prompt)
    return named


def check_name(name: str) -> None:
    """What no set can be called, whatever is in it.

    Raises:
        ValueError: a blank name, one with white space around it, or that of an axis.
    """
    if is_blank(name):
        raise ValueError(f"sets: the name {name!r} is blank; give the set a name.")
    if name != name.strip():
        raise ValueError(
            f"sets: the name {name!r} begins or ends with white space, which no table shows; "
            "leave it out."
        )
    if name in AXES:
        raise ValueError(
            f"sets: {name!r} is the name of an axis or a coordinate of scores; give the set "
            "another name."
        )


def _is_true(name: str, mask: Mask, prompt: Prompt, modules: Sequence[Module]) -> bool:
    """Whether a mask holds the tokens that tables call so."""
    chosen = [bool(cells.any()) for cells in mask(prompt, modules)]
    if name == ALL_TOKENS:
        return all(chosen)
    if prompt.sharing is None:
        return False
    return chosen == [class_ in _OF_SHARING[name] for class_ in prompt.sharing]


def _refuse_misnamed(name: str, prompt: Prompt) -> None:
    """Say that a set is not what its name says."""
    fix = "masks.everything()" if name == ALL_TOKENS else f"masks.sharing({name!r})"
    unmarked = ""
    if name != ALL_TOKENS and prompt.sharing is None:
        unmarked = f" (this prompt is not marked: {HOW_TO_MARK})"
    raise ValueError(
        f"sets: {name!r} is what tables call the tokens of {fix}, and this set holds others in the "
        f"prompt {prompt.question[:60]!r}{unmarked}; give it another name, or pass {fix}."
    )
