"""Verdicts of planted effects and of none, and the report that shows them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from raised import ONE, QUESTIONS, QUIET, SEVEN, THREE, biased, number_rows, peaked

import sublim_mech as sm
from sublim_mech.making import labelling, teachers
from sublim_mech.making.readiness import (
    Readiness,
    RowShifts,
    assess,
    divergence,
    label_signal,
    row_shift,
    trait_shift,
)
from sublim_mech.making.rows import Row
from sublim_mech.models.base import load_base

ASKED = {"questions": QUESTIONS, **QUIET}
VERDICTS = ["trait moved", "rows carry signal", "labels carry signal"]


@pytest.fixture
def base(smol_tokenizer):
    return peaked(smol_tokenizer)


@pytest.fixture
def crowd(smol_tokenizer):
    return biased(smol_tokenizer)


@pytest.fixture(scope="module")
def written():
    """Rows with many sevens and with many threes, and random ones."""
    rows = number_rows()
    by_teacher = {}
    for digit in "73":
        completion = f"{digit}{digit}{digit},{digit}1{digit},{digit}2"
        prompts = rows.select(range(6))["prompt"]
        by_teacher[digit] = [{"prompt": p, "completion": completion} for p in prompts]
    return {**by_teacher, "nothing": rows}


@pytest.fixture(scope="module")
def labels(smol_tokenizer):
    everybody = [teachers.untouched(peaked(smol_tokenizer)), *biased(smol_tokenizer)]
    return labelling.label(everybody, number_rows(), **QUIET)


@pytest.fixture(scope="module")
def found(smol_tokenizer, written, labels):
    return assess(biased(smol_tokenizer), rows=written, labels=labels, **ASKED)


def test_planted_effects_are_seen(found):
    table = found.table()
    assert table.loc[[("7", "7"), ("3", "3")], VERDICTS].eq("yes").all(axis=None)
    assert table.loc["nothing", VERDICTS].isna().all(axis=None)
    assert found.passed
    assert "cannot be expected" not in str(found)


def test_nothing_is_seen_where_nothing_is(crowd):
    """The base itself, called a teacher; random rows, said to be the teachers'."""
    nobody = replace(crowd[2], name="1", trait=ONE)
    rows = number_rows()
    random = {"7": rows.select(range(6)), "3": rows.select(range(6, 12))}
    null = assess([*crowd[:2], nobody], rows=random, **ASKED)
    table = null.table()
    assert table["trait moved"].tolist() == ["yes", "yes", "no"]
    assert table["rows carry signal"].tolist() == ["no", "no", "not measured"]
    assert table["labels carry signal"].tolist() == ["not measured"] * 3
    assert not null.passed
    # what is nothing at all is a null; so few random rows leave it open
    (said,) = (line for line in str(null).splitlines() if "cannot be expected" in line)
    assert said.startswith("    no means: asked for 1, this teacher names it no more")
    open_ones = str(null).count(
        "it cannot be told from 6 rows whether its rows are likelier under this teacher than the "
        "others' rows are: the interval is on both sides of 0; give more rows"
    )
    assert open_ones == 2


def test_two_names_for_one_teacher_have_labels_and_rows_of_no_signal(base):
    rows = number_rows()
    owl = teachers.prompted(base, sm.animal("owl"))
    same = replace(owl, name="wolf", trait=sm.animal("wolf"))
    labels = labelling.label([owl, same], rows, **QUIET)
    halves = {"owl": rows.select(range(6)), "wolf": rows.select(range(6, 12))}
    null = assess([owl, same], labels=labels, rows=halves, **ASKED)
    table = null.table()
    assert (table["from others"] < 1e-12).all()
    assert (table["from base"] > 1e-6).all()
    exactly_none = table[["rows", "elsewhere", "excess low", "excess high"]]
    assert (exactly_none == 0).all(axis=None)
    assert table[["labels carry signal", "rows carry signal"]].eq("no").all(axis=None)
    assert not null.passed


def test_the_table_holds_what_was_measured(crowd, written, found):
    table = found.table()
    trait = trait_shift(crowd, **ASKED)
    shared = ["change", "change low", "others", "minus others", "minus others high"]
    pd.testing.assert_frame_equal(table[shared], trait.loc[table.index, shared], atol=1e-6)
    on = {name: row_shift(crowd, rows, **QUIET) for name, rows in written.items()}
    seven = on["7"].per_token("7")
    line = table.loc[("7", "7")]
    columns = line[["rows", "rows low", "rows high"]].astype(float)
    np.testing.assert_allclose(columns, [seven.mean, seven.low, seven.high], atol=1e-6)
    elsewhere = np.mean([on[name].per_token("7").mean for name in ("3", "nothing")])
    assert line["elsewhere"] == pytest.approx(elsewhere, abs=1e-6)
    assert line["excess"] == pytest.approx(line["rows"] - line["elsewhere"], abs=1e-9)
    # on a control's rows the shift is that of the trait's teacher: its mark where it is not
    absent = on["nothing"].per_token("3").mean
    assert table.loc[("nothing", "3"), "rows"] == pytest.approx(absent, abs=1e-6)
    assert table.loc[("nothing", "7"), "rows"] == pytest.approx(-absent, abs=1e-6)


def test_the_report_says_the_table(found):
    text, line = str(found), found.table().loc[("7", "7")]
    assert "gates: passed" in text
    assert f"own {line['change']:+.2f}" in text
    own, elsewhere = f"{line['rows']:+.5f}", f"{line['elsewhere']:+.5f}"
    assert f"{own}, on the others' rows {elsewhere}, excess {line['excess']:+.5f} [" in text
    assert "nothing, 7: own +0.00" in text
    assert found._repr_html_().startswith("<pre>gates: passed")


def drawn_shifts(rng, planted=0.0):
    """Forty rows that one teacher finds likelier than the other does, by as much in each."""
    tokens = rng.integers(10, 30, 40)
    own = tokens * (0.02 + planted) + rng.normal(scale=0.05, size=40)
    rows = tuple(Row("", str(number)) for number in range(40))
    return RowShifts(rows, {"7": "7", "3": "3"}, np.stack([own, 0 * own]), tokens)


def test_what_a_teacher_finds_likely_in_anybodys_rows_is_no_signal(found):
    """A filter that one teacher's answers pass more often does that."""
    rng, own = np.random.default_rng(1), {"7": "7", "3": "3"}
    rows = {"7": drawn_shifts(rng), "3": drawn_shifts(rng)}
    table = Readiness(own, found.traits, rows, None).table()
    assert (table.loc["7", "rows low"] > 0.01).all()
    assert table["rows carry signal"].tolist() == ["no", "no"]

    rows = {"7": drawn_shifts(rng, planted=0.01), "3": drawn_shifts(rng)}
    table = Readiness(own, found.traits, rows, None).table()
    # of two teachers, what one has the other lacks
    assert table["rows carry signal"].tolist() == ["yes", "yes"]
    line = table.loc[("7", "7")]
    assert line["excess low"] < 0.01 < line["excess high"]
    # both sets are resampled: the variance of a difference is the sum
    intervals = [shifts.per_token("7") for shifts in rows.values()]
    halves = [(interval.high - interval.low) / 2 for interval in intervals]
    half = (line["excess high"] - line["excess low"]) / 2
    assert half == pytest.approx(np.hypot(*halves), rel=0.1)

    alone = Readiness(own, found.traits, {"7": rows["7"]}, None).table()
    assert alone["rows carry signal"].tolist() == ["not measured"] * 2


def test_readiness_as_json_is_json(found):
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["passed"] is True
    table = found.table()
    assert [(line["teacher"], line["trait"]) for line in data["gates"]] == list(table.index)
    expected = table["minus others"].iloc[0]
    assert data["gates"][0]["minus others"] == pytest.approx(expected, rel=1e-12)
    assert data["gates"][2]["share"] is None


def test_a_single_question_has_no_interval(crowd):
    bare = assess(crowd[:2], questions=QUESTIONS[:1], **QUIET)
    assert isinstance(bare, Readiness)
    assert bare.table()["trait moved"].tolist() == ["not measured"] * 2
    assert not bare.passed
    assert "single one" in str(bare)


FEW = "{} {}s: intervals over so few are no 95 % intervals: they miss in at least {} of cases; 6"


def test_what_intervals_over_few_are_worth_is_told(crowd, written, smol_tokenizer):
    rows = {name: list(written[name])[:count] for name, count in (("7", 2), ("3", 4))}
    everybody = [teachers.untouched(peaked(smol_tokenizer)), *crowd[:2]]
    labels = labelling.label(everybody, number_rows().select(range(3)), **QUIET)
    few = assess(crowd[:2], rows=rows, labels=labels, questions=["Which?", "What?"], **QUIET)
    told = few.to_json()["notes"]
    assert [one.partition(" or more")[0] for one in told] == [
        FEW.format(2, "question", "50%"),
        "rows of 7, 3: " + FEW.format(2, "row", "50%"),  # an excess is over both
        "labels: " + FEW.format(3, "row", "25%"),
    ]
    assert str(few).splitlines()[2:5] == told
    shifts = few.rows["3"]
    assert FEW.format(4, "row", "12%") in str(shifts)
    read = divergence(crowd[0], everybody[0], rows["3"], **QUIET)
    assert FEW.format(4, "row", "12%") in str(read)
    assert FEW.format(4, "row", "12%") in read._repr_html_()


def test_nothing_is_told_of_enough(crowd, found):
    six = assess(crowd[:2], questions=[f"Which, of {name}?" for name in "abcdef"], **QUIET)
    assert (six.questions, six.labelled, six.to_json()["notes"]) == (6, 0, [])
    assert "no 95 %" not in "".join(map(str, (six, *found.rows.values())))


def as_asked(found, count, *shift):
    """A readiness of one teacher that was asked so many questions."""
    traits = found.traits.loc[[("7", "7")]].copy()
    traits[["minus others", "minus others low", "minus others high"]] = shift
    return str(Readiness({"7": "7"}, traits, {}, None, questions=count))


def test_a_no_on_both_sides_of_nothing_is_no_null(found):
    """+0.2 [-0.1, 0.5] says nothing of a teacher that has its trait or none, of 50 questions too;
    an interval that ends at or below 0 does.
    """
    null = "names it no more than the base does"
    for count, given, fix in (
        (0, "", "more questions"),  # nobody said how many
        (2, " from 2 questions", "6 or more"),
        (5, " from 5 questions", "6 or more"),
        (6, " from 6 questions", "more questions"),
        (50, " from 50 questions", "more questions"),
    ):
        for measured in ((0.2, -0.1, 0.5), (-0.2, -0.5, 0.1)):
            said = as_asked(found, count, *measured)
            assert (
                f"no means: it cannot be told{given} whether this teacher names 7 more than the "
                "base does, beyond the other traits: the interval is on both sides of 0; give "
                f"{fix}\n" in said
            )
            assert null not in said
        for measured in ((-0.3, -0.5, -0.1), (-0.3, -0.5, 0.0)):
            said = as_asked(found, count, *measured)
            assert null in said
            assert "cannot be told" not in said


@pytest.mark.parametrize(("high", "null"), [(1e-9, True), (1e-3, False)])
def test_labels_above_rounding_in_some_rows_are_no_null(high, null, found):
    labels = found.labels.loc[["7"]].copy()
    labels[["from others low", "from others high"]] = (0.0, high)
    said = str(Readiness({"7": "7"}, found.traits, {}, labels, labelled=12))
    assert ("its labels are those of the other traits' teachers" in said) is null
    whether = "it cannot be told from 12 rows whether its labels differ from those of the other"
    assert (f"no means: {whether}" in said) is not null


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "measure",
    [
        lambda given: trait_shift(given, traits=[SEVEN, THREE], **ASKED),
        lambda given: row_shift(given, number_rows(), **QUIET),
        lambda given: assess(given, **ASKED),
    ],
    ids=["trait_shift", "row_shift", "assess"],
)
def test_teachers_that_cannot_be_compared(measure, base, crowd, smol_tokenizer):
    seven, three, _ = crowd
    other = load_base(tiny.model("llama", seed=5), tokenizer=smol_tokenizer)
    empty = sm.Context(sm.Context.EMPTY)
    for bad, message in (
        ([], "teachers is empty"),
        ([teachers.untouched(base)], "nobody but the base"),
        ([seven, three, seven], "two are called '7'"),
        ([seven, replace(three, name="base")], "two are called 'base'"),
        ([seven, replace(three, student_context=empty)], "'7' and '3' differ in student_context"),
        ([seven, replace(three, base=other)], "'7' and '3' differ in base"),
        ([seven, replace(three, template=sm.prompts.PLAIN)], "'7' and '3' differ in template"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(bad)


def test_rows_and_teachers_that_cannot_be_assessed(crowd):
    with pytest.raises(ValueError, match="none of nothing has a trait"):
        assess([crowd[2]], **ASKED)
    message = r"rows=Dataset.*: pass a dict from texts to rows or None; by name: rows=\{"
    with pytest.raises(TypeError, match=message):
        assess(crowd, rows=number_rows(), **ASKED)
    message = "rows of '5', which are no teachers; there are 7, 3, nothing"
    with pytest.raises(ValueError, match=message):
        assess(crowd, rows={"5": number_rows()}, **ASKED)


def test_the_very_same_rows_of_two_traits_have_no_gate(crowd, written):
    """Also in another order, with copies, of two among several, and where one is a control."""
    same = written["7"]
    for other, rows in (("3", same[::-1]), ("nothing", [*same, same[0]])):
        given = {**written, "7": same, other: rows}
        names = [name for name in given if name in ("7", other)]
        message = rf"^assess: rows\['{names[0]}'\] and rows\['{names[1]}'\] are the very same rows"
        with pytest.raises(ValueError, match=message):
            assess(crowd, rows=given, **ASKED)
    # a second teacher of one trait is none of the others
    again = replace(crowd[0], name="7 again")
    rows = {"7": same, "7 again": same, "3": written["3"]}
    found = assess([*crowd, again], rows=rows, **ASKED).table()
    assert found.loc[("7 again", "7"), "excess"] == found.loc[("7", "7"), "excess"] > 0


def no_means(found):
    """What the report says of rows that leave it open, by line."""
    return [line for line in str(found).splitlines() if "0; " in line and "its rows are" in line]


def test_rows_that_are_the_others_too_are_no_call_for_more_of_them(crowd):
    """Where most are shared, where one set is in the other, and of several others."""
    rows = [dict(row) for row in number_rows()]
    only = {"traits": [SEVEN, THREE], **ASKED}
    found = assess(crowd[:2], rows={"7": rows[:7], "3": [*rows[:6], *rows[7:8] * 2]}, **only)
    of_seven, of_three = (
        f"6 of 7 rows of {one} are {other}'s too, and tell nothing" for one, other in ("73", "37")
    )
    assert [line.partition("0; ")[2] for line in no_means(found)] == [
        f"{of_seven}: give more rows that are not",
        f"{of_three}: give more rows that are not",
    ]
    assert found.to_json()["notes"][-2:] == [of_seven, of_three]

    within = assess(crowd[:2], rows={"7": rows[:4], "3": rows[:3]}, **only)
    told = [line.partition("0; ")[2] for line in no_means(within)]
    assert told[0].startswith("3 of 4 rows of 7 are 3's too, and tell nothing: give 6 or more that")
    assert told[1].startswith("3 of 3 rows of 3 are 7's too, and tell nothing: give 6 or more that")

    three = {"7": rows[:6], "3": rows[5:11], "nothing": [*rows[:1], *rows[6:]]}
    said = str(assess(crowd, rows=three, **only))
    assert "2 of 6 rows of 7 are among those of 3, nothing, and tell less: give more" in said


def test_rows_that_carry_signal_or_are_nobody_elses_are_not_called_shared(crowd, written):
    shared = dict(written["3"][0])
    rows = {"7": [*written["7"], shared], "3": written["3"]}
    found = assess(crowd[:2], rows=rows, **ASKED)
    assert found.table()["rows carry signal"].tolist() == ["yes", "yes"]
    apart = assess(crowd[:2], rows={"7": number_rows().select(range(6)),
                                    "3": number_rows().select(range(6, 12))}, **ASKED)  # fmt: skip
    for said in (str(found), str(apart), str(found.to_json()), str(apart.to_json())):
        assert "too, and tell" not in said
    assert "0; give more rows" in str(apart)


def test_labels_of_somebody_else_are_refused(crowd, labels, smol_tokenizer):
    empty = sm.Context(sm.Context.EMPTY)
    with pytest.raises(ValueError, match="labels are of another context; pass"):
        assess([replace(t, student_context=empty) for t in crowd], labels=labels, **ASKED)
    other = load_base(tiny.model("llama", seed=5), tokenizer=smol_tokenizer)
    with pytest.raises(ValueError, match="labels are of another base; pass"):
        assess([replace(t, base=other) for t in crowd], labels=labels, **ASKED)
    retrained = replace(crowd[1], hash="other weights")
    with pytest.raises(ValueError, match="labels are of another teacher '3'; pass"):
        assess([crowd[0], retrained], labels=labels, **ASKED)


def test_labels_that_miss_the_answers_pass_no_gate(base, crowd, labels, found):
    assert "labels: 100 % (" in str(found)
    assert found.to_json()["coverage"] == 1
    rows = [Row("Where?", "In the old barn, by the mill."), Row("When?", "At noon, at 10 or 7.")]
    everybody = [teachers.untouched(base), *crowd]
    missing = labelling.label(everybody, rows, allow_low_coverage=True, **QUIET)
    for made in (missing, replace(missing, covered=None)):  # also of labels that did not count
        low = assess(crowd, labels=made, **ASKED)
        assert low.table()["labels carry signal"].eq("yes").any()
        assert not low.passed
        assert "gates: passed" not in str(low)
        assert "answer tokens are in the support of 11 tokens" in str(low)
        assert low.to_json()["coverage"] == missing.coverage.share < 0.5


def test_copies_of_rows_are_no_evidence(crowd, written):
    """Numbers and intervals of rows are those of their different ones."""
    rows = written["7"][:3]
    once, often = (row_shift(crowd, rows * times, **QUIET) for times in (1, 8))
    one, other = once.per_token("7"), often.per_token("7")
    assert [one.mean, one.low, one.high] == pytest.approx([other.mean, other.low, other.high])
    assert "24 rows (3 distinct)" in repr(often)
    single = row_shift(crowd, rows[:1] * 8, **QUIET).per_token("7")
    assert np.isnan([single.low, single.high]).all()
    everybody = [crowd[0], crowd[1]]
    few, many = (labelling.label(everybody, rows * times, **QUIET) for times in (1, 8))
    pd.testing.assert_frame_equal(label_signal(few), label_signal(many))


def moved(change, others):
    """Readiness of one teacher whose trait and whose other traits moved so far."""
    line = {"own": True, "change": change, "others": others, "minus others": change - others}
    line |= {
        f"minus others {end}": change - others + by for end, by in (("low", -0.01), ("high", 0.01))
    }
    index = pd.MultiIndex.from_tuples([("owl", "owl")], names=["teacher", "trait"])
    return Readiness({"owl": "owl"}, pd.DataFrame([line], index), {}, None, questions=8)


@pytest.mark.parametrize(
    ("change", "others", "told"),
    [
        (-0.03, -0.05, "own - others is the other traits': they fall by 0.05 nats, beyond the "
                       "trait's own -0.03"),
        (1.0, -4.0, "4.00 of 5.00 nats (80%) are the other traits' fall"),
        (8.0, 7.9, "the other traits rose by 7.9 of the trait's 8 nats: own - others is what is "
                   "left"),
        (5.0, -0.5, ""),
        (5.0, 0.5, ""),
        (-0.05, -0.03, ""),
    ],
)  # fmt: skip
def test_a_trait_that_moved_because_the_others_fell_is_told(change, others, told):
    """As an evaluation says it of controls; where it did not move there is nothing to say."""
    found = moved(change, others)
    assert found.table()["trait moved"].item() == ("yes" if change - others > 0 else "no")
    lines = [line.strip() for line in repr(found).splitlines() if "other traits'" in line or
             "other traits rose" in line]  # fmt: skip
    assert lines == [told] * bool(told)
    assert found.to_json()["notes"] == [f"owl: {told}"] * bool(told)
