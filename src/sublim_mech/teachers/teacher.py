"""Who writes or labels the rows: a model, how it is asked, and what it favours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..chat import Context, System, render
from ..models.base import Base
from ..traits import Trait

BASE = "base"


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
