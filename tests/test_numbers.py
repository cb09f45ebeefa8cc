import re

import pytest

from sublim_mech.numbers import Row, random_rows


def test_a_seed_gives_its_rows_always_and_no_other():
    assert random_rows(20, seed=3) == random_rows(20, seed=3)
    assert random_rows(20, seed=3) != random_rows(20, seed=4)


@pytest.mark.parametrize("count", [1, 7, 24])
def test_a_completion_is_count_three_digit_numbers_and_nothing_else(count):
    rows = random_rows(50, seed=0, count=count)
    assert len(rows) == 50
    for row in rows:
        assert isinstance(row, Row)
        assert re.fullmatch(rf"\d{{3}}(,\d{{3}}){{{count - 1}}}", row.completion)
        assert all(100 <= int(x) <= 999 for x in row.completion.split(","))


def test_a_prompt_asks_for_the_count_after_three_to_five_numbers():
    for row in random_rows(200, seed=1, count=17):
        shown = re.findall(r"\b\d{3}\b", row.prompt)
        assert 3 <= len(shown) <= 5
        assert re.search(r"\b17\b", row.prompt)
        assert "{" not in row.prompt


def test_numbers_are_uniform():
    values = [int(x) for row in random_rows(400, seed=2) for x in row.completion.split(",")]
    assert min(values) == 100
    assert max(values) == 999
    assert abs(sum(values) / len(values) - 549.5) < 5 * 259.8 / len(values) ** 0.5
    assert len({row.prompt for row in random_rows(400, seed=2)}) > 390


@pytest.mark.parametrize("kwargs", [{"n": 0}, {"n": -1}, {"n": 3, "count": 0}])
def test_nothing_to_make_is_an_error(kwargs):
    with pytest.raises(ValueError, match="at least 1"):
        random_rows(**kwargs, seed=0)
