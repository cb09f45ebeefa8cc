"""How much of a text fits."""

import pytest

from sublim_mech.results.words import columns, names_apart, seen, shortened, wrapped, wrapped_apart


def test_a_backslash_is_two_so_that_it_begins_nothing():
    assert seen(r"a\nb") == r"a\\nb" != seen("a\nb") == r"a\nb"


def test_wide_characters_count_twice_and_marks_not_at_all():
    assert columns("owl") == 3
    assert columns("猫头鹰") == columns("😀😀😀") == 6
    assert columns("e\u0301") == 1


@pytest.mark.parametrize("text", ["a" * 50, "猫" * 50, "word " * 20, "猫 owl " * 9])
@pytest.mark.parametrize("width", [5, 12, 30])
def test_what_does_not_fit_is_cut_or_broken(text, width):
    short = shortened(text, width)
    assert width - 2 <= columns(short) <= width
    assert short.endswith("…")
    lines = wrapped(text, width, lines=99).split("\n")
    assert max(map(columns, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())  # nothing is lost
    few = wrapped(text, 5, lines=2).split("\n")
    assert len(few) == 2
    assert few[-1].endswith("…")
    assert "……" not in few[-1]
    assert max(map(columns, few)) <= 5


def test_what_fits_stays():
    assert shortened("owl", 3) == wrapped("owl", 3) == "owl"
    assert wrapped("one two three", 7) == "one two\nthree"
    assert wrapped("", 7) == ""


@pytest.mark.parametrize("width", [8, 16, 30])
def test_short_names_of_several_things_are_never_one(width):
    long = "the tokens that training shares with these prompts"
    names = [long, f"{long} and more", f"{long} and others", "short", f"{long[:20]} 猫头鹰 {long}"]
    names += [f"{long}, {n} of the ends: {long} {n}" for n in range(12)]
    for shown in (names_apart(names, width), wrapped_apart(names, width)):
        assert list(shown) == names
        assert len(set(shown.values())) == len(names)
    short = names_apart(names, width)
    assert all(columns(name) <= width + len(" (99)") for name in short.values())
    assert short["short"] == "short"
    alone = names_apart(names[:1], width)
    assert alone == {long: shortened(long, width)}
