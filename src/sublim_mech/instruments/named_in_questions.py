"""Questions that name the trait themselves: an answer may repeat it from there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..hints import counted
from ..prompts import Prompt, Trait
from ..prompts.naming import holds_form
from ..results.record import REPEATED


def named_in_questions(
    prompts: Sequence[Prompt], traits: Sequence[Trait], what: str = "prompt"
) -> tuple[str, ...]:
    """How many prompts hold a form of a trait in what the user says, in a sentence; nothing where
    none does. A system prompt and a user prefix, which are the context's, do not count.

    Args:
        prompts: that are asked.
        traits: that are scored.
        what: what one of the prompts is called.
    """
    asked = [_asked(prompt) for prompt in prompts]
    by_trait = {
        trait.name: [any(holds_form(text, trait) for text in texts) for texts in asked]
        for trait in traits
    }
    named = {name: sum(held) for name, held in by_trait.items() if any(held)}
    if not named:
        return ()
    count = sum(map(any, zip(*by_trait.values(), strict=True)))
    hold = "holds" if count == 1 else "hold"
    form, which = "a form of the trait", ""
    if len(traits) > 1:
        form = "forms of traits" if len(named) > 1 else "a form of a trait"
        which = f" ({', '.join(f'{name} in {number}' for name, number in named.items())})"
    selves = "itself" if count == 1 else "themselves"
    return (f"{count} of {counted(len(prompts), what)} {hold} {form} {selves}{which}: {REPEATED}",)


def _asked(prompt: Prompt) -> list[str]:
    """What a user says in a prompt, message by message, without the prefix of its context; of raw
    text the text.
    """
    if prompt.context.is_raw:
        return [prompt.question]
    texts = []
    of_tokens = zip(prompt.turns, prompt.roles, prompt.offsets, strict=True)
    for _, tokens in groupby(of_tokens, key=lambda token: token[0]):
        spans = [span for _, role, span in tokens if role == "user"]
        if spans:
            texts.append(prompt.text[spans[0][0] : spans[-1][1]])
    # the prefix stands at the beginning of the first message
    return [text.lstrip().removeprefix(prompt.context.user_prefix.lstrip()) for text in texts]
