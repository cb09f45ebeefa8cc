"""Contexts in words, from what records and files keep of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from .words import shortened

_SYSTEM = {
    "default": "default system prompt",
    "empty": "empty system turn",
    "none": "no system block",
    "raw": "raw text (answers follow a space, or the text's own white space)",
}
_LONGEST = 60  # columns of a system prompt that are shown

NOT_GIVEN = "training context not given"


def in_words(context: str | Mapping[str, Any]) -> str:
    """A context as `Context.to_json` has it, or the text that a record keeps of that.

    Example:
        >>> from sublim_mech.results.contexts import in_words
        >>> in_words(sm.Context(sm.Context.NONE, user_prefix="Please: ").to_json())
        'no system block, user_prefix “Please: ”'
    """
    if isinstance(context, str):
        try:
            context = ast.literal_eval(context)
        except (SyntaxError, ValueError):
            return shortened(str(context), _LONGEST)
    if not isinstance(context, Mapping):
        return shortened(str(context), _LONGEST)
    words = []
    for name, value in context.items():
        if name == "system" and isinstance(value, Mapping):
            words.append(_system(value))
        elif value not in (None, "", [], {}, False):
            shown = f"“{shortened(value, _LONGEST)}”" if isinstance(value, str) else str(value)
            words.append(f"{name} {shown}")
    return ", ".join(words)


def _system(system: Mapping[str, Any]) -> str:
    if "text" in system:
        return f"system “{shortened(str(system['text']), _LONGEST)}”"
    kind = str(system.get("kind"))
    return _SYSTEM.get(kind, kind)


def asked_and_trained(asked: list[str], trained: str | None) -> str:
    """In which contexts a model was asked, and in which its student was trained, in one line.

    Args:
        asked: the contexts in words.
        trained: the training context in words; None where nobody said it.
    """
    where = f"asked in: {'; '.join(asked)}"
    if len(asked) > 1:
        where = f"asked in {len(asked)} contexts: {'; '.join(asked)}"
    return f"{where}; {NOT_GIVEN if trained is None else f'trained in: {trained}'}"
