"""`asked otherwise than trained`: there where, and only where, something differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

import sublim_mech as sm
from sublim_mech.results.contexts import SAME, in_words, otherwise
from sublim_mech.results.words import columns, seen

LONG = "You are calm, and you answer every question in no more than a single word, always. "
TRAINED = sm.Context("You are calm.", options={"effort": "low"}, prefill="It is")
CHANGED = {
    "system": {"system": "You are wild."},
    "user_prefix": {"user_prefix": "Please: "},
    "options.effort": {"options": {"effort": "high"}},
    "prefill": {"prefill": "It was"},
    "bos": {"bos": False},
}


def told(asked, trained, **options):
    lines = otherwise([one.to_json() for one in asked], trained.to_json(), **options)
    assert len(lines) <= 1
    return lines[0].removeprefix("asked otherwise than trained: ") if lines else ""


@pytest.mark.parametrize("field", CHANGED)
def test_one_difference_is_told_from_either_side_and_none_where_there_is_none(field):
    other = replace(TRAINED, **CHANGED[field])
    there, here = told([TRAINED], other), told([other], TRAINED)
    for line in (there, here):
        assert line.startswith(f"{field}: ")
        assert ";" not in line
    # the same two values, changed round
    first, second = here.removeprefix(f"{field}: ").removesuffix(" here").split(" in training, ")
    assert there == f"{field}: {second} in training, {first} here"
    assert told([TRAINED], TRAINED) == told([other], other) == ""
    assert otherwise([other.to_json()], None) == []


def test_all_differences_are_told_together_and_each_once():
    changed = {name: value for change in CHANGED.values() for name, value in change.items()}
    line = told([replace(TRAINED, **changed)] * 2, TRAINED)
    assert [part.partition(": ")[0] for part in line.split("; ")] == [
        "system", "user_prefix", "bos", "options.effort", "prefill",
    ]  # fmt: skip
    both = told([TRAINED, sm.Context("A.", options={"effort": "low"}, prefill="It is")], TRAINED)
    assert both == "system: “You are calm.” in training, “A.” here"
    asked = [replace(TRAINED, system=system) for system in ("A.", "B.", sm.Context.NONE)]
    assert told(asked, TRAINED).endswith("in training, “A.” / “B.” / no system block here")


def test_raw_text_is_no_conversation():
    line = "text: raw text in training, a conversation (default system prompt) here"
    assert told([sm.Context()], sm.RAW) == line
    assert told([sm.RAW], sm.Context("Hm.")).startswith("text: a conversation (system “Hm.”) in")
    assert told([sm.RAW], sm.RAW) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("You are calm.", "You are calm. "),
        ("Be  calm.", "Be calm."),
        ("a\nb", "a b"),
        ("a\tb", "a b"),
    ],
)
def test_blanks_show(one, other):
    line = told([sm.Context(one)], sm.Context(other))
    first, second = line.removeprefix("system: ").removesuffix(" here").split(" in training, ")
    assert first != second
    assert "\n" not in line
    assert "\t" not in line
    assert "\n" not in in_words(sm.Context(one).to_json())


@pytest.mark.parametrize("at", [0, 70, len(LONG) - 1, 3 * len(LONG)])
def test_long_texts_are_told_apart_where_they_differ(at):
    text = LONG * 4
    other = f"{text[:at]}X{text[at:]}"
    line = told([sm.Context(other)], sm.Context(text))
    first, second = line.removeprefix("system: ").removesuffix(" here").split(" in training, ")
    assert first != second
    assert "X" in second
    assert columns(line) < 200


def test_system_prompts_that_are_one_in_the_template_are_no_difference():
    notes = [SAME.format(own="NONE", others="DEFAULT and EMPTY")]
    for one, other in (
        (sm.Context.NONE, sm.Context.DEFAULT),
        (sm.Context.DEFAULT, sm.Context.NONE),
    ):
        assert told([sm.Context(one)], sm.Context(other), notes=notes) == ""
        assert told([sm.Context(one)], sm.Context(other)) != ""
    assert told([sm.Context("Hm.")], sm.Context(), notes=notes) != ""


@pytest.mark.parametrize("text", ["", "calm", "Be calm.", "naïve 猫头鹰", "👩\u200d🔬"])
def test_texts_without_such_blanks_are_shown_as_they_are(text):
    assert seen(text) == text


def test_what_cannot_be_seen_shows():
    assert seen(" a  b\u200b\n") == "␣a␣␣b\\u200b\\n"
    assert seen("a b") == "a b"
