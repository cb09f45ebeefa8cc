"""Prompts that name the trait themselves: an answer may repeat it from there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..hints import counted
from ..prompts import Prompt, Trait
from ..prompts.naming import Named, holds_form
from ..results.record import REPEATED


def named_in_questions(
    prompts: Sequence[Prompt], scored: Sequence[Named], what: str = "prompt"
) -> tuple[str, ...]:
    """How many prompts hold a form of what is scored in what user and assistant say, in a sentence;
    nothing where none does. What is the context's does not count: a system prompt, a user prefix, a
    prefill.

    Args:
        prompts: that are asked.
        scored: the traits, or the texts of a metric that is of no trait.
        what: what one of the prompts is called.
    """
    said = [_said(prompt) for prompt in prompts]
    by_trait = {
        one.name: [any(holds_form(text, one) for text in texts) for texts in said] for one in scored
    }
    named = {name: sum(held) for name, held in by_trait.items() if any(held)}
    if not named:
        return ()
    count = sum(map(any, zip(*by_trait.values(), strict=True)))
    hold = "holds" if count == 1 else "hold"
    of_traits = isinstance(scored[0], Trait)
    form, which = "a form of the trait" if of_traits else "the text that is scored", ""
    if len(scored) > 1:
        form = "a form of a trait" if of_traits else "a text that is scored"
        if len(named) > 1:
            form = "forms of traits" if of_traits else "texts that are scored"
        which = f" ({', '.join(f'{name} in {number}' for name, number in named.items())})"
    selves = "itself" if count == 1 else "themselves"
    return (f"{count} of {counted(len(prompts), what)} {hold} {form} {selves}{which}: {REPEATED}",)


def _said(prompt: Prompt) -> list[str]:
    """What user and assistant say in a prompt, message by message, without what its context adds;
    of raw text the text.
    """
    if prompt.context.is_raw:
        return [prompt.question]
    prefix = prompt.context.user_prefix.lstrip()
    texts = []
    of_tokens = zip(prompt.turns, prompt.roles, prompt.offsets, strict=True)
    for _, tokens in groupby(of_tokens, key=lambda token: token[0]):
        spans: dict[str, list[tuple[int, int]]] = {}
        for _, role, span in tokens:
            spans.setdefault(role, []).append(span)
        for role in ("user", "assistant"):
            if role in spans:
                text = prompt.text[spans[role][0][0] : spans[role][-1][1]]
                # the prefix stands at the beginning of the first message
                texts.append(text.lstrip().removeprefix(prefix) if role == "user" else text)
    # an answer that the context begins is the last thing said
    return texts[:-1] if prompt.context.prefill and prompt.begun else texts
