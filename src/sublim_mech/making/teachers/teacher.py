"""Who writes or labels the rows: a model, how it is asked, and what it favours.

Every kind has a control without the trait:

- `prompted`: `neutral`, sentences about nothing in particular, as many tokens long;
- `fine_tuned` on `trait_rows`: the same on `control_rows`;
- `steered`: `randomly_steered`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ...engine.runner import Runner, open_runner
from ...models.base import Base
from ...prompts import Context, Trained, Trait

BASE = "base"
"""The name of the untouched base among teachers."""

Model = Runner | Base
"""A loaded model that can be run; a `Base` where the gated forward cannot run its architecture."""

_short = reprlib.Repr()
_short.maxstring = 60

_runners: WeakKeyDictionary[Base, Runner] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model with a trait, or the control of one.

    Attributes:
        name: the trait's name; of controls, what they are.
        kind: `base`, `prompted`, `fine-tuned` or `steered`.
        trait: what it favours; None for the base and for controls.
        base: the base model behind it.
        runner: what computes: the base's runner, or that of a twin (steered) or of a fine-tuned
            model. Where the gated forward cannot run the architecture it is a `Base`, which can
            label and read rows and nothing else.
        context: how the teacher is asked.
        student_context: the context that its rows' students are trained in.
        template: chat template, where not the tokenizer's own.
        how: what it is, in words, for manifests.
        hash: content hash of what makes it differ from the base in its own context (weights,
            vectors).
        trained_on: of a fine-tuned one, summary of its training prompts; None where no manifest
            tells.
        trained_in: the context of that training, likewise.
    """

    name: str
    kind: str
    trait: Trait | None
    base: Model
    runner: Model
    context: Context
    student_context: Context
    template: str | None
    how: str
    hash: str = ""
    trained_on: Trained | None = field(default=None, compare=False)
    trained_in: Context | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        name, base = _short.repr(self.name), _short.repr(self.base.name)
        return f"Teacher({name}, {self.kind}: {self.how}, base {base})"


def opened(base: Model) -> Model:
    """A base model alone, as it is run; without a runner where its architecture cannot be.

    All teachers of one base share its runner. A pair is taken as the runner of its base.

    Raises:
        TypeError: something else than a base or a runner.
    """
    if isinstance(base, Base):
        if base not in _runners:
            try:
                _runners[base] = open_runner(base)
            except Exception:  # whatever a model says that cannot: ValueError, AttributeError, ...
                return base
        return _runners[base]
    runner = open_runner(base)
    if type(runner) is Runner:
        return runner
    return Runner(**{field.name: getattr(runner, field.name) for field in fields(Runner)})


def of_other_traits(teacher: str, traits: Mapping[str, str | None]) -> tuple[str, ...]:
    """The teachers of other traits than a teacher's own, whose mean its mark is held against.

    A second teacher of its own trait, called otherwise, is none of them.

    Args:
        teacher: whose name.
        traits: the trait's name by teacher; None for the base and for controls.
    """
    own = traits[teacher]
    return tuple(name for name, trait in traits.items() if trait is not None and trait != own)


class Difference(NamedTuple):
    """In what two teachers differ that should not.

    Attributes:
        one, other: their names.
        what: what they differ in.
        of_one, of_other: what it is in the one and in the other.
    """

    one: str
    other: str
    what: str
    of_one: Any
    of_other: Any


def difference(teachers: Sequence[Teacher]) -> Difference | None:
    """Where teachers cannot be compared; None where they can be."""
    first = teachers[0]
    for other in teachers[1:]:
        if first.base.hash != other.base.hash:
            hashes = first.base.hash[:12], other.base.hash[:12]
            return Difference(first.name, other.name, "base", *hashes)
        for what in ("student_context", "template"):
            values = getattr(first, what), getattr(other, what)
            if values[0] != values[1]:
                return Difference(first.name, other.name, what, *values)
    return None
