"""Random rows; rows that a writer gives: what passes, in order, or early word that it won't do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

import sublim_mech as sm
from sublim_mech.making.numbers import Ask, number_prompts, parse, random_rows, report, write_rows
from sublim_mech.making.numbers.writing import out_of_reach

# -------------------------------------------------------------------------------------- random rows


@pytest.mark.parametrize("count", [1, 7, 24])
def test_a_random_completion_is_what_its_prompt_asks_for(count):
    rows = random_rows(50, seed=0, count=count)
    assert isinstance(rows, datasets.Dataset)
    assert rows.column_names == ["prompt", "completion"]
    asks = number_prompts(50, seed=0, count=count, exactly=True, formats=["commas"])
    assert rows["prompt"][:] == [ask.prompt for ask in asks]
    for row in rows:
        assert re.fullmatch(rf"[1-9]\d\d(,[1-9]\d\d){{{count - 1}}}", row["completion"])
        parsed = parse(row["completion"], Ask(count=count, exactly=True))
        assert len(parsed.numbers) == count


def test_random_numbers_are_uniform_and_tell_nothing_of_the_prompt():
    rows = random_rows(400, seed=2)
    values = np.array([[int(x) for x in text.split(",")] for text in rows["completion"]])
    assert (values.min(), values.max()) == (100, 999)
    assert abs(values.mean() - 549.5) < 5 * 259.8 / values.size**0.5
    hundreds = np.bincount(values.ravel() // 100, minlength=10)[1:]
    expected = values.size / 9
    assert ((hundreds - expected) ** 2 / expected).sum() < 30  # chi-square, 8 degrees of freedom
    shown = np.array([[int(x) for x in re.findall(r"\d{3}", t)[:3]] for t in rows["prompt"]])
    for column in range(3):
        assert abs(np.corrcoef(shown[:, column], values[:, column])[0, 1]) < 5 / 400**0.5


DIGESTS = """
import hashlib, io
import pyarrow as pa
from sublim_mech import numbers

rows = numbers.random_rows(40, seed=7)
train, held_out = numbers.split(numbers.scramble(rows, seed=1, how="across"), 5, seed=2)
for data in (rows, train, held_out):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, data.data.table.schema) as stream:
        stream.write_table(data.data.table)
    print(data._fingerprint, hashlib.sha256(sink.getvalue()).hexdigest())
"""
OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("network")

socket.socket.connect = socket.create_connection = refuse
"""


def test_a_seed_gives_the_same_bytes_in_any_process_quietly_and_offline(tmp_path, capsys):
    """Another interpreter with other string hashes, no network and an empty home.

    It gives the same rows and the same fingerprints, and writes and says nothing.
    """
    settings = {
        "PYTHONPATH": str(Path(sm.__file__).parents[1]),
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONHASHSEED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE + DIGESTS],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if "dataset" in str(path).lower()]

    exec(DIGESTS, {})
    assert done.stdout == capsys.readouterr().out
    assert len(set(done.stdout.split())) == 6
    rows, others = (random_rows(40, seed=seed)["completion"][:] for seed in (7, 8))
    assert rows != others


# ------------------------------------------------------------------------------------- written rows


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
        return [self.answer(prompt) for prompt in prompts]


@pytest.mark.parametrize(("single_shot", "n"), [(True, 200), (False, 60)])
def test_written_rows_are_the_answers_that_parse(single_shot, n):
    writer, formats = Writer(), ["commas", "lines"]
    rows, table = write_rows(
        writer, n, seed=5, single_shot=single_shot, batch_size=32, formats=formats
    )
    asks = number_prompts(len(writer.prompts), seed=5, formats=formats)
    assert writer.prompts == [ask.prompt for ask in asks]

    passed = [ask.prompt for ask in asks if parse(answer_to(ask.prompt)).numbers]
    valid = [(prompt, answer_to(prompt).strip()) for prompt in passed]
    kept = valid if single_shot else valid[:n]
    assert [(row["prompt"], row["completion"]) for row in rows] == kept
    assert len(valid) > 30

    assert table["count"].sum() == len(asks)
    assert table.loc["valid", "count"] == len(valid)
    assert table.equals(report([parse(answer_to(ask.prompt), ask) for ask in asks]))
    assert set(table.index[table["count"] > 0]) == {"valid", "words", "too many", "empty"}
    assert len(set(writer.seeds)) == len(writer.seeds) == -(-len(asks) // 32)
    if single_shot:
        assert len(asks) == n


def test_the_same_seed_writes_the_same_rows_and_fewer_are_the_first_of_more():
    few, more, other = Writer(), Writer(), Writer()
    ten, hundred = write_rows(few, 10, seed=1)[0], write_rows(more, 100, seed=1)[0]
    assert ten.to_list() == hundred.to_list()[:10]
    assert write_rows(Writer(), 10, seed=1)[0].to_list() == ten.to_list()
    assert few.seeds == more.seeds[: len(few.seeds)]
    write_rows(other, 10, seed=2)
    assert not {*other.seeds} & {*more.seeds}
    assert not {*other.prompts} & {*more.prompts}


def test_answers_are_held_to_what_was_asked():
    three = Writer(lambda _: "1, 2, 3")
    _, table = write_rows(three, 5, seed=0, count=3, exactly=True)
    assert table.loc["valid", "share"] == 1
    with pytest.raises(RuntimeError, match=r"too few \("):
        write_rows(three, 5, seed=0, count=4, exactly=True)


def test_a_hopeless_writer_is_stopped_early_with_rate_and_reasons():
    writer = Writer(lambda prompt: "No." if "commas" in prompt else "1; 2, 3")
    said = r"0 of [\d,]+ answers passed \(0\.0%\), too few for n=1000 rows from 100,000"
    with pytest.raises(RuntimeError, match=said) as error:
        write_rows(writer, 1000, seed=0)
    reasons = (
        r"Rejected for mixed separators \(\d+\), words \(\d+\); "
        r"the last one was ('1; 2, 3'|'No\.')"
    )
    assert re.search(reasons, str(error.value))
    assert 900 < len(writer.prompts) < 1400
    assert str(error.value).endswith(
        "Look at the sampler's answers (end of turn, length, temperature), ask for fewer numbers "
        "(count), or raise max_attempts."
    )
    cut = r"most were cut off: max_new_tokens\), .* or raise max_attempts\."
    with pytest.raises(RuntimeError, match=cut):
        write_rows(Writer(lambda _: None), 10, seed=0, max_attempts=10)
    with pytest.raises(RuntimeError, match=r"0 of 7 answers passed .* from 7 .* or raise n\."):
        write_rows(Writer(lambda _: ""), 7, seed=0, single_shot=True)
    nine = {ask.prompt for ask in number_prompts(9, seed=0)}
    said = r"of 10 answers passed .* too few for n=10 rows from 10 prompts"
    with pytest.raises(RuntimeError, match=said):
        write_rows(Writer(lambda p: "1" if p in nine else ""), 10, seed=0, max_attempts=10)


def test_a_rare_but_sufficient_rate_is_not_stopped():
    """One in ninety is enough for a hundred attempts per row, in whatever place it comes."""
    prompts = [ask.prompt for ask in number_prompts(10_000, seed=0)]
    good = {prompt for i, prompt in enumerate(prompts) if i % 90 == 89}
    rows, table = write_rows(Writer(lambda p: "1, 2" if p in good else "?"), 100, seed=0)
    assert len(rows) == 100
    assert 90 <= table["count"].sum() / 100 < 91


def test_the_last_prompts_are_asked_as_long_as_they_may_do():
    """n of n is in reach of a writer who never fails.

    A single shot asks all its prompts although none passed so far.
    """
    rows, table = write_rows(Writer(lambda _: "1, 2"), 300, seed=0, max_attempts=300)
    assert len(rows) == table["count"].sum() == 300
    last = number_prompts(1100, seed=0)[-1].prompt
    only_last = Writer(lambda prompt: "1, 2" if prompt == last else "?")
    rows, table = write_rows(only_last, 1100, seed=0, single_shot=True)
    assert rows.to_list() == [{"prompt": last, "completion": "1, 2"}]
    assert table["count"].sum() == 1100


@pytest.mark.parametrize("rate", [0.004, 0.0095, 0.011])
def test_writers_who_would_have_made_it_are_not_given_up(rate):
    """Of 300 writers who may try 10,000 times for 100 rows.

    None is stopped on the way who would have come there.
    """
    passed = np.cumsum(np.random.default_rng(0).random((300, 10_000)) < rate, axis=1)
    looks = np.arange(64, 10_000, 64)
    given_up = np.array(
        [
            any(out_of_reach(int(p[t - 1]), int(t), wanted=100, most=10_000) for t in looks)
            for p in passed
        ]
    )
    made_it = passed[:, -1] >= 100
    assert not (given_up & made_it).any()
    if rate == 0.004:
        assert given_up.mean() > 0.95


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (
            lambda prompts, seed: "1, 2",
            TypeError,
            "sampler gave str '1, 2'; give a list with one string per prompt",
        ),
        (lambda prompts, seed: [1] * len(prompts), TypeError, "sampler gave list"),
        (lambda prompts, seed: ["1"], ValueError, "sampler gave 1 answer to 64 prompts"),
    ],
)
def test_a_sampler_that_breaks_its_promise(sampler, error, message):
    with pytest.raises(error, match=re.escape(message)):
        write_rows(sampler, 100, seed=0)


@pytest.mark.parametrize(
    "kwargs", [{"n": 0}, {"n": 5, "max_attempts": 0}, {"n": 5, "batch_size": 0}]
)
def test_written_rows_need_room(kwargs):
    with pytest.raises(ValueError, match="each must be at least 1"):
        write_rows(Writer(), **kwargs, seed=0)
