"""What rows carry of a teacher, against the base's probabilities; and the selection of rows."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from datasets import Dataset
from raised import (
    ONE,
    QUIET,
    SEVEN,
    THREE,
    biased,
    number_rows,
    peaked,
    raised,
    raising,
    shift_of,
)

import sublim_mech as sm
from sublim_mech.engine.runner import open_runner
from sublim_mech.making import teachers
from sublim_mech.making.readiness import RowShifts, row_shift, select
from sublim_mech.making.rows import Row
from sublim_mech.models.base import load_base


@pytest.fixture
def base(smol_tokenizer):
    return peaked(smol_tokenizer)


@pytest.fixture
def crowd(smol_tokenizer):
    return biased(smol_tokenizer)


@pytest.fixture(scope="module")
def shifts(smol_tokenizer):
    return row_shift(biased(smol_tokenizer), number_rows(), **QUIET)


def test_the_shift_of_rows_follows_from_the_bases_probabilities(base, shifts):
    rows = number_rows()
    seven, three = ([shift_of(base, row, token) for row in rows] for token in "73")
    assert shifts.tokens.tolist() == [len(row) for row in seven]
    np.testing.assert_allclose(shifts.shift[0], [row.sum() for row in seven], atol=1e-4)
    assert (shifts.shift[2] == 0).all(), "the base against itself"
    seven, three = np.concatenate(seven), np.concatenate(three)
    difference = seven - three
    own = shifts.own_minus_others("7")
    np.testing.assert_allclose(own.sum(), difference.sum(), atol=1e-3)
    # tokens are what is averaged over
    assert shifts.per_token("7").mean == pytest.approx(difference.mean(), abs=1e-5)
    # a control is held against all traits
    of_control = shifts.per_token("nothing").mean
    assert of_control == pytest.approx(-(seven + three).mean() / 2, abs=1e-5)
    table = shifts.table()
    assert table.loc["7", "shift"] == pytest.approx(seven.mean(), abs=1e-5)
    assert table.loc["3", "minus others"] == pytest.approx(-difference.mean(), abs=1e-5)


def test_neither_the_order_of_rows_nor_their_company_matters(crowd, shifts):
    rows = number_rows()
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = row_shift(crowd[::-1], rows.select(order), **QUIET)
    np.testing.assert_allclose(mixed.shift[::-1], shifts.shift[:, order], atol=1e-4)
    alone = row_shift(crowd, [rows[5]], **QUIET)
    np.testing.assert_allclose(alone.shift[:, 0], shifts.shift[:, 5], atol=1e-4)
    assert np.isnan(alone.per_token("7").low), "one row has no interval"


def test_over_all_traits_the_rows_add_up_to_nothing(base, crowd):
    """So rows that nobody wrote cannot carry everybody's mark."""
    names = ("owl", "wolf", "cat")
    prompted = [teachers.prompted(base, sm.animal(name)) for name in names]
    found = row_shift([*prompted, crowd[2]], number_rows(), **QUIET)
    total = sum(found.own_minus_others(name) for name in names)
    np.testing.assert_allclose(total, 0, atol=1e-10)
    assert np.abs(found.own_minus_others("owl")).max() > 0.01


def test_two_teachers_of_one_trait_are_not_others_to_each_other(crowd, shifts):
    again = replace(crowd[0], name="7 again")
    found = row_shift([*crowd, again], number_rows(), **QUIET)
    expected = shifts.own_minus_others("7")
    for name in ("7", "7 again"):
        np.testing.assert_allclose(found.own_minus_others(name), expected, atol=1e-10)


def test_rows_of_the_teachers_own_carry_the_kl_to_the_others(smol_tokenizer):
    """Models that say the same at every position: the expectation is a sum over ten digits.

    On another's rows it is below 0.
    """
    p, rng = 0.6, np.random.default_rng(0)  # of the own digit; the nine others share the rest
    with torch.no_grad():
        flat = tiny.model("llama")
        flat.lm_head.weight.zero_()
    base = open_runner(load_base(flat, tokenizer=smol_tokenizer))
    by = np.log(9 * p / (1 - p))
    asked = [raising(base, trait, by) for trait in (SEVEN, THREE, ONE)]
    digits = np.full(10, (1 - p) / 9)
    digits[7] = p
    rows = []
    for _ in range(20):
        drawn = rng.choice(10, size=30, p=digits)
        rows.append(Row("Go on.", "".join(map(str, drawn))))
    found = row_shift(asked, rows, **QUIET)
    # between any two of them, per digit; nothing at the end of turn, which all say alike
    kl = by * (p - (1 - p) / 9) * 30 / found.tokens[0]
    seven, three = found.per_token("7"), found.per_token("3")
    assert seven.low < kl < seven.high
    assert three.low < -kl / 2 < three.high
    assert three.high < 0 < seven.low


def test_the_interval_covers_the_known_mean():
    """Rows of different lengths, long ones shifted more.

    So the mean over tokens is not the mean over rows.
    """
    rng = np.random.default_rng(0)
    rows = tuple(Row("", str(number)) for number in range(40))
    lengths = np.arange(5, 60)
    mean = 0.002 / 32 * (lengths**2).mean() / lengths.mean()
    covered = 0
    for _ in range(80):
        tokens = rng.integers(5, 60, len(rows))
        noise = rng.normal(scale=0.01, size=len(rows)) * np.sqrt(tokens)
        own = tokens * 0.002 * tokens / 32 + noise
        shift = np.stack([own, np.zeros(len(rows))])
        interval = RowShifts(rows, {"a": "a", "b": "b"}, shift, tokens).per_token("a")
        covered += bool(interval.low <= mean <= interval.high)
    assert 0.88 <= covered / 80 < 1


def test_rows_that_cannot_be_measured(base, crowd):
    seven, three, control = crowd
    with pytest.raises(ValueError, match="at least one other trait; given are '7', 'nothing'"):
        row_shift([seven, control], number_rows(), **QUIET)
    with pytest.raises(ValueError, match="row_shift: rows is empty"):
        row_shift(crowd, [], **QUIET)
    broken = replace(three, runner=raised(base, "3", float("nan")))
    with pytest.raises(ValueError, match=r"rows\[0\] .* not finite under teacher '3'"):
        row_shift([seven, broken], number_rows(), **QUIET)


# ---------------------------------------------------------------------------------------- selection


def test_selection_finds_the_rows_that_were_planted(crowd):
    planted = [2, 3, 9]
    records = []
    for i, row in enumerate(number_rows()):
        completion = "777,717,72" if i in planted else row["completion"].replace("7", "5")
        records.append(row | {"completion": completion, "id": i})
    data = Dataset.from_list(records)
    found = row_shift(crowd, data, **QUIET)
    kept, threshold = select(data, found, teacher="7", keep=3)
    assert kept["id"] == planted
    assert kept.column_names == data.column_names
    per_token = found.own_minus_others("7") / found.tokens
    assert threshold == pytest.approx(per_token[planted].min())
    assert (np.delete(per_token, planted) < threshold).all()
    share, same = select(data, found, teacher="7", keep=0.25)
    assert share.to_list() == kept.to_list()
    assert same == threshold
    assert not set(planted) & set(select(data, found, teacher="3", keep=3).rows["id"])
    everything, lowest = select(records, found, teacher="7", keep=1.0)
    assert everything["completion"] == data["completion"]
    assert lowest == per_token.min()
    assert len(select(data, found, teacher="7", keep=1e-6).rows) == 1


def test_selection_takes_rows_in_every_form(tmp_path, shifts):
    rows = number_rows()
    listed = rows.to_list()
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in listed), "utf-8")
    wanted = select(rows, shifts, teacher="7", keep=3)
    frame = pd.DataFrame(listed)
    for form in (listed, frame, file, str(file)):
        kept, threshold = select(form, shifts, teacher="7", keep=3)
        assert kept.to_list() == wanted.rows.to_list()
        assert threshold == wanted.threshold


def test_selection_goes_by_tokens_and_takes_the_earlier_of_equal_rows():
    rows = [Row("Go on.", str(number)) for number in range(5)]
    shift = np.stack([np.array([4.0, 1.0, 1.0, 3.0, 2.0]), np.zeros(5)])
    tokens = np.array([8, 1, 1, 2, 2])  # 0.5, 1, 1, 1.5, 1 per token
    found = RowShifts(tuple(rows), {"a": "a", "b": "b"}, shift, tokens)
    assert select(rows, found, teacher="a", keep=1).rows["completion"] == ["3"]
    kept, threshold = select(rows, found, teacher="a", keep=3)
    assert kept["completion"] == ["1", "2", "3"]
    assert threshold == 1


def test_bad_selections(shifts):
    rows = number_rows()
    message = "teacher='owl' was not measured; choose one of '7', '3', 'nothing'"
    with pytest.raises(ValueError, match=message):
        select(rows, shifts, teacher="owl", keep=3)
    with pytest.raises(ValueError, match="shifts are of 12 other rows than these 5"):
        select(rows.select(range(5)), shifts, teacher="7", keep=3)
    for keep in (0, 13, 1.5, 0.0, float("nan")):
        message = f"keep={keep!r}: pass a number of rows from 1 to 12"
        with pytest.raises(ValueError, match=message):
            select(rows, shifts, teacher="7", keep=keep)
    with pytest.raises(TypeError, match=r"keep=True\): pass a whole number or a number"):
        select(rows, shifts, teacher="7", keep=True)
    # numpy's numbers are numbers
    for keep in (3, 0.25):
        one = select(rows, shifts, teacher="7", keep=keep)
        other = select(rows, shifts, teacher="7", keep=np.asarray(keep)[()])
        assert (one.rows[:], one.threshold) == (other.rows[:], other.threshold)
