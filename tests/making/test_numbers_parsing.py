"""The parser against the rule in one regular expression, and why answers are rejected."""

import re
from collections import Counter

import numpy as np
import pytest
from number_rows import written

from sublim_mech.making.numbers import REASONS, Ask, Parsed, parse, report

# the rule in one expression: the separator found first must stand between all later numbers too
ONE = "[0-9]+"
LIST = rf"(?P<first{{i}}>{ONE})(?:(?P<sep{{i}}>\s*[,;]\s*|\s+){ONE}(?:(?P=sep{{i}}){ONE})*)?"
IN_SQUARE, IN_ROUND, BARE = (LIST.format(i=i) for i in range(3))
RULE = re.compile(rf"\s*(?:\[{IN_SQUARE}\]|\({IN_ROUND}\)|{BARE})\.?\s*")


def by_rule(answer, ask):
    """The numbers of an answer by a regular expression, or None."""
    if not RULE.fullmatch(answer):
        return None
    numbers = [int(number) for number in re.findall(ONE, answer)]
    right = len(numbers) == ask.count if ask.exactly else len(numbers) <= ask.count
    return tuple(numbers) if right and max(numbers) <= 999 else None


ASKS = {"at most 10": Ask(), "at most 4": Ask(count=4), "exactly 5": Ask(count=5, exactly=True)}


@pytest.mark.parametrize("name", ASKS)
def test_valid_answers_are_read_and_agree_with_the_rule(name):
    ask, rng = ASKS[name], np.random.default_rng(0)
    for _ in range(3000):
        count = int(rng.integers(1, 13))
        text, values = written(rng, count)
        parsed = parse(text, ask)
        assert parsed.numbers == by_rule(text, ask)
        if count > ask.count:
            assert parsed == Parsed(None, "too many")
        elif ask.exactly and count < ask.count:
            assert parsed == Parsed(None, "too few")
        else:
            assert parsed == Parsed(values)


def test_mutated_answers_agree_with_the_rule():
    """One or two characters put in, taken out or replaced.

    Both verdicts occur often, and every reason does.
    """
    rng = np.random.default_rng(1)
    signs = [*"0123456789,; \n\t.[]()-aZé:٣²\u3000{", "", ", ", "Sure: "]
    verdicts = Counter()
    for _ in range(8000):
        text, _ = written(rng, int(rng.integers(0, 12)))
        for _ in range(rng.integers(1, 3)):
            at = int(rng.integers(len(text) + 1))
            text = text[:at] + str(rng.choice(signs)) + text[at + int(rng.integers(2)) :]
        ask = Ask(count=int(rng.integers(6, 13)), exactly=rng.random() < 0.1)
        parsed = parse(text, ask)
        assert parsed.numbers == by_rule(text, ask), repr(text)
        assert (parsed.numbers is None) == (parsed.reason is not None)
        verdicts[parsed.reason] += 1
        if parsed.reason == "words":
            assert any(sign.isalpha() for sign in text)
        if parsed.reason in ("out of range", "too many", "too few"):
            assert RULE.fullmatch(text)  # everything about the form was right
    assert verdicts[None] > 400
    assert set(verdicts) == {None, *REASONS} - {"cut off"}  # which no text tells


VALID = {
    "547": (547,),
    "1, 2, 3": (1, 2, 3),
    "1,2,3.": (1, 2, 3),
    "(1; 2; 3)": (1, 2, 3),
    "[7]": (7,),
    " 1 2 3\n": (1, 2, 3),
    "0\n999": (0, 999),
    "007, 0001": (7, 1),
    "[1, 2].": (1, 2),
    "1 , 2 , 3": (1, 2, 3),
    "1\r\n2\r\n3": (1, 2, 3),
}
REJECTED = {
    "words": ["Here you go: 1, 2, 3", "1, 2, 3 and 4", "[1, two", "一, 2"],
    "brackets": [
        "[1, 2", "1, 2)", "[1, 2)", "[[1, 2]]", "[1], [2]", "[", "1, (2), 3", "[-1, 2",
    ],
    "not digits": [
        "-1, 2", "1.5, 2", "1-2-3", "{1, 2}", "1, 2..", "[1, 2.]", "٣, 4", "4²", "1，2", "...",
    ],
    "empty": ["", " \n", ".", "[]", ", ;", "()."],
    "stray separator": ["1, 2, 3,", ",1, 2", "1,,2", "[ 1, 2 ]", "1, , 2", "1, 2 .", "547;"],
    "mixed separators": ["1, 2; 3", "1, 2,3", "1 2\n3", "1;,2", "1, 2 3", "1  2 3"],
    "out of range": ["1, 1000", "1" * 5000, ", ".join(["1000"] * 11)],
    "too many": [", ".join(["5"] * 11)],
}  # fmt: skip


@pytest.mark.parametrize("answer", VALID)
def test_valid_answers_of_the_table(answer):
    assert parse(answer) == Parsed(VALID[answer])


@pytest.mark.parametrize("reason", REJECTED)
def test_rejected_answers_of_the_table(reason):
    assert [parse(answer) for answer in REJECTED[reason]] == [Parsed(None, reason)] * len(
        REJECTED[reason]
    )


def test_only_exactly_knows_too_few():
    assert parse("1, 2", Ask(count=3)).numbers == (1, 2)
    assert parse("1, 2", Ask(count=3, exactly=True)).reason == "too few"
    assert parse("1, 2, 3", Ask(count=3, exactly=True)).numbers == (1, 2, 3)


def test_a_report_counts_every_answer_once():
    rng = np.random.default_rng(2)
    reasons = [None, *REASONS]
    drawn = [reasons[i] for i in rng.integers(len(reasons), size=500)]
    table = report([Parsed((1,)) if r is None else Parsed(None, r) for r in drawn])
    assert list(table.index) == ["valid", *REASONS]
    assert table["count"].sum() == 500
    assert table["share"].sum() == pytest.approx(1)
    for outcome in table.index:
        expected = drawn.count(None if outcome == "valid" else outcome)
        assert table.loc[outcome, "count"] == expected
    assert report([Parsed((1,))]).loc["words", "count"] == 0
    assert re.search(r"outcome\s.*valid +\d+ +0\.\d+", str(table), re.DOTALL)
    with pytest.raises(ValueError, match="parsed is empty"):
        report([])
