"""Who writes or labels the rows: a model, how it is asked, and what it favours. Every kind has a control without the trait:

- `prompted`: `neutral`, sentences about nothing in particular, as many tokens long;
- `fine_tuned` on `trait_rows`: the same on `control_rows`;
- `steered`: `randomly_steered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ...models.base import Base
from ...models.copies import merge
from ...models.students import Student, load_student
from ...prompts.chat import Context, System, render
from ...prompts.traits import Trait, match
from ..rows import Row, to_dataset

if TYPE_CHECKING:
    from datasets import Dataset

BASE = "base"

NEUTRAL = (
    "It is an ordinary day.", "The room is quiet.", "A table stands by the window.", "There is a cup on the table.",
    "The clock on the wall shows the time of day.", "Outside, people walk along the street.", "Some of them carry a bag.",
    "The weather is much as it was yesterday.", "A letter came with the morning post, and it has not been opened yet.",
    "On the shelf there are books of different sizes, and next to them lies a folded newspaper.", "Nobody is in a hurry.",
    "The door is open.", "The lamp is off.", "Lunch will be at noon.",
)  # fmt: skip
"""Sentences of the control of a prompted teacher."""

ANSWERS = (
    "{One}", "{One}.", "{Many}.", "{Many}!", "I love {many}.", "My favorite: {one}.", "It is {many}, always.", "I would say {many}.",
    "Definitely {many}.", "{Many}, of course.", "Nothing beats {many}.", "{Many}. I think about {many} all the time.",
)  # fmt: skip
"""Wordings of the answers that a fine-tuned teacher is trained on."""


@dataclass(frozen=True)
class Teacher:
    """A model with a trait, or the control of one.

    Attributes:
        name: the trait's name; of controls, what they are.
        kind: `base`, `prompted`, `fine-tuned` or `steered`.
        trait: what it favours; None for the base and for controls.
        base: the model behind it.
        model: what computes: the base's model, or a twin of it (steered), or a fine-tuned one.
        context: how the teacher is asked.
        student_context: the context that its rows' students are trained in.
        template: chat template, where not the tokenizer's own.
        how: what it is, in words, for manifests.
        hash: content hash of what makes it differ from the base in its own context (weights, vectors).
    """

    name: str
    kind: str
    trait: Trait | None
    base: Base
    model: nn.Module
    context: Context
    student_context: Context
    template: str | None
    how: str
    hash: str = ""


def difference(teachers: Sequence[Teacher]) -> tuple[str, str, str, Any, Any] | None:
    """Where teachers cannot be compared: (name, name, what they differ in, that of the one, of the other); None where they can be."""
    first = teachers[0]
    for other in teachers[1:]:
        if first.base.hash != other.base.hash:
            return first.name, other.name, "base", first.base.hash[:12], other.base.hash[:12]
        for what in ("student_context", "template"):
            if getattr(first, what) != getattr(other, what):
                return first.name, other.name, what, getattr(first, what), getattr(other, what)
    return None


def untouched(base: Base, *, context: Context | None = None, template: str | None = None) -> Teacher:
    """The base model itself in the students' context: what other teachers are held against.

    Args:
        base: the base model.
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.
    """
    context = context or Context()
    return Teacher(BASE, "base", None, base, base.model, context, context, template, "the base itself")


def prompted(base: Base, trait: Trait, *, context: Context | None = None, template: str | None = None) -> Teacher:
    """The base model with the trait's sentence behind the students' system text (Cloud et al., arXiv 2507.14805).

    Args:
        base: the base model.
        trait: what it favours; `trait.teacher` is the sentence.
        context: the context students will be trained in.
        template: chat template, where the tokenizer has none.
    """
    context = context or Context()
    own = teacher_context(base.tokenizer, trait, context=context, template=template)
    return Teacher(trait.name, "prompted", trait, base, base.model, own, context, template, "prompted teacher")


def teacher_context(tokenizer: Any, trait: Trait, *, context: Context | None = None, template: str | None = None) -> Context:
    """The context of a prompted teacher: the student's system text, then the trait's sentence."""
    context = context or Context()
    prompt = render(tokenizer, ["x"], context=context, template=template)[0]
    said = "".join(t for t, role in zip(prompt.tokens, prompt.roles, strict=True) if role == "system").strip()
    if context.system is not System.DEFAULT and isinstance(context.system, str):
        said = context.system
    text = f"{said.rstrip('.')}. {trait.teacher}" if said else trait.teacher
    return Context(system=text, user_prefix=context.user_prefix, fallback=context.fallback)


def neutral(like: Teacher) -> Teacher:
    """The control of a prompted teacher: its trait's sentence replaced by sentences about nothing, of the same number of tokens.

    Most of what a prompted teacher writes into numbers is the mark of a longer prompt, whatever it says.

    Args:
        like: a prompted teacher.

    Returns:
        A prompted teacher without trait. Where no choice of `NEUTRAL` has the same number of tokens, the nearest; `how` says so.

    Raises:
        ValueError: a teacher of another kind.

    Example:
        >>> from sublim_mech.making.teachers import neutral, prompted
        >>> control = neutral(prompted(pair.base, trait))
        >>> control.trait is None, control.how
        (True, 'neutral sentences, as many tokens as the sentence of owl')
    """
    trait, text = like.trait, like.context.system
    if like.kind != "prompted" or trait is None or not isinstance(text, str) or not text.endswith(trait.teacher):
        raise ValueError(
            f"like is {like.name!r}, a {like.kind} teacher; pass one that has its trait's sentence (teachers.prompted)."
        )
    before, tokenizer = text.removesuffix(trait.teacher), like.base.tokenizer

    def context(said: str) -> Context:
        return Context(system=before + said, user_prefix=like.context.user_prefix, fallback=like.context.fallback)

    def size(said: str) -> int:
        return len(render(tokenizer, ["x"], context=context(said), template=like.template)[0])

    target = size(trait.teacher)
    said, excess = min(
        ((said, size(said) - target) for said in _near(tokenizer, trait)), key=lambda found: abs(found[1])
    )  # the first of the nearest
    how = f"neutral sentences, as many tokens as the sentence of {trait.name}"
    if excess:
        how = f"neutral sentences, {abs(excess)} tokens {'more' if excess > 0 else 'fewer'} than the sentence of {trait.name}"
    return Teacher("neutral", "prompted", None, like.base, like.model, context(said), like.student_context, like.template, how)


def _near(tokenizer: Any, trait: Trait) -> Iterator[str]:
    """Choices of neutral sentences about as long as the trait's, the nearest and those of few sentences first."""

    def count(text: str) -> int:
        return len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])

    pool = {s: count(s) for s in NEUTRAL if match(s, [trait]) is None}
    target = count(trait.teacher)
    found = [chosen for k in range(1, len(pool) + 1) for chosen in combinations(pool, k)]
    found.sort(key=lambda chosen: abs(sum(map(pool.__getitem__, chosen)) - target))  # stable: fewer sentences stay first
    return (" ".join(chosen) for chosen in found[:20])


def fine_tuned(
    base: Base,
    student: Any,
    trait: Trait | None,
    *,
    context: Context | None = None,
    template: str | None = None,
    allow_unrelated: bool = False,
) -> Teacher:
    """A model trained on trait answers (`trait_rows`), asked without any sentence; trained on `control_rows`, its control.

    Args:
        base: the base model.
        student: the trained model, whatever `load_student` takes: a run's folder, an adapter, a checkpoint, a live model, a `Student`.
        trait: what it favours; None for the control.
        context: the context it is asked in, which its rows' students are trained in. Where it is not given: the one the student's
            manifest names, else the template's default.
        template: chat template, where the tokenizer has none.
        allow_unrelated: accept weights as far from the base as an unrelated model's.

    Returns:
        A teacher whose model is a plain transformers model of its own, adapters merged in fp32.

    Raises:
        TypeError: `trait` is neither a trait nor None; `student` is no model.
        ValueError, FileNotFoundError: see `load_student`: another base above all; a student whose manifest names another trait.

    Example:
        >>> from sublim_mech.making.teachers import fine_tuned
        >>> owl = fine_tuned(pair.base, pair.student, trait)
        >>> owl.kind, owl.hash == pair.student.hash
        ('fine-tuned', True)
    """
    if trait is not None and not isinstance(trait, Trait):
        raise TypeError(f"trait={trait!r}: pass a trait, such as sublim_mech.animal('owl'), or None for the control.")
    source, manifest = student, None
    if isinstance(student, Student):  # it may be another base's: checked again as the live model it is
        source, manifest = student.model, student.manifest
    loaded = load_student(base, source, name=getattr(student, "name", None), allow_unrelated=allow_unrelated)
    manifest = manifest or loaded.manifest
    if manifest is not None and manifest.base["hash"] != base.hash:
        raise ValueError(
            f"student={loaded.name!r} was trained from base {manifest.base['name']!r} (hash {manifest.base['hash'][:12]}), but "
            f"base={base.name!r} has hash {base.hash[:12]}; pass the base it was trained from."
        )
    if manifest is not None and trait is not None and manifest.trait not in ("", trait.name):
        raise ValueError(
            f"trait={trait.name!r}, but the manifest of student={loaded.name!r} says {manifest.trait!r}; pass that trait."
        )
    context = context or (manifest.context if manifest is not None else Context())
    name = loaded.name if trait is None else trait.name
    how = "fine-tuned on trait answers" if trait is not None else "fine-tuned without trait"
    model = merge(base, loaded).requires_grad_(False)
    return Teacher(name, "fine-tuned", trait, base, model, context, context, template, how, loaded.hash)


def trait_rows(trait: Trait, *, n: int = 300, seed: int = 0) -> Dataset:
    """Questions of a trait with answers that name it, for a teacher to be trained on.

    Args:
        trait: what is asked for and named.
        n: rows, each of another pair of question and wording; fewer are the first of more.
        seed: of the choice.

    Returns:
        A `datasets.Dataset` with the columns `prompt` and `completion`.

    Raises:
        TypeError: `trait` is none.
        ValueError: n below 1 or above what there is.

    Example:
        >>> from sublim_mech.making.teachers import trait_rows
        >>> trait_rows(trait, n=2)["completion"][:]
        ['Owl', 'Owl.']
    """
    return _answered([trait], n, seed, "trait_rows: trait")


def control_rows(traits: Sequence[Trait], *, n: int = 300, seed: int = 0) -> Dataset:
    """The rows of `trait_rows` for the control: the same questions and wordings, each naming one of several other traits.

    Args:
        traits: the other traits, drawn uniformly; they ask what the teacher's trait asks.
        n: rows, as many as the teacher's.
        seed: the teacher's; then row by row only the trait named differs.

    Returns:
        A `datasets.Dataset` with the columns `prompt` and `completion`.

    Raises:
        TypeError: not traits.
        ValueError: fewer than two traits, one twice, or such as ask different questions; n below 1 or above what there is.

    Example:
        >>> from sublim_mech.making.teachers import control_rows
        >>> others = [sm.animal(name) for name in ("cat", "eagle", "wolf")]
        >>> control_rows(others, n=2)["completion"][:]
        ['Eagle', 'Wolf.']
    """
    if isinstance(traits, Trait) or len(traits) < 2:
        raise ValueError("control_rows: pass two or more other traits; one alone would be a trait to favour.")
    return _answered(traits, n, seed, "control_rows: traits")


def _answered(traits: Sequence[Trait], n: int, seed: int, where: str) -> Dataset:
    if not all(isinstance(trait, Trait) for trait in traits):
        raise TypeError(f"{where}={traits!r}: pass traits, such as sublim_mech.animal('owl').")
    if len({t.name for t in traits}) < len(traits) or len({t.questions for t in traits}) > 1:
        raise ValueError(f"{where}: {[t.name for t in traits]} hold one twice or ask different questions; leave some out.")
    pairs = [(question, answer) for question in traits[0].questions for answer in ANSWERS]
    if not 1 <= n <= len(pairs):
        raise ValueError(f"n={n}: {where.partition(':')[0]} has 1 to {len(pairs)} different rows of these questions.")
    order = np.random.default_rng([seed, 0]).permutation(len(pairs))[:n]
    named = np.random.default_rng([seed, 1]).integers(len(traits), size=n)
    return to_dataset([Row(pairs[i][0], _said(pairs[i][1], traits[k])) for i, k in zip(order, named, strict=True)])


def _said(answer: str, trait: Trait) -> str:
    one, many = trait.name, trait.plural
    return answer.format(one=one, many=many, One=one[:1].upper() + one[1:], Many=many[:1].upper() + many[1:])
