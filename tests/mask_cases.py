"""Prompts, modules and masks that the tests of masks share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import tiny
from chats import TALK

from sublim_mech import masks
from sublim_mech.masks import Mask
from sublim_mech.models.names import Module
from sublim_mech.models.sites import find_sites
from sublim_mech.prompts import Context, Prompt, mark_sharing, render

QUESTION = "Is an owl 🦉 an Owl, or are owls and fowls other birds?"
DEPTH = tiny.LAYERS
"""Blocks of every network."""


@cache
def model(architecture: str) -> Any:
    """A tiny model, which no test changes."""
    return tiny.model(architecture)


@cache
def network(architecture: str) -> tuple[Module, ...]:
    """All modules of a tiny architecture."""
    return tuple(find_sites(model(architecture)).modules.values())


def marked_prompts(tokenizer: Any) -> list[Prompt]:
    """Prompts with and without a system turn, of one question and of several turns, marked."""
    questions = [QUESTION, TALK]
    bare = Context(system=Context.NONE)
    prompts = render(tokenizer, questions) + render(tokenizer, questions, context=bare)
    return mark_sharing(prompts, render(tokenizer, ["Is this a list?", "Is 6 a bird?"]))


def zoo() -> list[Mask]:
    """Masks of every kind, each of which holds in every prompt and model of these tests."""

    def checkered(prompt: Prompt, modules: Any) -> np.ndarray:
        return np.add.outer(np.arange(len(prompt)), np.arange(len(modules))) % 2 == 0

    return [
        masks.everything(),
        masks.positions(0, 3, -1),
        masks.role("system", "template"),
        masks.turn(0, -1),
        masks.sharing("shared"),
        masks.regex(r"\w+", which="all"),
        masks.layers(range(1, DEPTH)),
        masks.modules("attention", "ln_final"),
        Mask("chess", checkered),
    ]


def assert_same(one: Mask, other: Mask, prompt: Prompt, modules: tuple[Module, ...]) -> None:
    """Two masks choose the same cells."""
    left, right = one(prompt, modules), other(prompt, modules)
    assert left.shape == (len(prompt), len(modules))
    assert left.dtype == bool
    np.testing.assert_array_equal(left, right, err_msg=f"{one.name}  /  {other.name}")
