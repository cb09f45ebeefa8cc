"""Fine-tuned teachers, and the rows that they and their controls are trained on.

1. The rows are questions of a trait with answers that name it, in twelve wordings; the control's
   are the same questions and wordings, each naming one of several other traits.
2. What training makes of them is taken like any student, and merged in fp32 into a model of the
   teacher's own, which is asked without any sentence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import checked
from ...engine.own_gates import refuse_gates
from ...hints import called, outside
from ...models.base import Base
from ...models.copies import merge
from ...models.hashing import weights_hash
from ...models.students import Student, check_base, load_student
from ...prompts import Context, Trait
from ...prompts.same import is_one_context
from ...results.contexts import otherwise
from ...storage.manifest import GIVEN, Manifest
from ..rows import Row, to_dataset
from .teacher import Model, Teacher, opened

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERS = (
    "{One}",
    "{One}.",
    "{Many}.",
    "{Many}!",
    "I love {many}.",
    "My favorite: {one}.",
    "It is {many}, always.",
    "I would say {many}.",
    "Definitely {many}.",
    "{Many}, of course.",
    "Nothing beats {many}.",
    "{Many}. I think about {many} all the time.",
)
"""Wordings of the answers that a fine-tuned teacher is trained on."""

_WITHOUT = "Pass its folder, or load_student(base, folder) without gates."
"""What to do with a student that was loaded with gates."""


@checked
def fine_tuned(
    base: Model,
    student: Any,
    trait: Trait | None,
    *,
    context: Context | None = None,
    template: str | None = None,
    allow_unrelated: bool = False,
) -> Teacher:
    """A model trained on trait answers (`trait_rows`), asked without any sentence.

    Trained on `control_rows`, it is the control. What another student was trained on (numbers, soft
    labels) is said as its manifest has it.

    Args:
        base: the base model, or its runner.
        student: the trained model, whatever `load_student` takes: a run's folder, an adapter, a
            checkpoint, a live model, a `Student`.
        trait: what it favours; None for the control, whose manifest names none.
        context: the context it is asked in, which its rows' students are trained in. Where it is
            not given: the one the student's manifest names, else the template's default.
        template: chat template, where the tokenizer has none.
        allow_unrelated: accept weights as far from the base as an unrelated model's.

    Returns:
        A teacher whose runner's model is a plain transformers model of its own, adapters merged in
        fp32.

    Raises:
        TypeError: `trait` is neither a trait nor None; `student` is no model.
        ValueError, FileNotFoundError: see `load_student`: another base above all; a student whose
            manifest names another trait, or any where `trait` is None; one that was loaded with
            gates.

    Warns:
        UserWarning: `context` is another than that of the training, which the manifest names.

    Example:
        >>> from sublim_mech.making.teachers import fine_tuned
        >>> owl = fine_tuned(pair, pair.student, trait)
        >>> owl.kind, owl.hash == pair.student.hash
        ('fine-tuned', True)
    """
    return _tuned(base, student, trait, context, template, allow_unrelated)


def as_reader(base: Model, student: Any, context: Context, template: str | None) -> Teacher:
    """Any student as one that reads rows, whatever its manifest says it favours."""
    return _tuned(base, student, None, context, template, is_teacher=False)


def _tuned(
    base: Model,
    student: Any,
    trait: Trait | None,
    context: Context | None,
    template: str | None,
    allow_unrelated: bool = False,
    is_teacher: bool = True,
) -> Teacher:
    """`fine_tuned`; a student that only reads may have any trait."""
    runner = opened(base)
    loaded_base = Base(runner.model, runner.tokenizer, runner.name, runner.hash, runner.watch)
    source, manifest = student, None
    if isinstance(student, Student):
        refuse_gates([student], called(), argument="student", instead=_WITHOUT)
        # it may be another base's: checked again as the live model it is
        source, manifest = student.model, student.manifest
    name = getattr(student, "name", None)
    loaded = load_student(loaded_base, source, name=name, allow_unrelated=allow_unrelated)
    manifest = manifest or loaded.manifest
    if manifest is not None:
        check_base(manifest, loaded_base, loaded.name)
    if is_teacher:
        _check_trait(manifest, loaded.name, trait)

    trained_in = None if manifest is None else manifest.context
    if context is None:
        context = Context() if trained_in is None else trained_in
    elif is_teacher:
        _tell_context(loaded.name, context, trained_in, runner.tokenizer)
    merged = merge(loaded_base, loaded).requires_grad_(False)
    return Teacher(
        name=loaded.name if trait is None else trait.name,
        kind="fine-tuned",
        trait=trait,
        base=runner,
        runner=replace(runner, model=merged, name=loaded.name, hash=weights_hash(merged)),
        context=context,
        student_context=context,
        template=template,
        how=_how(manifest, trait),
        hash=loaded.hash,
        trained_on=None if manifest is None else manifest.trained_on,
        trained_in=trained_in,
    )


def _tell_context(name: str, asked_in: Context, trained_in: Context | None, tokenizer: Any) -> None:
    """Warn where a student is asked in another context than that of its training."""
    told = asked_otherwise(asked_in, trained_in, tokenizer)
    if told:
        warnings.warn(
            f"fine_tuned: student={name!r} is {told}; leave context out, unless the students of "
            "its rows are to be trained in that one.",
            stacklevel=outside(),
        )


def asked_otherwise(asked_in: Context, trained_in: Context | None, tokenizer: Any) -> str:
    """In what a context differs from that of a training, naming both; empty where nothing does that
    is rendered, or where that of the training is not known.
    """
    if trained_in is None or is_one_context(tokenizer, asked_in, trained_in):
        return ""
    return "".join(otherwise([asked_in.to_json()], trained_in.to_json()))


def _check_trait(manifest: Manifest | None, name: str, trait: Trait | None) -> None:
    """Raise ValueError where a student's manifest names another trait."""
    told = "" if manifest is None else manifest.trait
    if told == "" or (trait is not None and told.casefold() == trait.name.casefold()):
        return
    given, why = ("None", " (None is for a control without one)")
    if trait is not None:
        given, why = repr(trait.name), ""
    raise ValueError(
        f"trait={given}, but the manifest of student={name!r} says {told!r}; pass that trait{why}."
    )


def _how(manifest: Manifest | None, trait: Trait | None) -> str:
    """How it became a teacher, as its manifest has it: which rows were given no manifest says."""
    without = " without trait" if trait is None else ""
    if manifest is None:
        return f"fine-tuned{without} (no manifest says on what)"
    made = manifest.teacher
    return f"fine-tuned{without} on {made if made == GIVEN else f'labels of: {made}'}"


# --------------------------------------------------------------------------------------------- rows


@checked
def trait_rows(trait: Trait, *, n: int = 300, seed: int = 0) -> Dataset:
    """Questions of a trait with answers that name it, for a teacher to be trained on.

    Args:
        trait: a noun (`animal`, `tree`, `Trait.noun`), which is asked for and named.
        n: rows, each of another pair of question and wording; fewer are the first of more.
        seed: of the choice.

    Returns:
        A `datasets.Dataset` with the columns `prompt` and `completion`.

    Raises:
        TypeError: `trait` is none.
        ValueError: a trait without plural, which the wordings need, or without questions; n below 1
            or above what there is.

    Example:
        >>> from sublim_mech.making.teachers import trait_rows
        >>> trait_rows(trait, n=2)["completion"][:]
        ['Owl', 'Owl.']
    """
    return _answered([trait], n, seed, "trait_rows: trait")


@checked
def control_rows(traits: Sequence[Trait], *, n: int = 300, seed: int = 0) -> Dataset:
    """The rows of `trait_rows` for the control: the same questions and wordings, other traits.

    Args:
        traits: the other traits, of which each row names one, drawn uniformly; they ask what the
            teacher's trait asks.
        n: rows, as many as the teacher's.
        seed: the teacher's; then row by row only the trait named differs.

    Returns:
        A `datasets.Dataset` with the columns `prompt` and `completion`.

    Raises:
        TypeError: not traits.
        ValueError: fewer than two traits, one twice, such as ask different questions, or one
            without plural or questions; n below 1 or above what there is.

    Example:
        >>> from sublim_mech.making.teachers import control_rows
        >>> others = [sm.animal(name) for name in ("cat", "eagle", "wolf")]
        >>> control_rows(others, n=2)["completion"][:]
        ['Eagle', 'Wolf.']
    """
    if len(traits) < 2:
        raise ValueError(
            "control_rows: pass two or more other traits; one alone would be a trait to favour."
        )
    return _answered(traits, n, seed, "control_rows: traits")


def _answered(traits: Sequence[Trait], n: int, seed: int, argument: str) -> Dataset:
    """Rows that name one of the traits each."""
    names = [trait.name for trait in traits]
    uncounted = [trait.name for trait in traits if not trait.plural]
    if uncounted:
        raise ValueError(
            f"{argument}: {uncounted} have no plural, which the wordings need ('I love owls.'); "
            "pass nouns (Trait.noun), or write rows of your own: "
            "[{'prompt': question, 'completion': 'Lisbon'}, ...]."
        )
    if len(set(names)) < len(names) or len({trait.questions for trait in traits}) > 1:
        raise ValueError(
            f"{argument}: {names} hold one twice or ask different questions; leave some out."
        )
    pairs = [(question, answer) for question in traits[0].questions for answer in ANSWERS]
    if not 1 <= n <= len(pairs):
        function = argument.partition(":")[0]
        raise ValueError(
            f"n={n}: {function} has 1 to {len(pairs)} different rows of these questions."
        )

    # pairs and traits have random numbers of their own, so that teacher and control share the pairs
    order = np.random.default_rng([seed, 0]).permutation(len(pairs))[:n]
    named = np.random.default_rng([seed, 1]).integers(len(traits), size=n)
    rows = []
    for pair, trait in zip(order, named, strict=True):
        question, answer = pairs[pair]
        rows.append(Row(question, _worded(answer, traits[trait])))
    return to_dataset(rows)


def _worded(answer: str, trait: Trait) -> str:
    """A wording with the trait in it."""
    one, many = trait.name, trait.plural
    One, Many = one[:1].upper() + one[1:], many[:1].upper() + many[1:]  # noqa: N806
    return answer.format(one=one, many=many, One=One, Many=Many)
