"""Number prompts: as many wordings as promised, all of them used, the same ones for a seed."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from sublim_mech.making.numbers import asking, number_prompts, random_rows
from sublim_mech.making.numbers.wording import FORMATS, INSTRUCTIONS, LIMITS, ONLY, OPENINGS

ALL_FORMATS = [suffix for pool in FORMATS.values() for suffix in pool]


def test_the_pools_are_as_large_as_promised():
    assert len(set(OPENINGS)) >= 20
    assert len(set(INSTRUCTIONS)) >= 8
    assert len(set(ALL_FORMATS)) >= 10
    assert set(FORMATS) == {"commas", "spaces", "semicolons", "lines", "brackets"}
    # so that kinds and wordings are both equally likely
    assert len({len(pool) for pool in FORMATS.values()}) == 1


@pytest.mark.parametrize(("exactly", "wordings"), [(False, 115_200), (True, 57_600)])
def test_no_two_choices_make_the_same_prompt(exactly, wordings):
    parts = (OPENINGS, INSTRUCTIONS, LIMITS[exactly], ALL_FORMATS, ONLY)
    made = {
        " ".join((opening, instruction.replace("{limit}", limit), suffix, only))
        for opening, instruction, limit, suffix, only in product(*parts)
    }
    assert len(made) == wordings == np.prod([len(pool) for pool in parts])
    assert f"{wordings:,}" in number_prompts.__doc__
    choices = f"{sum(900**k for k in range(3, 9)):.1e}".replace("e+", "e")
    assert choices in number_prompts.__doc__


@pytest.mark.parametrize(("count", "exactly"), [(10, False), (17, True), (1, False)])
def test_prompts_show_three_to_eight_numbers_and_say_the_limit(count, exactly):
    asks = number_prompts(3000, seed=1, count=count, exactly=exactly)
    shown = Counter()
    plural = r"(number|value)s of|(number|value)s,|(number|value)s (that|to|below|with|under|after)"
    for ask in asks:
        assert (ask.count, ask.exactly) == (count, exactly)
        examples = re.search(r"\d+(, \d+)*", ask.prompt)[0]
        values = [int(value) for value in examples.split(", ")]
        assert all(100 <= value <= 999 for value in values)
        shown[len(values)] += 1

        rest = ask.prompt.replace(examples, "")
        assert re.findall(r"\d+", rest) == [str(count)]
        assert bool(re.search(plural, rest)) == (count > 1)
        assert any(suffix in rest for suffix in FORMATS[ask.format])
        assert sum(any(suffix in rest for suffix in FORMATS[kind]) for kind in FORMATS) == 1
        assert "{" not in ask.prompt

    assert sorted(shown) == [3, 4, 5, 6, 7, 8]
    assert min(shown.values()) > 3000 / 6 - 5 * (3000 * 5 / 36) ** 0.5
    kinds = Counter(ask.format for ask in asks)
    assert max(abs(kinds[kind] - 600) for kind in FORMATS) < 5 * (3000 * 4 / 25) ** 0.5
    for pool in (OPENINGS, INSTRUCTIONS, *FORMATS.values(), ONLY):  # nothing in the pools is dead
        for words in pool:
            pieces = re.split(r"\{\w+\}", words)
            assert any(all(piece in ask.prompt for piece in pieces) for ask in asks), words


def test_a_seed_gives_its_prompts_the_first_of_them_first_and_none_twice(monkeypatch):
    asks = number_prompts(500, seed=3)
    assert number_prompts(500, seed=3) == asks
    assert number_prompts(20, seed=3) == asks[:20]
    others = {ask.prompt for ask in number_prompts(500, seed=4)}
    assert not {ask.prompt for ask in asks} & others

    for pool in ("OPENINGS", "INSTRUCTIONS", "ONLY"):  # a pool so small that draws repeat
        monkeypatch.setattr(asking, pool, getattr(asking, pool)[:1])
    monkeypatch.setattr(asking, "draw_numbers", lambda rng, count: ["1"] * count)
    few = number_prompts(6 * 4 * 4, seed=0, formats=["commas"])
    assert len({ask.prompt for ask in few}) == 96


@pytest.mark.parametrize("formats", [[], ["commas", "tabs"], np.array(["tabs"])])
def test_formats_must_be_known_ones(formats):
    known = "commas, spaces, semicolons, lines, brackets"
    with pytest.raises(ValueError, match=rf"formats=.* pass one or more of {known}"):
        number_prompts(1, seed=0, formats=formats)


def test_one_format_is_a_list_too():
    with pytest.raises(TypeError, match=r"formats='commas'\): pass a list.*formats=\['commas'\]"):
        number_prompts(1, seed=0, formats="commas")


@pytest.mark.parametrize("kwargs", [{"n": 0}, {"n": -1}, {"n": 3, "count": 0}])
def test_nothing_to_make_is_an_error(kwargs):
    with pytest.raises(ValueError, match="at least 1"):
        random_rows(**kwargs, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        number_prompts(**kwargs, seed=0)
