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
    seen: dict[Any, tuple[Any, Context]] = {}
    for name, prompts in asked.items():
        context, ids = prompts[0].context, tuple((prompt.ids, prompt.lead) for prompt in prompts)
        if ids not in seen:
            seen[ids] = name, context
            continue
        before, other = seen[ids]
        if other == context:
            raise ValueError(
                f"contexts: {before!r} and {name!r} are one context, so there is nothing to "
                "compare; leave one of them out."
            )
        raise ValueError(
            f"contexts: {other!r} and {context!r} are one prompt in this chat template, token "
            "for token, so there is nothing to compare; leave one of them out."
        )
