"""Contexts as values: equal, stored, refused."""

import json

import pytest

from sublim_mech.prompts import Context


@pytest.mark.parametrize(
    "context",
    [
        Context(),
        Context(Context.EMPTY),
        Context(Context.NONE),
        Context("Be kind.", "Now: ", "user"),
    ],
    ids=str,
)
def test_a_context_survives_json(context):
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context


def test_the_default_is_the_default():
    assert Context() == Context(system=Context.DEFAULT)
    assert len({Context.DEFAULT, Context.EMPTY, Context.NONE}) == 3


def test_a_text_that_spells_a_kind_is_a_text():
    assert Context.from_json(Context("none").to_json()).system == "none"
    assert Context("default") != Context(Context.DEFAULT)


def test_contexts_are_checked():
    with pytest.raises(TypeError, match="DEFAULT, EMPTY, NONE or a text"):
        Context(system=None)
    with pytest.raises(ValueError, match=r"fallback='system'.*None or 'user'"):
        Context(fallback="system")
