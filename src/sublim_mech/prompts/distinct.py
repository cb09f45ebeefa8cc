"""Contexts that are to be compared are different prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import checked
from .context import Context
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
    seen: dict[tuple[tuple[int, ...], str], Context] = {}
    for context in dict.fromkeys(contexts):
        (prompt,) = render(tokenizer, [_ASKED], context=context, template=template)
        other = seen.setdefault((prompt.ids, prompt.lead), context)
        if other is not context:
            raise ValueError(
                f"contexts: {other!r} and {context!r} are one prompt in this chat template, token "
                "for token, so there is nothing to compare; leave one of them out."
            )
