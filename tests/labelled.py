"""A crowd of teachers that label rows, and what they say by plain transformers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import tiny
from teaching import ROWS, prompted_system, wild

import sublim_mech as sm
from sublim_mech.making.labelling import Labels, label
from sublim_mech.making.teachers import Teacher, prompted
from sublim_mech.models.base import Base, load_base

ANIMALS = ("owl", "cat", "dog")
KINDS: dict[str, dict[str, Any]] = {"listed": {}, "top-k": {"top_k": 5}, "full": {"support": None}}
DULL = "You are tired."


@functools.cache
def labelling_base(tokenizer: Any) -> Base:
    """The base of the crowd."""
    return load_base(wild("llama"), tokenizer=tokenizer)


@functools.cache
def crowd(tokenizer: Any) -> tuple[Teacher, ...]:
    """The teachers of three animals, one of them with weights of its own, and a control."""
    base = labelling_base(tokenizer)
    owl, cat, dog = (prompted(base, sm.animal(name)) for name in ANIMALS)
    runner = dataclasses.replace(dog.runner, model=tiny.full(wild("llama")))
    tuned = dataclasses.replace(
        dog, kind="fine-tuned", runner=runner, context=sm.Context(), how="tuned", hash="ab"
    )
    dull = dataclasses.replace(
        cat, name="dull", trait=None, context=sm.Context(system=DULL), how="a control"
    )
    return owl, cat, tuned, dull


@functools.cache
def made(tokenizer: Any, kind: str = "listed") -> Labels:
    """Labels of the crowd in memory."""
    return label(crowd(tokenizer), ROWS, progress=False, **KINDS[kind])


def system_of(name: str) -> str | None:
    """The system text that a teacher of the crowd is asked with, None for the template's own."""
    if name == "dull":
        return DULL
    return prompted_system(sm.animal(name)) if name in ("owl", "cat") else None


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
