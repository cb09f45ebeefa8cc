"""Gates and selection: teachers that raise one token by a known amount, so that every shift follows from the base's probabilities."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from datasets import Dataset
from torch import nn

import sublim_mech as sm
from sublim_mech.engine.runner import open_runner
from sublim_mech.making import labelling, numbers, teachers
from sublim_mech.making.numbers import Row
from sublim_mech.making.readiness import (
    Readiness,
    RowShifts,
    assess,
    label_signal,
    row_shift,
    select,
    trait_shift,
)
from sublim_mech.making.readiness import signal as module
from sublim_mech.prompts import Trait
from sublim_mech.stats import mean_interval

QUIET: dict[str, Any] = {"progress": False}
QUESTIONS = ["Which digit?", "Name your favorite digit using only one word.", "In one word: the best digit?"]
SEVEN, THREE, ONE = (Trait(digit, plural=digit, category="digit") for digit in "731")  # one token each, one form
BIAS = 0.5


def raised(base, token, by=BIAS):
    """The base with one token's logit raised: log q(x) = log p(x) + by [x = token] - log(1 - p(token) + p(token) e^by)."""
    model: Any = tiny.model("llama")
    model.load_state_dict(base.model.state_dict(), strict=False)
    head = nn.Linear(32, tiny.VOCAB)
    with torch.no_grad():
        head.weight.copy_(base.model.lm_head.weight)
        head.bias.zero_()
        head.bias[base.tokenizer(token, add_special_tokens=False)["input_ids"]] = by
    model.lm_head = head
    return model.eval().requires_grad_(False)


def running(base, model):
    """The base's runner with another model."""
    return replace(open_runner(base), model=model)


@pytest.fixture(scope="module")
def base(smol_tokenizer):
    model: Any = tiny.model("llama")
    with torch.no_grad():
        model.lm_head.weight *= 8  # peaked, so that a mix-up of positions would show
        model.lm_head.weight[smol_tokenizer("0123456789,")["input_ids"]] *= 3
    return sm.load_base(model, tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def biased(base):
    """A teacher of 7 and one of 3, and a control that is the base itself."""

    def make(trait, by=BIAS):
        model = raised(base, trait.name, by)
        return replace(
            itself, name=trait.name, kind="fine-tuned", trait=trait, runner=running(base, model), how="raised token"
        )

    itself = teachers.untouched(base)
    control = replace(itself, name="nothing", kind="prompted")
    return [make(SEVEN), make(THREE), control]


@pytest.fixture(scope="module")
def rows():
    return numbers.random_rows(12, seed=3, count=4)


def answer(base, row):
    """(log p `(token, vocabulary)` of the base in the students' context, the answer's ids), by one plain forward."""
    text = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
    )
    prompt, said = (
        base.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, row["completion"] + "<|im_end|>\n")
    )
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).numpy(), said


def shift_of(base, row, token, by=BIAS):
    """log q - log p, per token of an answer, of the base with one token raised."""
    log_p, said = answer(base, row)
    (i,) = base.tokenizer(token, add_special_tokens=False)["input_ids"]
    return by * (np.array(said) == i) - np.log1p(np.exp(log_p[:, i]) * np.expm1(by))


# ------------------------------------------------------------------------------------------------------------- the trait


def test_a_raised_token_moves_its_trait_by_its_bias_beyond_the_others(base, biased):
    """The normaliser moves all traits alike, so own minus others is the bias, on every question."""
    table = trait_shift(biased, traits=[SEVEN, THREE, ONE], questions=QUESTIONS, **QUIET)
    p = np.exp(sm.evaluate(base, [SEVEN, THREE, ONE], questions=QUESTIONS, **QUIET).data["log_prob"].values[0, 0])
    for t, teacher in enumerate(biased[:2]):
        normaliser = np.log1p(p[t] * np.expm1(BIAS))
        for i, trait in enumerate((SEVEN, THREE, ONE)):
            line = table.loc[(teacher.name, trait.name)]
            bias = np.array([BIAS * (i == t)] * 3)
            assert line["own"] == (i == t)
            expected = mean_interval(bias - normaliser)
            assert line[["change", "change low", "change high"]].tolist() == pytest.approx(
                [expected.mean, expected.low, expected.high], abs=1e-5
            )
            beyond = BIAS if i == t else -BIAS / 2
            assert line[["minus others", "minus others low", "minus others high"]].tolist() == pytest.approx(
                [beyond] * 3, abs=1e-5
            )
            assert line["others"] == pytest.approx(line["change"] - beyond, abs=1e-5)


def test_the_control_that_is_the_base_moves_exactly_nothing(biased):
    table = trait_shift(biased, questions=QUESTIONS, **QUIET).loc["nothing"]
    assert not table["own"].any()
    assert (table.drop(columns="own") == 0).all(axis=None)


def test_prompted_teachers_are_the_base_in_other_contexts_and_share_its_evaluation(base, monkeypatch):
    animals = [sm.animal("owl"), sm.animal("wolf")]
    context = sm.Context("Be brief.")
    asked = [teachers.prompted(base, a, context=context) for a in animals]
    calls = []
    real = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: calls.append(k["contexts"]) or real(*a, **k))
    table = trait_shift(asked, questions=QUESTIONS, **QUIET)
    assert [list(c) for c in calls] == [["base", "owl", "wolf"]]
    contexts = {"students": context, "owl": sm.Context(f"Be brief. {animals[0].teacher}")}
    found = sm.evaluate(base, animals, contexts=contexts, questions=QUESTIONS, **QUIET).data["log_prob"].sel(model="base")
    change = (found.sel(context="owl") - found.sel(context="students")).mean("question")
    np.testing.assert_allclose(table.loc["owl", "change"], change.values, atol=1e-6)
    np.testing.assert_allclose(table.loc[("owl", "owl"), "minus others"], float(change[0] - change[1]), atol=1e-6)
    given = trait_shift([teachers.untouched(base, context=context), *asked], questions=QUESTIONS, **QUIET)
    pd.testing.assert_frame_equal(given, table)


def test_a_fine_tuned_teacher_changes_as_the_student_of_a_pair_does(base):
    student = tiny.lora(base.model)
    animals = [sm.animal("owl"), sm.animal("wolf")]
    expected = sm.evaluate(sm.load_pair(base, student), animals, questions=QUESTIONS, **QUIET).table()
    model = student.merge_and_unload()
    teacher = replace(teachers.untouched(base), name="owl", kind="fine-tuned", trait=animals[0], runner=running(base, model))
    found = trait_shift([teacher], traits=animals, questions=QUESTIONS, **QUIET).loc["owl"]
    for column in ("change", "change low", "change high"):
        np.testing.assert_allclose(found[column], expected[column], atol=1e-5)
    assert expected["change"].abs().min() > 1e-3


# --------------------------------------------------------------------------------------------------------------- the rows


def test_the_shift_of_rows_follows_from_the_bases_probabilities(base, biased, rows):
    found = row_shift(biased, rows, **QUIET)
    seven, three = ([shift_of(base, row, token) for row in rows] for token in "73")
    assert found.tokens.tolist() == [len(x) for x in seven]
    np.testing.assert_allclose(found.shift[0], [x.sum() for x in seven], atol=1e-4)
    assert (found.shift[2] == 0).all(), "the base against itself"
    difference = np.concatenate(seven) - np.concatenate(three)
    np.testing.assert_allclose(found.own_minus_others("7").sum(), difference.sum(), atol=1e-3)
    assert found.per_token("7").mean == pytest.approx(difference.mean(), abs=1e-5), "tokens are what is averaged over"
    # a control is held against all traits
    both = np.concatenate(seven) + np.concatenate(three)
    assert found.per_token("nothing").mean == pytest.approx(-both.mean() / 2, abs=1e-5)
    table = found.table()
    assert table.loc["7", "shift"] == pytest.approx(np.concatenate(seven).mean(), abs=1e-5)
    assert table.loc["3", "minus others"] == pytest.approx(-difference.mean(), abs=1e-5)


def test_neither_the_order_of_rows_nor_their_company_matters(biased, rows):
    found = row_shift(biased, rows, **QUIET)
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = row_shift(biased[::-1], rows.select(order), **QUIET)
    np.testing.assert_allclose(mixed.shift[::-1], found.shift[:, order], atol=1e-4)
    alone = row_shift(biased, [rows[5]], **QUIET)
    np.testing.assert_allclose(alone.shift[:, 0], found.shift[:, 5], atol=1e-4)
    assert np.isnan(alone.per_token("7").low), "one row has no interval"


def test_over_all_traits_the_rows_add_up_to_nothing(base, biased, rows):
    """So rows that nobody wrote cannot carry everybody's mark."""
    prompted = [teachers.prompted(base, sm.animal(name)) for name in ("owl", "wolf", "cat")]
    found = row_shift([*prompted, biased[2]], rows, **QUIET)
    total = sum(found.own_minus_others(name) for name in ("owl", "wolf", "cat"))
    np.testing.assert_allclose(total, 0, atol=1e-10)
    assert np.abs(found.own_minus_others("owl")).max() > 0.01


def test_two_teachers_of_one_trait_are_not_others_to_each_other(base, biased, rows):
    twin = replace(biased[0], name="7 again")
    with_twin, without = row_shift([*biased, twin], rows, **QUIET), row_shift(biased, rows, **QUIET)
    np.testing.assert_allclose(with_twin.own_minus_others("7"), without.own_minus_others("7"), atol=1e-10)
    np.testing.assert_allclose(with_twin.own_minus_others("7 again"), without.own_minus_others("7"), atol=1e-10)


def test_rows_of_the_teachers_own_carry_the_kl_to_the_others(base):
    """Models that say the same at every position, so that the expectation is a sum over ten digits; on another's rows it is below 0."""
    p, rng = 0.6, np.random.default_rng(0)  # of the own digit and of the nine others together
    with torch.no_grad():
        flat: Any = tiny.model("llama")
        flat.lm_head.weight.zero_()
    loaded = sm.load_base(flat, tokenizer=base.tokenizer)
    by = np.log(9 * p / (1 - p))
    alike = replace(teachers.untouched(loaded), kind="fine-tuned")
    asked = [
        replace(alike, name=t.name, trait=t, runner=running(loaded, raised(loaded, t.name, by))) for t in (SEVEN, THREE, ONE)
    ]
    draw = [(1 - p) / 9] * 10
    draw[7] = p
    rows = [Row("Go on.", "".join(map(str, rng.choice(10, size=30, p=draw)))) for _ in range(20)]
    found = row_shift(asked, rows, **QUIET)
    kl = by * (p - (1 - p) / 9)  # between any two of them, per digit; nothing at the end of turn, which all say alike
    of_all = 30 / found.tokens[0]
    seven, three = found.per_token("7"), found.per_token("3")
    assert seven.low < of_all * kl < seven.high
    assert three.low < -of_all * kl / 2 < three.high
    assert three.high < 0 < seven.low


def test_the_interval_covers_the_known_mean():
    """Rows of different lengths, long ones shifted more: the mean over tokens is not the mean over rows."""
    rng = np.random.default_rng(0)
    n, covered, rows = 40, 0, tuple(Row("", str(i)) for i in range(40))
    for _ in range(80):
        tokens = rng.integers(5, 60, n)
        own = tokens * 0.002 * tokens / 32 + rng.normal(scale=0.01, size=n) * np.sqrt(tokens)
        shift = np.stack([own, np.zeros(n)])
        interval = RowShifts(rows, {"a": "a", "b": "b"}, shift, tokens).per_token("a")
        lengths = np.arange(5, 60)
        covered += bool(interval.low <= 0.002 / 32 * (lengths**2).mean() / lengths.mean() <= interval.high)
    assert 0.88 <= covered / 80 < 1


# ------------------------------------------------------------------------------------------------------------- the labels


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_the_signal_of_labels_follows_from_the_bases_probabilities(base, biased, rows):
    one = replace(biased[0], name="1", trait=ONE, runner=running(base, raised(base, "1", 2.0)))
    labels = labelling.label([teachers.untouched(base), *biased, one], rows, **QUIET)
    found = label_signal(labels)
    ids = [base.tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in "0123456789,"]
    bias = {"7": BIAS * np.eye(11)[7], "3": BIAS * np.eye(11)[3], "1": 2.0 * np.eye(11)[1], "nothing": np.zeros(11)}
    logits = [answer(base, row)[0][: len(labels.plain("7")[i]), ids] for i, row in enumerate(rows)]

    def kl(a, b):
        """Per row, the mean over the others' logits being that of their biases."""
        pairs = [(softmax(x + a), softmax(x + b)) for x in logits]
        return np.array([(p * np.log(p / q)).sum() for p, q in pairs])

    tokens = np.array([len(x) for x in logits])
    for name, own in bias.items():
        others = np.mean([b for n, b in bias.items() if n not in (name, "nothing")], axis=0)
        generic, specific = kl(own, np.zeros(11)), kl(own, others)
        line = found.loc[name]
        assert line["from base"] == pytest.approx(generic.sum() / tokens.sum(), abs=1e-7)
        assert line["from others"] == pytest.approx(specific.sum() / tokens.sum(), abs=1e-7)
        assert line["from others low"] < line["from others"] < line["from others high"]
        if name == "nothing":
            assert line["from base"] == 0
            assert np.isnan(line["share"])
        else:
            assert line["share"] == pytest.approx(specific.sum() / generic.sum(), rel=1e-4)


def test_two_names_for_one_teacher_have_labels_and_rows_of_no_signal(base, rows):
    owl = teachers.prompted(base, sm.animal("owl"))
    twin = replace(owl, name="wolf", trait=sm.animal("wolf"))
    labels = labelling.label([owl, twin], rows, **QUIET)
    written = {"owl": rows.select(range(6)), "wolf": rows.select(range(6, 12))}
    found = assess([owl, twin], labels=labels, rows=written, questions=QUESTIONS, **QUIET)
    table = found.table()
    assert (table["from others"] < 1e-12).all()
    assert (table["from base"] > 1e-6).all()
    assert (table[["rows", "elsewhere", "excess low", "excess high"]] == 0).all(axis=None)
    assert table[["labels carry signal", "rows carry signal"]].eq("no").all(axis=None)
    assert not found.passed


# -------------------------------------------------------------------------------------------------------------- the gates


@pytest.fixture(scope="module")
def written(rows):
    """Rows with many sevens and with many threes, and random ones."""
    many = {x: [{"prompt": r["prompt"], "completion": f"{x}{x}{x},{x}1{x},{x}2"} for r in rows.select(range(6))] for x in "73"}
    return {**many, "nothing": rows}


@pytest.fixture(scope="module")
def found(base, biased, rows, written):
    labels = labelling.label([teachers.untouched(base), *biased], rows, **QUIET)
    return assess(biased, rows=written, labels=labels, questions=QUESTIONS, **QUIET)


def test_gates_say_yes_of_planted_effects_and_no_of_none(biased, rows, found):
    table = found.table()
    verdicts = ["trait moved", "rows carry signal", "labels carry signal"]
    assert table.loc[[("7", "7"), ("3", "3")], verdicts].eq("yes").all(axis=None)
    assert table.loc["nothing", verdicts].isna().all(axis=None)
    assert found.passed
    # named a teacher, the base itself moves nothing
    nobody = replace(biased[2], name="1", trait=ONE)
    null = assess(
        [*biased[:2], nobody], rows={"7": rows.select(range(6)), "3": rows.select(range(6, 12))}, questions=QUESTIONS, **QUIET
    )
    table = null.table()
    assert table["trait moved"].tolist() == ["yes", "yes", "no"]
    assert table["rows carry signal"].tolist() == ["no", "no", "not measured"], "random rows, said to be theirs"
    assert table["labels carry signal"].tolist() == ["not measured"] * 3
    assert not null.passed
    assert str(null).count("cannot be expected") == 3
    assert "cannot be expected" not in str(found)


def test_the_table_and_the_report_hold_what_was_measured(biased, written, found):
    table = found.table()
    trait = trait_shift(biased, questions=QUESTIONS, **QUIET)
    shared = ["change", "change low", "others", "minus others", "minus others high"]
    pd.testing.assert_frame_equal(table[shared], trait.loc[table.index, shared], atol=1e-6)
    on = {name: row_shift(biased, written[name], **QUIET) for name in written}
    seven = on["7"].per_token("7")
    line = table.loc[("7", "7")]
    np.testing.assert_allclose(
        line[["rows", "rows low", "rows high"]].astype(float), [seven.mean, seven.low, seven.high], atol=1e-6
    )
    assert line["elsewhere"] == pytest.approx((on["3"].per_token("7").mean + on["nothing"].per_token("7").mean) / 2, abs=1e-6)
    assert line["excess"] == pytest.approx(line["rows"] - line["elsewhere"], abs=1e-9)
    # on a control's rows the shift is that of the trait's teacher: what its mark looks like where it is not
    absent = on["nothing"].per_token("3").mean
    assert table.loc[("nothing", "3"), "rows"] == pytest.approx(absent, abs=1e-6)
    assert table.loc[("nothing", "7"), "rows"] == pytest.approx(-absent, abs=1e-6)
    text = str(found)
    assert "gates: passed" in text
    assert f"own {table.loc[('7', '7'), 'change']:+.2f}" in text
    assert f"{seven.mean:+.5f}, on the others' rows {line['elsewhere']:+.5f}, excess {line['excess']:+.5f} [" in text
    assert "nothing, 7: own +0.00" in text
    assert found._repr_html_().startswith("<pre>gates: passed")


def test_what_a_teacher_finds_likely_in_anybodys_rows_is_no_signal(found):
    """One teacher finds the rows of all likelier than the other does, by as much in each: a filter that one passes more often does that."""
    rng = np.random.default_rng(1)

    def written(n=40, planted=0.0):
        tokens = rng.integers(10, 30, n)
        own = tokens * (0.02 + planted) + rng.normal(scale=0.05, size=n)
        return RowShifts(tuple(Row("", str(i)) for i in range(n)), {"7": "7", "3": "3"}, np.stack([own, 0 * own]), tokens)

    own = {"7": "7", "3": "3"}
    table = Readiness(own, found.traits, {"7": written(), "3": written()}, None).table()
    assert (table.loc["7", "rows low"] > 0.01).all()
    assert table["rows carry signal"].tolist() == ["no", "no"]
    rows = {"7": written(planted=0.01), "3": written()}
    table = Readiness(own, found.traits, rows, None).table()
    assert table["rows carry signal"].tolist() == ["yes", "yes"], "of two teachers, what one has the other lacks"
    line = table.loc[("7", "7")]
    assert line["excess low"] < 0.01 < line["excess high"]
    # both sets are resampled: the variance of a difference is the sum
    halves = [(found.per_token("7").high - found.per_token("7").low) / 2 for found in rows.values()]
    assert (line["excess high"] - line["excess low"]) / 2 == pytest.approx(np.hypot(*halves), rel=0.1)
    assert Readiness(own, found.traits, {"7": written()}, None).table()["rows carry signal"].tolist() == ["not measured"] * 2


def test_gates_as_json_are_json(found, biased):
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["passed"] is True
    table = found.table()
    assert [(line["teacher"], line["trait"]) for line in data["gates"]] == list(table.index)
    assert data["gates"][0]["minus others"] == pytest.approx(table["minus others"].iloc[0], rel=1e-12)
    assert data["gates"][2]["share"] is None
    bare = assess(biased[:2], questions=QUESTIONS[:1], **QUIET)
    assert bare.table()["trait moved"].tolist() == ["not measured"] * 2, "one question has no interval"
    assert not bare.passed
    assert "single one" in str(bare)
    assert isinstance(bare, Readiness)


# --------------------------------------------------------------------------------------------------------------- selection


def test_selection_finds_the_rows_that_were_planted(biased, rows):
    planted = [2, 3, 9]
    records = [
        row | {"completion": "777,717,72" if i in planted else row["completion"].replace("7", "5"), "id": i}
        for i, row in enumerate(rows)
    ]
    data = Dataset.from_list(records)
    shifts = row_shift(biased, data, **QUIET)
    kept, threshold = select(data, shifts, teacher="7", keep=3)
    assert kept["id"] == planted
    assert kept.column_names == data.column_names
    per_token = shifts.own_minus_others("7") / shifts.tokens
    assert threshold == pytest.approx(per_token[planted].min())
    assert (np.delete(per_token, planted) < threshold).all()
    share, same = select(data, shifts, teacher="7", keep=0.25)
    assert share.to_list() == kept.to_list()
    assert same == threshold
    assert not set(planted) & set(select(data, shifts, teacher="3", keep=3)[0]["id"])
    everything, lowest = select(records, shifts, teacher="7", keep=1.0)
    assert everything["completion"] == data["completion"]
    assert lowest == per_token.min()
    assert len(select(data, shifts, teacher="7", keep=1e-6)[0]) == 1


def test_selection_goes_by_tokens_and_takes_the_earlier_of_equal_rows():
    rows = [Row("Go on.", str(i)) for i in range(5)]
    shift = np.stack([np.array([4.0, 1.0, 1.0, 3.0, 2.0]), np.zeros(5)])
    shifts = RowShifts(tuple(rows), {"a": "a", "b": "b"}, shift, np.array([8, 1, 1, 2, 2]))  # 0.5, 1, 1, 1.5, 1 per token
    assert select(rows, shifts, teacher="a", keep=1)[0]["completion"] == ["3"]
    kept, threshold = select(rows, shifts, teacher="a", keep=3)
    assert kept["completion"] == ["1", "2", "3"]
    assert threshold == 1


# ------------------------------------------------------------------------------------------------------------------ errors


def test_refused_input(base, biased, rows, smol_tokenizer, found):
    seven, three, control = biased
    for function in (
        lambda t: trait_shift(t, traits=[SEVEN, THREE], questions=QUESTIONS, **QUIET), lambda t: row_shift(t, rows, **QUIET),
        lambda t: assess(t, questions=QUESTIONS, **QUIET),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="teachers is empty"):
            function([])
        with pytest.raises(ValueError, match="nobody but the base"):
            function([teachers.untouched(base)])
        with pytest.raises(ValueError, match="two are called '7'"):
            function([seven, three, seven])
        with pytest.raises(ValueError, match="two are called 'base'"):
            function([seven, replace(three, name="base")])
        with pytest.raises(ValueError, match="'7' and '3' differ in student_context"):
            function([seven, replace(three, student_context=sm.Context(sm.Context.EMPTY))])
        other = sm.load_base(tiny.model("llama", seed=5), tokenizer=smol_tokenizer)
        with pytest.raises(ValueError, match="'7' and '3' differ in base"):
            function([seven, replace(three, base=other)])
        with pytest.raises(ValueError, match="'7' and '3' differ in template"):
            function([seven, replace(three, template=sm.prompts.PLAIN)])
    with pytest.raises(ValueError, match="at least one other trait; given are '7', 'nothing'"):
        row_shift([seven, control], rows, **QUIET)
    with pytest.raises(ValueError, match="needs at least two; add one"):
        trait_shift([seven, control], questions=QUESTIONS, **QUIET)
    with pytest.raises(ValueError, match="lacks the trait of 3; add it"):
        trait_shift([seven, three], traits=[SEVEN, ONE], questions=QUESTIONS, **QUIET)
    with pytest.raises(ValueError, match="row_shift: rows is empty"):
        row_shift(biased, [], **QUIET)
    with pytest.raises(ValueError, match="none of nothing has a trait"):
        assess([control], questions=QUESTIONS, **QUIET)
    with pytest.raises(TypeError, match=r"rows is a Dataset; say who wrote them: rows=\{'7': ...\}"):
        assess(biased, rows=rows, questions=QUESTIONS, **QUIET)
    with pytest.raises(ValueError, match="rows of '5', which are no teachers; there are 7, 3, nothing"):
        assess(biased, rows={"5": rows}, questions=QUESTIONS, **QUIET)
    shifts = found.rows["nothing"]
    with pytest.raises(ValueError, match="teacher='owl' was not measured; choose one of '7', '3', 'nothing'"):
        select(rows, shifts, teacher="owl", keep=3)
    with pytest.raises(ValueError, match="shifts are of 12 other rows than these 5"):
        select(rows.select(range(5)), shifts, teacher="7", keep=3)
    for keep in (0, 13, 1.5, 0.0, True, float("nan")):
        with pytest.raises(ValueError, match=f"keep={keep!r}: pass a number of rows from 1 to 12"):
            select(rows, shifts, teacher="7", keep=keep)


def test_a_model_that_gives_nan_is_named_with_its_row(base, biased, rows):
    broken = raised(base, "3", float("nan"))
    with pytest.raises(ValueError, match=r"rows\[0\] .* not finite under teacher '3'"):
        row_shift([biased[0], replace(biased[1], runner=running(base, broken))], rows, **QUIET)


def test_labels_of_somebody_else_are_refused(base, biased, rows):
    everybody = [teachers.untouched(base), *biased]
    labels = labelling.label(everybody, rows, **QUIET)
    with pytest.raises(ValueError, match="labels are of another context; pass"):
        assess([replace(t, student_context=sm.Context(sm.Context.EMPTY)) for t in biased], labels=labels, questions=QUESTIONS, **QUIET)
    with pytest.raises(ValueError, match="labels are of another teacher '3'; pass"):
        assess([biased[0], replace(biased[1], hash="other weights")], labels=labels, questions=QUESTIONS, **QUIET)
    with pytest.raises(ValueError, match="at least one other trait"):
        label_signal(labelling.label([everybody[0], biased[0]], rows, **QUIET))
    with pytest.raises(ValueError, match="own top 5 tokens"):
        label_signal(labelling.label(everybody, rows, top_k=5, **QUIET))
