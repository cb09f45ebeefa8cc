"""Contexts in words, from what records and files keep of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from ..storage.compare import differences
from .words import shortened

_SYSTEM = {
    "default": "default system prompt",
    "empty": "empty system turn",
    "none": "no system block",
    "raw": "raw text (answers follow a space, or the text's own white space)",
}
_LONGEST = 60  # columns of a system prompt that are shown

BESIDE = ("options", "date", "prefill", "bos")
"""What a context says beside system prompt, user prefix and fallback, where it is not as usual."""

NOT_GIVEN = "training context not given"


def in_words(context: str | Mapping[str, Any]) -> str:
    """A context as `Context.to_json` has it, or the text that a record keeps of that.

    Example:
        >>> from sublim_mech.results.contexts import in_words
        >>> in_words(sm.Context(sm.Context.NONE, user_prefix="Please: ").to_json())
        'no system block, user_prefix “Please: ”'
        >>> in_words(sm.Context(options={"enable_thinking": False}, date="2024-12-31").to_json())
        'default system prompt, enable_thinking=False, date 2024-12-31'
    """
    read = _read(context)
    if read is None:
        return shortened(str(context), _LONGEST)
    words = []
    for name, value in read.items():
        if name == "system" and isinstance(value, Mapping):
            words.append(_system(value))
        elif name in BESIDE and value is not None:
            words.append(told(name, value))
        elif value not in (None, "", [], {}, False):
            shown = f"“{shortened(value, _LONGEST)}”" if isinstance(value, str) else str(value)
            words.append(f"{name} {shown}")
    return ", ".join(words)


def told(name: str, value: Any) -> str:
    """One of the fields `BESIDE` in words."""
    if name == "options" and isinstance(value, Mapping):
        return ", ".join(
            f"{key}={shortened(repr(given), _LONGEST)}" for key, given in value.items()
        )
    if name == "bos" and isinstance(value, bool):
        return "with BOS" if value else "without BOS"
    if name == "date":
        return f"date {value}"
    return f"{name} “{shortened(str(value), _LONGEST)}”"


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


def otherwise(
    asked: Iterable[str | Mapping[str, Any]], trained: str | Mapping[str, Any] | None
) -> list[str]:
    """That a model was asked with other variables of the template, on another day, or with another
    beginning of the answer or of the text than its student was trained with, in a line; nothing
    where it was not, or nobody said how it was trained.

    Args:
        asked: the contexts, as JSON or as the text that a record keeps of that.
        trained: the training context, likewise.
    """
    there = None if trained is None else _read(trained)
    if there is None:
        return []
    lines: dict[str, None] = {}
    for context in asked:
        here = _read(context)
        if here is None or "raw" in (_kind(here), _kind(there)):
            continue
        sides = "in training", "here"
        lines |= dict.fromkeys(differences(_beside(there), _beside(here), sides=sides))
        # it stands only where the template tells it
        if here.get("date", there.get("date")) != there.get("date", here.get("date")):
            lines[f"date: {there['date']} in training, {here['date']} here"] = None
    return [f"asked otherwise than trained: {'; '.join(lines)}"] if lines else []


def _read(context: str | Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A context as JSON; None where a text is none."""
    if isinstance(context, str):
        try:
            context = ast.literal_eval(context)
        except (SyntaxError, ValueError):
            return None
    return context if isinstance(context, Mapping) else None


def _beside(context: Mapping[str, Any]) -> dict[str, Any]:
    """Options, prefill and BOS, those that are as usual too."""
    usual: dict[str, Any] = {"options": {}, "prefill": "", "bos": None}
    return {name: context.get(name, value) for name, value in usual.items()}


def _kind(context: Mapping[str, Any]) -> str:
    return str(context.get("system", {}).get("kind"))


def _system(system: Mapping[str, Any]) -> str:
    if "text" in system:
        return f"system “{shortened(str(system['text']), _LONGEST)}”"
    kind = str(system.get("kind"))
    return _SYSTEM.get(kind, kind)
