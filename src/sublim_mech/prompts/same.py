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
    first, second = asked_in(tokenizer, one), asked_in(tokenizer, other)
    if first is None or second is None:
        return False
    return (first.ids, first.lead, first.close) == (second.ids, second.lead, second.close)


def asked_in(tokenizer: Any, context: Context, template: str = "") -> Prompt | None:
    """A question in a context, without a word to the user; None where it cannot be asked so.

    Args:
        tokenizer: that renders.
        context: of the question.
        template: the chat template; the tokenizer's own when empty.
    """
    by = None if context.is_raw else template or None
    with said_before():
        try:
            (prompt,) = render(tokenizer, [_QUESTION], context=context, template=by)
        except (TypeError, ValueError):
            return None
    return prompt
