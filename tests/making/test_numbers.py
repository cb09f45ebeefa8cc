import copy
import dataclasses
import doctest
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny

import sublim_mech as sm
from sublim_mech import numbers
from sublim_mech.making.numbers import (
    FORMATS,
    INSTRUCTIONS,
    LIMITS,
    ONLY,
    OPENINGS,
    REASONS,
    Ask,
    Parsed,
    Row,
    as_rows,
    leaks,
    number_prompts,
    parse,
    random_rows,
    report,
    scramble,
    split,
    to_dataset,
    write_rows,
)  # fmt: skip
from sublim_mech.models.base import load_base

PAGE = Path(__file__).parents[2] / "docs" / "making" / "numbers.md"
USER, ASSISTANT = ({"role": role, "content": text} for role, text in (("user", "Three, please."), ("assistant", "1, 2, 3")))


# --------------------------------------------------------------------------------------------------------------- prompts


def test_the_pools_are_as_large_as_promised():
    assert len(set(OPENINGS)) >= 20
    assert len(set(INSTRUCTIONS)) >= 8
    assert len({suffix for pool in FORMATS.values() for suffix in pool}) >= 10
    assert set(FORMATS) == {"commas", "spaces", "semicolons", "lines", "brackets"}
    assert len({len(pool) for pool in FORMATS.values()}) == 1  # so that kinds and wordings are both equally likely


@pytest.mark.parametrize(("exactly", "wordings"), [(False, 115_200), (True, 57_600)])
def test_no_two_choices_make_the_same_prompt(exactly, wordings):
    parts = (OPENINGS, INSTRUCTIONS, LIMITS[exactly], [s for pool in FORMATS.values() for s in pool], ONLY)
    made = {" ".join((a, b.replace("{limit}", c), d, e)) for a, b, c, d, e in product(*parts)}
    assert len(made) == wordings == np.prod([len(pool) for pool in parts])
    assert f"{wordings:,}" in number_prompts.__doc__
    assert f"{sum(900**k for k in range(3, 9)):.1e}".replace("e+", "e") in number_prompts.__doc__


@pytest.mark.parametrize(("count", "exactly"), [(10, False), (17, True), (1, False)])
def test_prompts_show_three_to_eight_numbers_and_say_the_limit(count, exactly):
    asks = number_prompts(3000, seed=1, count=count, exactly=exactly)
    shown = Counter()
    for ask in asks:
        assert (ask.count, ask.exactly) == (count, exactly)
        examples = re.search(r"\d+(, \d+)*", ask.prompt)[0]
        values = [int(x) for x in examples.split(", ")]
        assert all(100 <= x <= 999 for x in values)
        shown[len(values)] += 1
        rest = ask.prompt.replace(examples, "")
        assert re.findall(r"\d+", rest) == [str(count)]
        assert bool(
            re.search(r"(number|value)s of|(number|value)s,|(number|value)s (that|to|below|with|under|after)", rest)
        ) == (count > 1)
        assert any(suffix in rest for suffix in FORMATS[ask.format])
        assert sum(any(suffix in rest for suffix in FORMATS[kind]) for kind in FORMATS) == 1
        assert "{" not in ask.prompt
    assert sorted(shown) == [3, 4, 5, 6, 7, 8]
    assert min(shown.values()) > 3000 / 6 - 5 * (3000 * 5 / 36) ** 0.5
    kinds = Counter(ask.format for ask in asks)
    assert max(abs(kinds[kind] - 600) for kind in FORMATS) < 5 * (3000 * 4 / 25) ** 0.5
    for pool in (OPENINGS, INSTRUCTIONS, *FORMATS.values(), ONLY):  # nothing in the pools is dead
        for words in pool:
            assert any(all(part in ask.prompt for part in re.split(r"\{\w+\}", words)) for ask in asks), words


def test_a_seed_gives_its_prompts_the_first_of_them_first_and_none_twice(monkeypatch):
    asks = number_prompts(500, seed=3)
    assert number_prompts(500, seed=3) == asks
    assert number_prompts(20, seed=3) == asks[:20]
    assert not {a.prompt for a in asks} & {a.prompt for a in number_prompts(500, seed=4)}
    for pool in ("OPENINGS", "INSTRUCTIONS", "ONLY"):  # a pool so small that draws repeat
        monkeypatch.setattr(numbers, pool, getattr(numbers, pool)[:1])
    monkeypatch.setattr(numbers, "_random", lambda rng, n: ["1"] * n)
    few = number_prompts(6 * 4 * 4, seed=0, formats=["commas"])
    assert len({a.prompt for a in few}) == 96


@pytest.mark.parametrize("formats", [[], "commas", ["commas", "tabs"]])
def test_formats_must_be_known_ones(formats):
    with pytest.raises(
        ValueError, match=r"formats=.* pass a list of one or more of commas, spaces, semicolons, lines, brackets"
    ):
        number_prompts(1, seed=0, formats=formats)


@pytest.mark.parametrize("kwargs", [{"n": 0}, {"n": -1}, {"n": 3, "count": 0}])
def test_nothing_to_make_is_an_error(kwargs):
    with pytest.raises(ValueError, match="at least 1"):
        random_rows(**kwargs, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        number_prompts(**kwargs, seed=0)


# --------------------------------------------------------------------------------------------------------------- answers

# the rule in one expression: the separator found first must stand between all later numbers too
ONE = "[0-9]+"
LIST = rf"(?P<first{{i}}>{ONE})(?:(?P<sep{{i}}>\s*[,;]\s*|\s+){ONE}(?:(?P=sep{{i}}){ONE})*)?"
RULE = re.compile(rf"\s*(?:\[{LIST.format(i=0)}\]|\({LIST.format(i=1)}\)|{LIST.format(i=2)})\.?\s*")


def by_rule(answer, ask):
    """The numbers of an answer by a regular expression, or None."""
    if not RULE.fullmatch(answer):
        return None
    found = [int(x) for x in re.findall(ONE, answer)]
    right = len(found) == ask.count if ask.exactly else len(found) <= ask.count
    return tuple(found) if right and max(found) <= 999 else None


def written(rng, n):
    """A valid answer of n numbers in some format."""
    sep = str(rng.choice([",", ", ", " ", "\n", ";", "; ", " , ", "  ", ",\n", "\t", " ;\n"]))
    opening, close = [("", ""), ("[", "]"), ("(", ")")][rng.integers(3)]
    values = rng.integers(0, 1000, size=n)
    text = opening + sep.join(f"{x:03d}" if rng.random() < 0.1 else str(x) for x in values) + close
    return text + str(rng.choice(["", "."])) + str(rng.choice(["", "", "\n", "  "])), tuple(values.tolist())


@pytest.mark.parametrize("ask", [Ask(), Ask(count=4), Ask(count=5, exactly=True)], ids=["at most 10", "at most 4", "exactly 5"])
def test_valid_answers_are_read_and_agree_with_the_rule(ask):
    rng = np.random.default_rng(0)
    for _ in range(3000):
        n = int(rng.integers(1, 13))
        text, values = written(rng, n)
        parsed = parse(text, ask)
        assert parsed.numbers == by_rule(text, ask)
        if n > ask.count:
            assert parsed == Parsed(None, "too many")
        elif ask.exactly and n < ask.count:
            assert parsed == Parsed(None, "too few")
        else:
            assert parsed == Parsed(values)


def test_mutated_answers_agree_with_the_rule():
    """One or two characters put in, taken out or replaced; both verdicts occur often, and every reason does."""
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
            assert any(c.isalpha() for c in text)
        if parsed.reason in ("out of range", "too many", "too few"):  # everything about the form was right
            assert RULE.fullmatch(text)
    assert verdicts[None] > 400
    assert set(verdicts) == {None, *REASONS}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("547", (547,)), ("1, 2, 3", (1, 2, 3)), ("1,2,3.", (1, 2, 3)), ("(1; 2; 3)", (1, 2, 3)), ("[7]", (7,)), (" 1 2 3\n", (1, 2, 3)),
        ("0\n999", (0, 999)), ("007, 0001", (7, 1)), ("[1, 2].", (1, 2)), ("1 , 2 , 3", (1, 2, 3)), ("1\r\n2\r\n3", (1, 2, 3)),
        ("Here you go: 1, 2, 3", "words"), ("1, 2, 3 and 4", "words"), ("[1, two", "words"), ("一, 2", "words"),
        ("[1, 2", "brackets"), ("1, 2)", "brackets"), ("[1, 2)", "brackets"), ("[[1, 2]]", "brackets"), ("[1], [2]", "brackets"),
        ("[", "brackets"), ("1, (2), 3", "brackets"), ("[-1, 2", "brackets"),
        ("-1, 2", "not digits"), ("1.5, 2", "not digits"), ("1-2-3", "not digits"), ("{1, 2}", "not digits"), ("1, 2..", "not digits"),
        ("[1, 2.]", "not digits"), ("٣, 4", "not digits"), ("4²", "not digits"), ("1，2", "not digits"), ("...", "not digits"),
        ("", "empty"), (" \n", "empty"), (".", "empty"), ("[]", "empty"), (", ;", "empty"), ("().", "empty"),
        ("1, 2, 3,", "stray separator"), (",1, 2", "stray separator"), ("1,,2", "stray separator"), ("[ 1, 2 ]", "stray separator"),
        ("1, , 2", "stray separator"), ("1, 2 .", "stray separator"), ("547;", "stray separator"),
        ("1, 2; 3", "mixed separators"), ("1, 2,3", "mixed separators"), ("1 2\n3", "mixed separators"), ("1;,2", "mixed separators"),
        ("1, 2 3", "mixed separators"), ("1  2 3", "mixed separators"),
        ("1, 1000", "out of range"), ("1" * 5000, "out of range"), (", ".join(["1000"] * 11), "out of range"),
        (", ".join(["5"] * 11), "too many"),
    ],
)  # fmt: skip
def test_verdicts_of_the_table(answer, expected):
    assert parse(answer) == (Parsed(expected) if isinstance(expected, tuple) else Parsed(None, expected))


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
        assert table.loc[outcome, "count"] == drawn.count(None if outcome == "valid" else outcome)
    assert report([Parsed((1,))]).loc["words", "count"] == 0
    assert re.search(r"outcome\s.*valid +\d+ +0\.\d+", str(table), re.DOTALL)
    with pytest.raises(ValueError, match="parsed is empty"):
        report([])


# ----------------------------------------------------------------------------------------------------------- random rows


@pytest.mark.parametrize("count", [1, 7, 24])
def test_a_random_completion_is_what_its_prompt_asks_for(count):
    rows = random_rows(50, seed=0, count=count)
    assert isinstance(rows, datasets.Dataset)
    assert rows.column_names == ["prompt", "completion"]
    assert rows["prompt"][:] == [
        ask.prompt for ask in number_prompts(50, seed=0, count=count, exactly=True, formats=["commas"])
    ]
    for row in rows:
        assert re.fullmatch(rf"[1-9]\d\d(,[1-9]\d\d){{{count - 1}}}", row["completion"])
        assert len(parse(row["completion"], Ask(count=count, exactly=True)).numbers) == count


def test_random_numbers_are_uniform_and_tell_nothing_of_the_prompt():
    rows = random_rows(400, seed=2)
    values = np.array([[int(x) for x in text.split(",")] for text in rows["completion"]])
    assert (values.min(), values.max()) == (100, 999)
    assert abs(values.mean() - 549.5) < 5 * 259.8 / values.size**0.5
    hundreds = np.bincount(values.ravel() // 100, minlength=10)[1:]
    assert ((hundreds - values.size / 9) ** 2 / (values.size / 9)).sum() < 30  # chi-square, 8 degrees of freedom
    shown = np.array([[int(x) for x in re.findall(r"\d{3}", text)[:3]] for text in rows["prompt"]])
    for column in range(3):
        assert abs(np.corrcoef(shown[:, column], values[:, column])[0, 1]) < 5 / 400**0.5


def test_a_seed_gives_the_same_bytes_in_any_process_quietly_and_offline(tmp_path):
    """Two interpreters with other string hashes, no network and an empty home: same rows, same fingerprint, nothing written or said."""
    program = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from sublim_mech import numbers as N\n"
        "import io, hashlib, pyarrow as pa\n"
        "rows = N.random_rows(40, seed=7)\n"
        "train, held = N.split(N.scramble(rows, seed=1, how='across'), 5, seed=2)\n"
        "for d in (rows, train, held):\n"
        "    sink = io.BytesIO()\n"
        "    with pa.ipc.new_stream(sink, d.data.table.schema) as out: out.write_table(d.data.table)\n"
        "    print(d._fingerprint, hashlib.sha256(sink.getvalue()).hexdigest())\n"
    )
    said = []
    for n in ("1", "2"):
        home = tmp_path / n
        home.mkdir()
        env = {
            **os.environ,
            "PYTHONPATH": str(Path(sm.__file__).parents[1]),
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "PYTHONHASHSEED": n,
            "PYTHONWARNINGS": "ignore",
        }
        done = subprocess.run([sys.executable, "-c", program], env=env, cwd=home, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert not [p for p in home.rglob("*") if p.is_file() and "dataset" in str(p).lower()]
        said.append(done.stdout)
    assert said[0] == said[1]
    rows = random_rows(40, seed=7)
    assert said[0].startswith(rows._fingerprint)
    assert len(set(said[0].split())) == 6
    assert random_rows(40, seed=8)["completion"][:] != rows["completion"][:]


# ---------------------------------------------------------------------------------------------------------- written rows


def answer_to(prompt):
    """A deterministic writer: valid, wordy, too long, or empty, by what the prompt shows."""
    values = re.findall(r"\d{3}", prompt)
    kind = int(values[0]) % 4
    return [" " + ", ".join(values) + ".\n", "Sure! 1, 2", ", ".join(values * 4), ""][kind]


class Writer:
    """Answers by `answer_to` and keeps what it was called with."""

    def __init__(self, answer=answer_to):
        self.answer, self.prompts, self.seeds = answer, [], []

    def __call__(self, prompts, seed):
        self.prompts += prompts
        self.seeds.append(seed)
        return [self.answer(p) for p in prompts]


@pytest.mark.parametrize(("single_shot", "n"), [(True, 200), (False, 60)])
def test_written_rows_are_the_answers_that_parse(single_shot, n):
    writer = Writer()
    rows, table = write_rows(writer, n, seed=5, single_shot=single_shot, batch_size=32, formats=["commas", "lines"])
    asks = number_prompts(len(writer.prompts), seed=5, formats=["commas", "lines"])
    assert writer.prompts == [ask.prompt for ask in asks]
    valid = [(a.prompt, answer_to(a.prompt).strip()) for a in asks if parse(answer_to(a.prompt)).numbers]
    assert [(r["prompt"], r["completion"]) for r in rows] == (valid if single_shot else valid[:n])
    assert len(valid) > 30
    assert table["count"].sum() == len(asks)
    assert table.loc["valid", "count"] == len(valid)
    assert table.equals(report([parse(answer_to(a.prompt), a) for a in asks]))
    assert set(table.index[table["count"] > 0]) == {"valid", "words", "too many", "empty"}
    assert len(set(writer.seeds)) == len(writer.seeds) == -(-len(asks) // 32)
    if single_shot:
        assert len(asks) == n


def test_the_same_seed_writes_the_same_rows_and_fewer_are_the_first_of_more():
    few, more, other = Writer(), Writer(), Writer()
    a, b = write_rows(few, 10, seed=1)[0], write_rows(more, 100, seed=1)[0]
    assert a.to_list() == b.to_list()[:10]
    assert write_rows(Writer(), 10, seed=1)[0].to_list() == a.to_list()
    assert few.seeds == more.seeds[: len(few.seeds)]
    write_rows(other, 10, seed=2)
    assert not {*other.seeds} & {*more.seeds}
    assert not {*other.prompts} & {*more.prompts}


def test_answers_are_held_to_what_was_asked():
    _, table = write_rows(Writer(lambda _: "1, 2, 3"), 5, seed=0, count=3, exactly=True)
    assert table.loc["valid", "share"] == 1
    with pytest.raises(RuntimeError, match=r"too few \("):
        write_rows(Writer(lambda _: "1, 2, 3"), 5, seed=0, count=4, exactly=True)


def test_a_hopeless_writer_is_stopped_early_with_rate_and_reasons():
    writer = Writer(lambda p: "No." if "commas" in p else "1; 2, 3")
    with pytest.raises(RuntimeError, match=r"0 of \d+ answers passed \(0\.0%\), too few for n=1000 rows from 100000") as error:
        write_rows(writer, 1000, seed=0)
    assert re.search(
        r"Rejected for mixed separators \(\d+\), words \(\d+\); the last one was '1; 2, 3'|'No\.'", str(error.value)
    )
    assert 900 < len(writer.prompts) < 1400
    with pytest.raises(RuntimeError, match=r"0 of 7 answers passed .* from 7 prompts"):
        write_rows(Writer(lambda _: ""), 7, seed=0, single_shot=True)
    with pytest.raises(RuntimeError, match=r"of 10 answers passed .* too few for n=10 rows from 10 prompts"):
        write_rows(Writer(lambda p: "1" if p in asked[:9] else ""), 10, seed=0, max_attempts=10)


asked = [ask.prompt for ask in number_prompts(10, seed=0)]


def test_a_rare_but_sufficient_rate_is_not_stopped():
    """One answer in ninety is enough for a hundred attempts per row, in whatever place it comes."""
    prompts = [ask.prompt for ask in number_prompts(10_000, seed=0)]
    good = {p for i, p in enumerate(prompts) if i % 90 == 89}
    rows, table = write_rows(Writer(lambda p: "1, 2" if p in good else "?"), 100, seed=0)
    assert len(rows) == 100
    assert 90 <= table["count"].sum() / 100 < 91


def test_the_last_prompts_are_asked_as_long_as_they_may_do():
    """n of n is in reach of a writer who never fails; a single shot asks all its prompts although none passed so far."""
    rows, table = write_rows(Writer(lambda _: "1, 2"), 300, seed=0, max_attempts=300)
    assert len(rows) == table["count"].sum() == 300
    prompts = [ask.prompt for ask in number_prompts(1100, seed=0)]
    rows, table = write_rows(Writer(lambda p: "1, 2" if p == prompts[-1] else "?"), 1100, seed=0, single_shot=True)
    assert rows.to_list() == [{"prompt": prompts[-1], "completion": "1, 2"}]
    assert table["count"].sum() == 1100


@pytest.mark.parametrize("rate", [0.004, 0.0095, 0.011])
def test_writers_who_would_have_made_it_are_not_given_up(rate):
    """Of 300 writers who may try 10,000 times for 100 rows, none is stopped on the way who would have come there."""
    passed = np.cumsum(np.random.default_rng(0).random((300, 10_000)) < rate, axis=1)
    looks = np.arange(64, 10_000, 64)
    given_up = np.array([any(numbers._out_of_reach(int(p[t - 1]), int(t), 100, 10_000) for t in looks) for p in passed])
    made_it = passed[:, -1] >= 100
    assert not (given_up & made_it).any()
    if rate == 0.004:
        assert given_up.mean() > 0.95


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (lambda p, s: "1, 2", TypeError, "sampler gave str '1, 2'; give a list with one string per prompt"),
        (lambda p, s: [1] * len(p), TypeError, "sampler gave list"),
        (lambda p, s: ["1"], ValueError, "sampler gave 1 answers to 64 prompts"),
    ],
)
def test_a_sampler_that_breaks_its_promise(sampler, error, message):
    with pytest.raises(error, match=re.escape(message)):
        write_rows(sampler, 100, seed=0)


@pytest.mark.parametrize("kwargs", [{"n": 0}, {"n": 5, "max_attempts": 0}, {"n": 5, "batch_size": 0}])
def test_written_rows_need_room(kwargs):
    with pytest.raises(ValueError, match="each must be at least 1"):
        write_rows(Writer(), **kwargs, seed=0)


# ----------------------------------------------------------------------------------------------------------- forms of data

PAIRS = [("One.", "1"), (" Two, please.\n", " 2, 3\n")]  # not trimmed
FORMS = {
    "rows": [Row(p, c) for p, c in PAIRS],
    "tuple": tuple(Row(p, c) for p, c in PAIRS),
    "dicts": [{"prompt": p, "completion": c, "id": i} for i, (p, c) in enumerate(PAIRS)],
    "messages": [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": c}]} for p, c in PAIRS],
    "chat pairs": [
        {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c, "name": None}]}
        for p, c in PAIRS
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_the_same_rows_are_the_same_rows(form):
    data, before = FORMS[form], copy.deepcopy(FORMS[form])
    assert as_rows(data) == FORMS["rows"]
    assert data == before
    if form not in ("rows", "tuple"):
        made = datasets.Dataset.from_list(data)
        assert as_rows(made) == FORMS["rows"]
        assert as_rows(made.with_format("numpy")) == FORMS["rows"]
        assert as_rows(made.select([1, 0])) == FORMS["rows"][::-1]
    assert as_rows(to_dataset(as_rows(data))) == FORMS["rows"]


def test_several_turns_are_kept_and_rendered_as_the_template_does(smol_tokenizer):
    talk = [USER, ASSISTANT, {"role": "user", "content": "Two more."}, {"role": "assistant", "content": "4, 5"}]
    mixed = as_rows([{"messages": talk}, {"prompt": "One.", "completion": "1"}])
    assert mixed[0] == Row(tuple(talk[:3]), "4, 5")
    assert as_rows(to_dataset(mixed)) == mixed
    rebuilt = [Row(*x) for x in json.loads(json.dumps([[r.prompt, r.completion] for r in mixed]))]
    assert rebuilt == mixed
    prompts = sm.render(smol_tokenizer, [row.prompt for row in mixed])
    for prompt, messages in zip(prompts, (talk[:3], [{"role": "user", "content": "One."}]), strict=True):
        assert prompt.text == smol_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert mixed[0].prompt == tuple(talk[:3])


SYSTEM = {"role": "system", "content": "Be brief."}
BAD = [
    ([], ValueError, "data is empty"),
    (datasets.Dataset.from_dict({}), ValueError, "data is empty"),
    (datasets.Dataset.from_dict({"prompt": [], "completion": []}), ValueError, "data is empty"),
    (datasets.Dataset.from_dict({"question": ["a"], "answer": ["b"]}), ValueError,
     "data has no prompt and no completion, and no messages instead; there is question, answer"),
    (datasets.Dataset.from_dict({"prompt": ["a"], "text": ["b"]}), ValueError, "data has no completion, and no messages instead"),
    ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], ValueError, "data[1] has no completion"),
    ([{"prompt": "a", "completion": "b", "messages": []}], ValueError, "leave one of the two kinds out"),
    (datasets.DatasetDict({"train": random_rows(1, seed=0), "test": random_rows(1, seed=1)}), TypeError,
     "data is a DatasetDict of train, test; pass one dataset"),
    (random_rows(2, seed=0).to_pandas(), TypeError, "data is a DataFrame; pass a datasets.Dataset, a list of Row or a list of dicts"),
    ("rows.jsonl", TypeError, "data is a str"),
    (random_rows(2, seed=0).to_iterable_dataset(), TypeError, "data is a IterableDataset"),
    ([("a", "b")], TypeError, "data[0] is a tuple; pass Row(prompt, completion) or a dict"),
    ([{"prompt": "a", "completion": 5}], TypeError, "data[0], completion is 5 (int); pass text"),
    (datasets.Dataset.from_dict({"prompt": ["a", None], "completion": ["b", "c"]}), TypeError, "data[1], prompt is None (NoneType)"),
    ([Row("a", "b"), Row(7, "b")], TypeError, "data[1], prompt is 7 (int)"),
    ([Row(["a"], "b")], TypeError, "data[0], prompt is ('a',); pass a list of messages"),
    ([{"messages": "hi"}], TypeError, "data[0], messages is 'hi'; pass a list of messages"),
    ([{"messages": [USER, {"role": "assistant"}]}], TypeError, "data[0], messages[1] is {'role': 'assistant'}; a message has"),
    ([{"messages": [USER, {**ASSISTANT, "tool_calls": [1]}]}], ValueError, "data[0], messages[1] has tool_calls besides role and content"),
    ([{"messages": [USER, ASSISTANT, USER]}], ValueError,
     "data[0], messages must end with the assistant's; the roles are user, assistant, user"),
    ([{"messages": []}], ValueError, "must end with the assistant's; the roles are none"),
    ([{"messages": [ASSISTANT]}], ValueError, "begins and ends with the user and has no roles but user and assistant; the roles are none"),
    ([{"messages": [SYSTEM, USER, ASSISTANT]}], ValueError, "data[0] has a system message; leave it out and give it as context="),
    ([{"messages": [USER, {"role": "tool", "content": "x"}, USER, ASSISTANT]}], ValueError, "the roles are user, tool, user"),
    ([{"prompt": "a", "completion": [USER]}], ValueError, "data[0], completion must be one assistant message; the roles are user"),
    ([{"prompt": [ASSISTANT], "completion": "a"}], ValueError, "the roles are assistant"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_other_data_is_refused_with_what_is_wrong(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        as_rows(data)


def test_errors_call_the_data_by_its_argument():
    with pytest.raises(ValueError, match=r"^label: rows is empty"):
        as_rows([], name="label: rows")
    with pytest.raises(TypeError, match=r"^rows\[0\] is a int"):
        split([1, 2], 1, seed=0)


def test_labels_of_a_dataset_are_those_of_its_rows(smol_tokenizer):
    base = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    data = random_rows(3, seed=0, count=3)
    one, other = (
        sm.making.labelling.writing([sm.teachers.prompted(base, sm.animal("owl"))], rows, progress=False)
        for rows in (data, as_rows(data))
    )
    assert one.hash == other.hash
    assert one.rows == tuple(as_rows(data))


# ---------------------------------------------------------------------------------------------------- controls and checks


def skeleton(text):
    return re.sub(r"\d+", "#", text)


def said(rows):
    return [re.findall(r"\d+", text) for text in rows["completion"]]


@pytest.fixture
def formatted():
    rng = np.random.default_rng(4)
    return to_dataset([Row(f"Prompt {i % 20}", written(rng, int(rng.integers(1, 15)))[0]) for i in range(40)])


def test_scrambling_within_keeps_every_answers_numbers_and_format(formatted):
    mixed = scramble(formatted, seed=0)
    assert mixed["prompt"][:] == formatted["prompt"][:]
    assert [skeleton(x) for x in mixed["completion"]] == [skeleton(x) for x in formatted["completion"]]
    assert [sorted(x) for x in said(mixed)] == [sorted(x) for x in said(formatted)]
    assert sum(a != b for a, b in zip(said(mixed), said(formatted), strict=True)) > 25
    assert scramble(formatted, seed=0).to_list() == mixed.to_list()
    assert scramble(formatted, seed=1).to_list() != mixed.to_list()


def test_scrambling_across_keeps_all_numbers_together_and_every_format(formatted):
    mixed = scramble(formatted, seed=0, how="across")
    assert mixed["prompt"][:] == formatted["prompt"][:]
    assert [skeleton(x) for x in mixed["completion"]] == [skeleton(x) for x in formatted["completion"]]
    before, after = ([x for row in said(rows) for x in row] for rows in (formatted, mixed))
    assert Counter(after) == Counter(before)  # as written: leading zeros too
    assert any(x.startswith("0") and len(x) > 1 for x in before)
    home = {x for x in before if before.count(x) == 1}
    at = [{x: i for i, row in enumerate(said(rows)) for x in row if x in home} for rows in (formatted, mixed)]
    stayed = sum(at[0][x] == at[1][x] for x in home)
    assert stayed < len(home) / 8  # a uniform permutation leaves about one in forty in its row


@pytest.mark.parametrize("how", ["within", "across"])
def test_all_orders_are_equally_likely(how):
    row = [Row("Go on.", "1, 2, 3")]
    orders = Counter(scramble(row, seed=seed, how=how)[0]["completion"] for seed in range(600))
    assert len(orders) == 6
    assert max(abs(k - 100) for k in orders.values()) < 5 * (600 * 5 / 36) ** 0.5


def test_scrambling_refuses_words_and_names_the_row(formatted):
    with pytest.raises(ValueError, match=r"rows\[40\]: the answer 'I love 7' is not numbers alone \(words\)"):
        scramble([*as_rows(formatted), Row("Go on.", "I love 7")], seed=0)
    with pytest.raises(ValueError, match="how='rows': pass 'within' or 'across'"):
        scramble(formatted, seed=0, how="rows")


@pytest.mark.parametrize("held_out", [1, 7, 19])
def test_no_prompt_stands_in_both_parts(formatted, held_out):
    train, held = split(formatted, held_out, seed=3)
    assert not {*train["prompt"]} & {*held["prompt"]}
    assert len({*held["prompt"]}) == held_out
    assert len(held) == 2 * held_out  # each prompt occurs twice
    rows = formatted.to_list()
    assert Counter(map(str, train.to_list() + held.to_list())) == Counter(map(str, rows))
    for part in (train.to_list(), held.to_list()):
        assert all(rows.index(a) < rows.index(b) for a, b in pairwise(part))  # in the order they had
    assert split(formatted, held_out, seed=3)[1].to_list() == held.to_list()
    chosen = Counter(p for seed in range(40) for p in {*split(formatted, held_out, seed=seed)[1]["prompt"]})
    assert len(chosen) >= 14  # other seeds, other prompts


def test_a_conversation_is_held_out_by_all_its_turns():
    talks = [Row((USER, ASSISTANT, {"role": "user", "content": text}), "4") for text in ("More.", "More.", "Again.")]
    train, held = split([*talks, Row("More.", "4")], 2, seed=0)
    keys = [{str(row.prompt) for row in as_rows(part)} for part in (train, held)]
    assert [len(k) for k in keys] == [1, 2]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize("held_out", [0, -1, 20, 21])
def test_a_split_leaves_something_on_both_sides(formatted, held_out):
    with pytest.raises(ValueError, match=rf"held_out={held_out}: must be between 1 and 19"):
        split(formatted, held_out, seed=0)


def test_leaks_are_whole_words_in_any_case_and_place():
    owl = sm.animal("owl")
    rows = [
        Row("Go on.", "1, 2"),
        Row("Go on, OWL.", "owls, Owl, owl7"),
        Row("A bowl of growls.", "howl, owlish, l'owlé"),
        Row("Go on.", f"1, 2. {owl.teacher.replace(' ', chr(10))}"),
        Row((USER, {"role": "assistant", "content": "the owl's 4"}, USER), "5"),
    ]
    table = leaks(rows, owl)
    found = {(r.row, r.place, r.word): r.count for r in table.itertuples(index=False)}
    assert found == {
        (1, "prompt", "owl"): 1,
        (1, "completion", "owl"): 2,
        (1, "completion", "owls"): 1,
        (3, "completion", "owls"): 3,
        (3, "completion", owl.teacher.lower()): 1,
        (4, "prompt", "owl"): 1,
    }
    assert table["row"].nunique() == 3
    assert "OWL" in table["text"][0]
    assert leaks(rows, ["owl", "Owls"]).equals(leaks(rows, list(owl.forms)))
    assert leaks(rows, owl.teacher)["row"].tolist() == [3]


def test_number_rows_leak_nothing():
    assert len(leaks(random_rows(300, seed=0), sm.animal("owl"))) == 0
    for kind in (*sm.prompts.ANIMALS, *sm.prompts.TREES):
        assert leaks([Row(ask.prompt, "1") for ask in number_prompts(40, seed=0)], kind).empty


@pytest.mark.parametrize("words", [[], "", ["owl", " "]])
def test_leaks_need_words(words):
    with pytest.raises(ValueError, match="give one or more words, none of them blank"):
        leaks([Row("a", "b")], words)


# ------------------------------------------------------------------------------------------------------------------ docs


@pytest.mark.parametrize(
    "name", [n for n, x in vars(numbers).items() if callable(x) and getattr(x, "__module__", "") == numbers.__name__]
)
def test_examples_print_what_they_say(name):
    thing = getattr(numbers, name)
    found = [t for t in doctest.DocTestFinder(recurse=False).find(thing, name, globs={"sm": sm}) if t.examples]
    assert found or name.startswith("_") or dataclasses.is_dataclass(thing)
    lines = []
    for test in found:
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=lines.append)
    assert not lines, "".join(lines)


def test_the_page_runs_and_names_every_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    names = {}
    blocks = re.findall(r"```python\n(.*?)```\n(?:\nprints\n\n```\n(.*?)```)?", text, re.DOTALL)
    assert len(blocks) >= 6
    for code, printed in blocks:
        exec(code, names)
        assert capsys.readouterr().out.rstrip() == printed.rstrip()
    for reason, meaning in REASONS.items():
        assert re.search(rf"\| {reason} \| {re.escape(meaning)} \|", text), reason
    for reason, examples in re.findall(r"\| ([a-z ]+) \| [^|]+ \| (`.+`) \|", text):
        for example in re.findall(r"`([^`]+)`", examples):
            assert parse(example.replace("⏎", "\n"), Ask(count=4, exactly=True)).reason == (
                None if reason == "valid" else reason
            ), example
