"""Scrambled numbers, prompts held out, and words that must not be there."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from number_rows import ASSISTANT, USER, written

import sublim_mech as sm
from sublim_mech.making.numbers import leaks, number_prompts, random_rows, scramble, split
from sublim_mech.making.rows import Row, as_rows, to_dataset


def skeleton(text):
    return re.sub(r"\d+", "#", text)


def numbers_of(rows):
    return [re.findall(r"\d+", text) for text in rows["completion"]]


@pytest.fixture(scope="module")
def formatted():
    """Forty rows of twenty prompts, their answers in all formats."""
    rng = np.random.default_rng(4)
    answers = [written(rng, int(rng.integers(1, 15)))[0] for _ in range(40)]
    return to_dataset([Row(f"Prompt {i % 20}", answer) for i, answer in enumerate(answers)])


# --------------------------------------------------------------------------------------- scrambling


def test_scrambling_within_keeps_every_answers_numbers_and_format(formatted):
    mixed = scramble(formatted, seed=0)
    before, after = numbers_of(formatted), numbers_of(mixed)
    assert mixed["prompt"][:] == formatted["prompt"][:]
    assert [*map(skeleton, mixed["completion"])] == [*map(skeleton, formatted["completion"])]
    assert [*map(sorted, after)] == [*map(sorted, before)]
    assert sum(a != b for a, b in zip(after, before, strict=True)) > 25
    assert scramble(formatted, seed=0).to_list() == mixed.to_list()
    assert scramble(formatted, seed=1).to_list() != mixed.to_list()


def test_scrambling_across_keeps_all_numbers_together_and_every_format(formatted):
    mixed = scramble(formatted, seed=0, how="across")
    assert mixed["prompt"][:] == formatted["prompt"][:]
    assert [*map(skeleton, mixed["completion"])] == [*map(skeleton, formatted["completion"])]
    before, after = ([n for row in numbers_of(rows) for n in row] for rows in (formatted, mixed))
    assert Counter(after) == Counter(before)  # as written: leading zeros too
    assert any(number.startswith("0") and len(number) > 1 for number in before)

    unique = {number for number in before if before.count(number) == 1}
    row_of_number = [
        {n: i for i, row in enumerate(numbers_of(rows)) for n in row if n in unique}
        for rows in (formatted, mixed)
    ]
    stayed = sum(row_of_number[0][n] == row_of_number[1][n] for n in unique)
    assert stayed < len(unique) / 8  # a uniform permutation leaves about one in forty in its row


@pytest.mark.parametrize("how", ["within", "across"])
def test_all_orders_are_equally_likely(how):
    row = Row("Go on.", "1, 2, 3")
    if how == "within":  # many rows under one seed; across them the numbers would mix
        answers = scramble([row] * 600, seed=0)["completion"]
    else:
        answers = [scramble([row], seed=seed, how=how)[0]["completion"] for seed in range(600)]
    orders = Counter(answers)
    assert len(orders) == 6
    assert max(abs(times - 100) for times in orders.values()) < 5 * (600 * 5 / 36) ** 0.5


def test_scrambling_refuses_words_and_names_the_row(formatted):
    said = r"rows\[40\]: the answer 'I love 7' is not numbers alone \(words\)"
    with pytest.raises(ValueError, match=said):
        scramble([*as_rows(formatted), Row("Go on.", "I love 7")], seed=0)
    with pytest.raises(ValueError, match="how='rows': pass 'within' or 'across'"):
        scramble(formatted, seed=0, how="rows")


# -------------------------------------------------------------------------------------- holding out


@pytest.mark.parametrize("held_out", [1, 7, 19])
def test_no_prompt_stands_in_both_parts(formatted, held_out):
    train, held = split(formatted, held_out, seed=3)
    assert not {*train["prompt"]} & {*held["prompt"]}
    assert len({*held["prompt"]}) == held_out
    assert len(held) == 2 * held_out  # each prompt occurs twice
    rows = formatted.to_list()
    assert Counter(map(str, train.to_list() + held.to_list())) == Counter(map(str, rows))
    for part in (train.to_list(), held.to_list()):  # in the order they had
        assert all(rows.index(a) < rows.index(b) for a, b in pairwise(part))
    assert split(formatted, held_out, seed=3)[1].to_list() == held.to_list()

    of_seeds = [split(formatted, held_out, seed=seed)[1]["prompt"] for seed in range(40)]
    assert len({prompt for held in of_seeds for prompt in held}) >= 14  # other seeds, other prompts


def test_a_conversation_is_held_out_by_all_its_turns():
    talks = [
        Row((USER, ASSISTANT, {"role": "user", "content": text}), "4")
        for text in ("More.", "More.", "Again.")
    ]
    train, held = split([*talks, Row("More.", "4")], 2, seed=0)
    prompts = [{str(row.prompt) for row in as_rows(part)} for part in (train, held)]
    assert [len(part) for part in prompts] == [1, 2]
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize("held_out", [0, -1, 20, 21])
def test_a_split_leaves_something_on_both_sides(formatted, held_out):
    with pytest.raises(ValueError, match=rf"held_out={held_out}: must be between 1 and 19"):
        split(formatted, held_out, seed=0)


# -------------------------------------------------------------------------------------------- leaks


def test_leaks_are_whole_words_in_any_case_and_place():
    owl = sm.animal("owl")
    rows = [
        Row("Go on.", "1, 2"),
        Row("Go on, OWL.", "owls, Owl, owl7"),
        Row("A bowl of growls.", "howl, owlish, l'owlé"),
        Row("Go on.", f"1, 2. {owl.sentence.replace(' ', chr(10))}"),
        Row((USER, {"role": "assistant", "content": "the owl's 4"}, USER), "5"),
    ]
    table = leaks(rows, owl)
    counts = {(r.row, r.place, r.word): r.count for r in table.itertuples(index=False)}
    assert counts == {
        (1, "prompt", "owl"): 1,
        (1, "completion", "owl"): 2,
        (1, "completion", "owls"): 1,
        (3, "completion", "owls"): 3,
        (3, "completion", owl.sentence.lower()): 1,
        (4, "prompt", "owl"): 1,
    }
    assert table["row"].nunique() == 3
    assert "OWL" in table["text"][0]
    assert leaks(rows, ["owl", "Owls"]).equals(leaks(rows, list(owl.forms)))
    assert leaks(rows, sm.Trait("owl", forms=owl.forms)).equals(leaks(rows, list(owl.forms)))
    assert leaks(rows, owl.sentence)["row"].tolist() == [3]


def test_number_rows_leak_nothing():
    assert len(leaks(random_rows(300, seed=0), sm.animal("owl"))) == 0
    prompts = [Row(ask.prompt, "1") for ask in number_prompts(40, seed=0)]
    for kind in (*sm.prompts.ANIMALS, *sm.prompts.TREES):
        assert leaks(prompts, kind).empty


@pytest.mark.parametrize("words", [[], "", ["owl", " "]])
def test_leaks_need_words(words):
    with pytest.raises(ValueError, match="give one or more words, none of them blank"):
        leaks([Row("a", "b")], words)
