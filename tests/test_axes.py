"""Shapes: they are checked while the tests run, and their words stand on one page."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import shapes
import tiny
import torch
from jaxtyping import TypeCheckError

import sublim_mech as sm
from sublim_mech.engine.answers import NO_ANSWERS
from sublim_mech.engine.batch import attention_masks
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import Task
from sublim_mech.metrics import as_metric

SOURCE = Path(sm.__file__).parent
CHECKS = "jaxtyping/_decorator.py"
PAGE = Path(__file__).parent.parent / "docs" / "axes.md"
SHAPE = re.compile(r"\b(?:Float|Float64|Int|Bool)\[[\w.]+,\s*\"([^\"]*)\"\]")


def words_of(shape: str) -> set[str]:
    """The axis words of a shape, without numbers and the signs for any size and any number."""
    bare = (word.lstrip("*_") for word in shape.split())
    return {word for word in bare if word and not word.isdigit()}


def test_every_axis_word_stands_on_the_page():
    explained = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    for file in sorted(SOURCE.rglob("*.py")):
        for shape in SHAPE.findall(file.read_text()):
            unknown = words_of(shape) - explained
            assert not unknown, f"{file.relative_to(SOURCE)}: {shape!r} has {unknown}"


def functions(module):
    """What a module defines: functions, and methods of classes."""
    own = [
        thing
        for thing in vars(module).values()
        if getattr(thing, "__module__", "") == module.__name__
    ]
    inside = [member for one in own if inspect.isclass(one) for member in vars(one).values()]
    for thing in (*own, *inside):
        found = getattr(thing, "__func__", getattr(thing, "fget", thing))
        if inspect.isfunction(found):
            yield found


def test_every_function_with_a_shape_is_checked():
    """The others are as they are when nobody tests."""
    counts = {True: 0, False: 0}
    for name, module in list(sys.modules.items()):
        if not name.startswith(shapes.MODULES):
            continue
        for function in functions(module):
            layers = [function]
            while hasattr(layers[-1], "__wrapped__"):
                layers.append(layers[-1].__wrapped__)
            checks = any(layer.__code__.co_filename.endswith(CHECKS) for layer in layers)
            shaped = any(SHAPE.search(str(a)) for a in layers[-1].__annotations__.values())
            assert checks or not shaped, f"{name}.{function.__qualname__}"
            counts[checks] += 1
    assert 20 < counts[True] < counts[False]


def test_a_wrong_shape_is_noticed_on_the_way_in():
    config = tiny.CONFIGS["llama"]()
    sees = torch.ones(2, 3, 4, dtype=torch.bool)
    queries, keys = torch.zeros(2, 3).long(), torch.zeros(2, 4).long()
    attention_masks(config, sees, queries, keys, dtype=torch.float32)
    for wrong in ((sees[0], queries, keys), (sees, keys, queries), (sees.float(), queries, keys)):
        with pytest.raises(TypeCheckError):
            attention_masks(config, *wrong, dtype=torch.float32)


def test_a_wrong_shape_is_noticed_on_the_way_out():
    class Unread:
        """A metric that forgets to read off a number."""

        name, unit, differentiable, needs_base = "unread", "nats", True, False

        def answers(self, tokenizer, prompt):
            return NO_ANSWERS

        def read(self, logits, answers, base=None):
            return logits

    task = Task(None, (None,), (NO_ANSWERS,), Unread())
    with pytest.raises(TypeError, match=r"'unread': read gives .* of shape \(1, 1, 5\) for 1 row"):
        task.value([0], torch.zeros(1, 1, 5))


def test_a_wrong_shape_is_noticed_in_a_record():
    Gates(None, torch.zeros(2, 3))
    Gates(None, torch.zeros(2, 3, 4))
    Gates(None, 0.5)
    with pytest.raises(TypeCheckError):
        Gates(None, torch.zeros(2))


def test_other_annotations_are_left_to_our_own_messages():
    with pytest.raises(TypeError, match="pass a Trait") as raised:
        as_metric("owl")
    assert not isinstance(raised.value, TypeCheckError)
