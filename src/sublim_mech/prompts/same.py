"""Are two contexts one? They are where what is rendered in them is the same, token by token.

Of given prompts that is asked with their own questions: what one context adds to a question may
stand in the question itself in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .context import Context
from .notices import said_before
from .prompt import Prompt
from .rendering import render
from .shared import user_messages

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
    return not _differ(first, second)


def are_asked_in(tokenizer: Any, prompts: Sequence[Prompt], context: Context) -> bool:
    """Whether single questions are, token by token, what another context makes of their own words,
    as where its user prefix was typed into each.

    False where one of them cannot be rendered in that context, or has words of its own context that
    would be a part of the question there: nobody says that training's questions had them.

    Args:
        tokenizer: that renders.
        prompts: in whatever context, by one chat template each.
        context: the other one; of raw text none is.
    """
    if context.is_raw:
        return False
    for template in dict.fromkeys(prompt.template for prompt in prompts):
        some = [prompt for prompt in prompts if prompt.template == template]
        around = _around(asked_in(tokenizer, context, template))
        if around is None:
            return False
        questions = [_between(prompt, *around) for prompt in some]
        if not all(question.strip() for question in questions):
            return False
        with said_before():
            try:
                there = render(tokenizer, questions, context=context, template=template or None)
            except (TypeError, ValueError):
                return False
        if any(map(_differ, some, there)):
            return False
    return True


def _around(prompt: Prompt | None) -> tuple[str, str] | None:
    """What stands before and behind the question of `asked_in`."""
    if prompt is None:
        return None
    of_user = [end for (_, end), role in zip(prompt.offsets, prompt.roles, strict=True)
               if role == "user"]  # fmt: skip
    start = prompt.text.rfind(_QUESTION, 0, max(of_user, default=0))
    return None if start < 0 else (prompt.text[:start], prompt.text[start + len(_QUESTION) :])


def _between(prompt: Prompt, before: str, after: str) -> str:
    """What a prompt asks between two texts; nothing where it does not stand there, is the last of
    several questions, or is not what was given as the question.
    """
    whole = prompt.text.startswith(before) and prompt.text.endswith(after)
    if not whole or user_messages(prompt) != 1:
        return ""
    found = prompt.text[len(before) : len(prompt.text) - len(after)]
    return found if prompt.question.rstrip().endswith(found.strip()) else ""


def _differ(one: Prompt, other: Prompt) -> bool:
    return (one.ids, one.lead, one.close) != (other.ids, other.lead, other.close)


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
