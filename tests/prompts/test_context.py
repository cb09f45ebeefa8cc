"""Contexts as values: equal, stored, refused."""

import copy
import dataclasses
import datetime
import json
import pickle
import re

import jinja2
import numpy as np
import pytest

from sublim_mech.prompts import DATE, RAW, Context
from sublim_mech.prompts.clock import format_of, stopped_clock, strftime


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


# ------------------------------------------------------------------- options, date, prefill and BOS


def test_options_are_one_value_whatever_their_order():
    given = {"b": [1, {"y": 2, "x": None}], "a": False}
    one, other = Context(options=given), Context(options=dict(reversed(given.items())))
    assert one == other
    assert hash(one) == hash(other)
    given["b"].append(3)
    assert one == other, "the caller's own may change"
    assert dict(one.options) == {"a": False, "b": (1, {"x": None, "y": 2})}
    assert one != Context(options={**other.options, "a": 0}), "0 is not False"
    with pytest.raises(TypeError):
        one.options["a"] = True
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert repr(one.options) == "{'a': False, 'b': [1, {'x': None, 'y': 2}]}"


FULL = Context(
    "Be kind.", options={"effort": "low", "tags": ["a"]}, date="2025-01-31", prefill="I", bos=False
)


@pytest.mark.parametrize("context", [FULL, Context(fallback="none"), Context(bos=True)], ids=str)
def test_all_of_a_context_survives_json(context):
    assert Context.from_json(json.loads(json.dumps(context.to_json()))) == context
    assert dataclasses.replace(context) == context


def test_a_context_shows_what_is_not_at_its_default():
    shown = "Context(system=<System.DEFAULT: 'default'>, user_prefix='', fallback=None, "
    assert repr(Context()) == f"{shown}literal=False)"
    assert repr(Context(date="2025-01-31", bos=False)).endswith("date='2025-01-31', bos=False)")


def test_what_is_at_its_default_is_not_written_so_that_hashes_stay():
    assert list(Context(date="2024-07-26").to_json()) == ["system", "user_prefix", "fallback"]
    assert FULL.to_json() == {
        "system": {"text": "Be kind."},
        "user_prefix": "",
        "fallback": None,
        "options": {"effort": "low", "tags": ["a"]},
        "date": "2025-01-31",
        "prefill": "I",
        "bos": False,
    }


@pytest.mark.parametrize("value", [{1}, float("nan"), object(), {"x": {1: 2}}, np.float64(1)])
def test_options_are_what_json_holds(value):
    with pytest.raises(ValueError, match="options"):
        Context(options={"x": value})


def test_the_date_is_resolved_once(monkeypatch):
    class Day(datetime.date):
        @classmethod
        def today(cls):
            return cls(2025, 2, 3)

    monkeypatch.setattr(datetime, "date", Day)
    context = Context(date="today")
    assert context.date == "2025-02-03"
    assert dataclasses.replace(context, user_prefix="Now: ").date == "2025-02-03"
    assert Context().date == DATE == "2024-07-26"
    assert Context(date="20250203") == context


@pytest.mark.parametrize("date", ["tomorrow", "2025-02-30", "26 Jul 2024", ""])
def test_a_date_is_a_date(date):
    with pytest.raises(ValueError, match=rf"Context\(date='{date}'\) is no date; .*'today'"):
        Context(date=date)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("system", "Calm \ud83c"),
        ("user_prefix", "Calm \udf75: "),
        ("prefill", "Calm \udf75"),
        ("options", {"tools": [{"Calm \ud83c": 1}]}),
    ],
)
def test_half_a_character_is_refused_where_it_is_given(name, value):
    told = (
        rf"^Context\({name}=\.\.\.\): 'Calm .* has half a character at place 5 .*; write the whole"
    )
    with pytest.raises(ValueError, match=told):
        Context(**{name: value})


def test_a_blank_prefill_is_refused():
    with pytest.raises(ValueError, match=r"prefill='\\n'\) is blank"):
        Context(prefill="\n")


@pytest.mark.parametrize("given", [{"options": {"x": 1}}, {"prefill": "I"}, {"date": "2025-01-01"}])
def test_raw_text_has_no_template_to_tell(given):
    with pytest.raises(ValueError, match="raw text has no turns and no template"):
        dataclasses.replace(RAW, **given)


FORMS = ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%A, %-d %B %Y", "%H:%M", "%j %y %%"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("date", ["2024-07-26", "2025-03-01", "1999-12-09"])
def test_the_clock_tells_a_day_as_python_does(form, date):
    told = datetime.datetime.fromisoformat(date).strftime(form)
    assert strftime(date, form) == told
    macro = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = "  {% if true %}\n{{ strftime_now(f) }}{% endif %}"
    assert macro.from_string(stopped_clock(date) + template).render(f=form) == told


def test_a_written_date_tells_its_form():
    assert format_of("26 Jul 2024") == "%d %b %Y"
    assert format_of("2024-07-26") == "%Y-%m-%d"
    assert format_of("July 26, 2024") == "%B %d, %Y"
    assert format_of("yesterday") is None
