"""Contexts that are to be compared are different prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import checked
from .context import Context
from .prompt import Prompt
from .rendering import render

_ASKED = "Which animal?"


@checked
def check_distinct(
    tokenizer: Any, contexts: Sequence[Context], *, template: str | None = None
) -> None:
    """Refuse contexts that give one prompt under two names.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        contexts: what is to be compared.
        template: a Jinja chat template to use instead of the tokenizer's.

    Raises:
        ValueError: two of the contexts render to the same ids; one cannot be rendered.

    Example:
        >>> from sublim_mech.prompts import check_distinct
        >>> check_distinct(tokenizer, [sm.Context(), sm.Context(sm.Context.NONE)])
    """
    names: dict[Context, int] = {}
    for number, context in enumerate(contexts):
        before = names.setdefault(context, number)
        if before != number:
            raise ValueError(
                f"contexts: {before} and {number} are one context, so there is nothing to compare; "
                "leave one of them out."
            )
    rendered = [
        render(tokenizer, [_ASKED], context=context, template=template) for context in contexts
    ]
    check_prompts(dict(enumerate(rendered)))


def check_prompts(asked: Mapping[Any, Sequence[Prompt]]) -> None:
    """Refuse prompts of two contexts that are the same prompts.

    Args:
        asked: the same questions, in the same order, each time in another context.

    Raises:
        ValueError: two of the contexts give the same ids.
    """
    seen: dict[Any, Context] = {}
    for prompts in asked.values():
        context = prompts[0].context
        other = seen.setdefault(tuple((prompt.ids, prompt.lead) for prompt in prompts), context)
        if other != context:
            raise ValueError(
                f"contexts: {other!r} and {context!r} are one prompt in this chat template, token "
                "for token, so there is nothing to compare; leave one of them out."
            )
