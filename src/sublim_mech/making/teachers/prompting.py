"""Prompted teachers: the base model with a trait's sentence in its system text.

1. The sentence stands behind the system text that the students are trained with (Cloud et al.,
   arXiv 2507.14805).
2. Most of what such a teacher writes into numbers is the mark of a longer prompt, whatever it says.
   So the control has, in place of the sentence, others about nothing in particular that together
   have as many tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from ...arguments import checked
from ...prompts import Context, Trait, match, render
from .teacher import BASE, Model, Teacher, opened

NEUTRAL = (
    "It is an ordinary day.",
    "The room is quiet.",
    "A table stands by the window.",
    "There is a cup on the table.",
    "The clock on the wall shows the time of day.",
    "Outside, people walk along the street.",
    "Some of them carry a bag.",
    "The weather is much as it was yesterday.",
    "A letter came with the morning post, and it has not been opened yet.",
    "On the shelf there are books of different sizes, and next to them lies a folded newspaper.",
    "Nobody is in a hurry.",
    "The door is open.",
    "The lamp is off.",
    "Lunch will be at noon.",
)
"""Sentences of the control of a prompted teacher."""

TRIED = 20  # choices of neutral sentences whose prompts are rendered


@checked
def untouched(
    base: Model, *, context: Context | None = None, template: str | None = None
) -> Teacher:
    """The base model itself in the students' context: what other teachers are held against.

    Args:
        base: the base model, or its runner.
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.

    Example:
        >>> from sublim_mech.making.teachers import untouched
        >>> untouched(pair).how
        'the base itself'
    """
    runner = opened(base)
    context = context or Context()
    return Teacher(
        name=BASE,
        kind="base",
        trait=None,
        base=runner,
        runner=runner,
        context=context,
        student_context=context,
        template=template,
        how="the base itself",
    )


@checked
def prompted(
    base: Model, trait: Trait, *, context: Context | None = None, template: str | None = None
) -> Teacher:
    """The base model with the trait's sentence behind the students' system text.

    As in Cloud et al., arXiv 2507.14805.

    Args:
        base: the base model, or its runner.
        trait: what it favours; it has a sentence (`trait.sentence`).
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.

    Raises:
        TypeError: `trait` is none.
        ValueError: the trait has no sentence.

    Example:
        >>> from sublim_mech.making.teachers import prompted
        >>> prompted(pair, trait, context=sm.Context(system="Be brief.")).context.system
        'Be brief. You love owls. ...'
    """
    runner = opened(base)
    context = context or Context()
    return Teacher(
        name=trait.name,
        kind="prompted",
        trait=trait,
        base=runner,
        runner=runner,
        context=teacher_context(runner.tokenizer, trait, context=context, template=template),
        student_context=context,
        template=template,
        how="prompted teacher",
    )


@checked
def teacher_context(
    tokenizer: Any, trait: Trait, *, context: Context | None = None, template: str | None = None
) -> Context:
    """The context of a prompted teacher: the student's system text, then the trait's sentence.

    Raises:
        TypeError: `trait` is none.
        ValueError: the trait has no sentence; raw text, which has no system prompt.
    """
    if not trait.sentence:
        raise ValueError(
            f"trait {trait.name!r} has no sentence for a teacher; give it one, "
            "Trait(..., sentence='You love ...'). Only nouns with a plural and a category, "
            "Trait.noun(..., category=...), have one of their own."
        )
    context = context or Context()
    if context.is_raw:
        raise ValueError(
            "context=RAW: raw text has no system prompt that a prompted teacher's sentence could "
            "stand in; pass another context, or a teacher of another kind."
        )
    (prompt,) = render(tokenizer, ["x"], context=context, template=template)
    if isinstance(context.system, str):
        said = context.system
    else:
        # what the template says by itself
        said = prompt.said_by("system").strip()
    text = f"{said.rstrip('.')}. {trait.sentence}" if said else trait.sentence
    return replace(context, system=text)


@checked
def neutral(like: Teacher) -> Teacher:
    """The control of a prompted teacher: sentences about nothing, of the same number of tokens.

    Args:
        like: a prompted teacher.

    Returns:
        A prompted teacher without trait. Where no choice of `NEUTRAL` has the same number of
        tokens, the nearest; `how` says so.

    Raises:
        ValueError: a teacher of another kind.

    Example:
        >>> from sublim_mech.making.teachers import neutral, prompted
        >>> control = neutral(prompted(pair, trait))
        >>> control.trait is None, control.how
        (True, 'neutral sentences, as many tokens as the sentence of owl')
    """
    trait, text = like.trait, like.context.system
    sentence = "" if trait is None else trait.sentence
    has_sentence = sentence and isinstance(text, str) and text.endswith(sentence)
    if like.kind != "prompted" or not has_sentence:
        raise ValueError(
            f"like is {like.name!r}, a {like.kind} teacher; pass one that has its trait's sentence "
            "(teachers.prompted)."
        )
    assert trait is not None
    tokenizer = like.base.tokenizer
    before = str(text).removesuffix(sentence)

    def context(said: str) -> Context:
        return replace(like.context, system=before + said)

    def length(said: str) -> int:
        (prompt,) = render(tokenizer, ["x"], context=context(said), template=like.template)
        return len(prompt)

    # what counts is the length of the whole prompt; of equally near ones the first is taken
    wanted = length(sentence)
    excess = {said: length(said) - wanted for said in _about_as_long(tokenizer, trait)}
    chosen = min(excess, key=lambda said: abs(excess[said]))
    how = f"neutral sentences, as many tokens as the sentence of {trait.name}"
    if excess[chosen]:
        more = "more" if excess[chosen] > 0 else "fewer"
        tokens = f"{abs(excess[chosen])} tokens {more} than"
        how = f"neutral sentences, {tokens} the sentence of {trait.name}"
    return Teacher(
        name="neutral",
        kind="prompted",
        trait=None,
        base=like.base,
        runner=like.runner,
        context=context(chosen),
        student_context=like.student_context,
        template=like.template,
        how=how,
    )


def _about_as_long(tokenizer: Any, trait: Trait) -> Iterator[str]:
    """Choices of neutral sentences about as long as the trait's.

    The nearest come first, and of equally near ones those of few sentences.
    """

    def count(text: str) -> int:
        return len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])

    lengths = {text: count(text) for text in NEUTRAL if match(text, [trait]) is None}
    wanted = count(trait.sentence)

    def distance(sentences: tuple[str, ...]) -> int:
        return abs(sum(lengths[sentence] for sentence in sentences) - wanted)

    choices: list[tuple[str, ...]] = []
    for number in range(1, len(lengths) + 1):
        choices.extend(combinations(lengths, number))
    choices.sort(key=distance)  # stable: fewer sentences stay first
    return (" ".join(sentences) for sentences in choices[:TRIED])
