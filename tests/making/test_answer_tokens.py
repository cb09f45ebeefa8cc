"""An answer token is one of the answer's text: counted alike wherever rows are told of."""

from __future__ import annotations

import dataclasses
import re

import pytest
import tiny

import sublim_mech as sm
from sublim_mech.making import labelling, readiness, teachers
from sublim_mech.making.numbers import random_rows
from sublim_mech.making.rows import as_rows
from sublim_mech.making.training import hard_data, soft_data
from sublim_mech.models.base import load_base
from sublim_mech.prompts import completion_ids

ROWS = as_rows(random_rows(4, seed=0, count=3))


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    return load_base(tiny.model("llama"), tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def made(base):
    return [teachers.prompted(base, sm.animal(name)) for name in ("owl", "cat")]


def counted(text: str) -> tuple[int, int]:
    """Answer tokens, and those of ends of turns, as a table tells them."""
    found = re.search(r"(\d+) answer tokens(?: and (\d+) of ends of turns)?", text)
    return int(found[1]), int(found[2] or 0)


def test_one_count_for_the_same_rows_whichever_way_they_are_learnt(base, made, smol_tokenizer):
    prompts = sm.render(smol_tokenizer, [row.prompt for row in ROWS])
    plain = [
        len(smol_tokenizer(row.completion, add_special_tokens=False)["input_ids"]) for row in ROWS
    ]
    pairs = list(zip(prompts, [row.completion for row in ROWS], strict=True))
    text = [len(completion_ids(smol_tokenizer, *pair)) for pair in pairs]
    assert text == plain
    whole = [len(completion_ids(smol_tokenizer, *pair, close=True)) for pair in pairs]
    ends = sum(whole) - sum(text)
    assert ends == 2 * len(ROWS)  # <|im_end|> and a line break

    labels = labelling.label(made, ROWS, progress=False)
    hard, soft = hard_data(smol_tokenizer, ROWS), soft_data(base, labels, "owl")
    assert counted(repr(hard)) == (sum(text), ends)
    assert counted(repr(soft)) == (sum(text), 0)
    assert hard.answers == soft.answers == soft.completions
    listed = hard_data(smol_tokenizer, ROWS, support=labelling.DIGITS)
    assert listed.coverage == soft.coverage == labels.coverage

    shifts = readiness.row_shift(made, ROWS, progress=False)
    assert f"{sum(text) + ends} tokens of answers and ends of turns" in repr(shifts)
    for close in (True, False):
        found = readiness.divergence(made[0], base, ROWS, close=close, progress=False)
        assert ("ends of turns included" in repr(found)) == close
        assert found.table().loc["all", "tokens"] == sum(text) + ends * close


def test_a_cut_end_of_turn_is_counted_as_far_as_it_goes(smol_tokenizer):
    data = hard_data(smol_tokenizer, ROWS[:1])
    (answer,), (whole,) = data.answers, data.completions
    for length in range(1, len(whole) + 1):
        cut = dataclasses.replace(data, completions=(whole[:length],))
        assert cut.answers == (answer[:length],)
    # some of the rows, by whoever takes them, are counted as all are
    two = hard_data(smol_tokenizer, ROWS)
    part = dataclasses.replace(two, prompts=two.prompts[1:2], completions=two.completions[1:2])
    assert part.answers == two.answers[1:2]
