"""Contexts as values: equal, stored, refused."""

import dataclasses
import json
import re

import pytest

from sublim_mech.prompts import RAW, Context


@pytest.mark.parametrize(
    "context",
    [
        Context(),
        Context(Context.EMPTY),
        Context(Context.NONE),
        Context("Be kind.", "Now: ", "user"),
        Context("none", literal=True),
        RAW,
    ],
    ids=str,
)
def test_a_context_survives_json(context):
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context


def test_the_default_is_the_default():
    assert Context() == Context(system=Context.DEFAULT)
    assert len({Context.DEFAULT, Context.EMPTY, Context.NONE}) == 3


SPELLED = [
    ("none", "sublim_mech.Context.NONE"),
    ("DEFAULT", "sublim_mech.Context.DEFAULT"),
    (" Empty\n", "sublim_mech.Context.EMPTY"),
    ("Context.NONE", "sublim_mech.Context.NONE"),
    ("sm.Context.Default", "sublim_mech.Context.DEFAULT"),
    ("raw", "sublim_mech.RAW"),
]


@pytest.mark.parametrize(("text", "meant"), SPELLED)
def test_a_text_that_spells_a_kind_is_refused_unless_it_is_meant(text, meant):
    with pytest.raises(ValueError, match=rf"{re.escape(repr(text))}.*{meant}\?.*literal=True"):
        Context(text)
    said = Context(text, literal=True)
    assert said.system == text
    assert said not in (Context(), Context(Context.EMPTY), Context(Context.NONE), RAW)
    assert said == dataclasses.replace(said) == Context.from_json(said.to_json())


def test_a_manifest_written_before_this_was_refused_still_means_its_text():
    stored = {"system": {"text": "none"}, "user_prefix": "", "fallback": None}
    assert Context.from_json(stored) == Context("none", literal=True)
    assert Context("none", literal=True).to_json() == stored


@pytest.mark.parametrize("text", ["Say none.", "No default", "nonet", "You are empty", "Be raw."])
def test_a_text_that_holds_such_a_word_is_a_text(text):
    assert Context(text) == Context(text, literal=True)


@pytest.mark.parametrize("given", [{"user_prefix": "Now: "}, {"fallback": "user"}])
def test_raw_text_has_no_turns_to_dress(given):
    with pytest.raises(ValueError, match="raw text has no turns"):
        dataclasses.replace(RAW, **given)


def test_contexts_are_checked():
    with pytest.raises(
        TypeError, match=r"Context\.DEFAULT, Context\.EMPTY, Context\.NONE\) or a text"
    ):
        Context(system=None)
    with pytest.raises(TypeError, match=r"user_prefix=None.*a text"):
        Context(user_prefix=None)
    with pytest.raises(ValueError, match=r"fallback='system'.*None or 'user'"):
        Context(fallback="system")
