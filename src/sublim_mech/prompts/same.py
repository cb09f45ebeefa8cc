"""Are two contexts one? They are where what is rendered in them is the same, token by token."""

from __future__ import annotations

from typing import Any

from .context import Context
from .notices import said_before
from .prompt import Prompt
from .rendering import render

_QUESTION = "Which?"


def is_one_context(tokenizer: Any, one: Context, other: Context) -> bool:
    """Whether a question is the same tokens in two contexts, with what stands around its answer: a
    system text that spells the chat template's own default, a blank that the template trims.

    False where one of them cannot be rendered with the tokenizer's template.
    """
    if one == other:
        return True
    if one.is_raw or other.is_raw:
        return False
    first, second = _rendered(tokenizer, one), _rendered(tokenizer, other)
    if first is None or second is None:
        return False
    return (first.ids, first.lead, first.close) == (second.ids, second.lead, second.close)


def _rendered(tokenizer: Any, context: Context) -> Prompt | None:
    """A question in a context, without a word to the user; None where it cannot be asked so."""
    with said_before():
        try:
            (prompt,) = render(tokenizer, [_QUESTION], context=context)
        except (TypeError, ValueError):
            return None
    return prompt
