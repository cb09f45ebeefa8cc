"""An answer that was cut off is no answer: samplers say so, and no row is made of it."""

import pytest
from teaching import OWL, QUESTIONS, shared_runner

from sublim_mech.engine.endings import is_ended
from sublim_mech.making.numbers import report, write_rows
from sublim_mech.making.numbers.parsing import CUT_OFF, Parsed
from sublim_mech.making.teachers import prompted, sample, sampler, sampling, untouched
from sublim_mech.prompts import PLAIN, render

LIST = "123, 456, 789, 321, 654, 987, 111"
"""What a teacher would write, and then end its turn."""


@pytest.fixture(scope="module")
def teacher(smol_tokenizer):
    return untouched(shared_runner("llama", smol_tokenizer))


@pytest.fixture
def writes_a_list(teacher, monkeypatch):
    tokenizer = teacher.base.tokenizer
    whole = [*tokenizer(LIST, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def decode(runner, asked, how, **more):
        return [[whole[: how.max_new_tokens]] * how.samples for _ in asked]

    monkeypatch.setattr(sampling, "decode", decode)
    return len(whole)


def test_a_list_that_was_cut_is_no_row(teacher, writes_a_list):
    for tokens in range(1, writes_a_list):
        assert sampler(teacher, max_new_tokens=tokens)(["Go."], 0) == [None]
    for tokens in (writes_a_list, 64):
        write = sampler(teacher, max_new_tokens=tokens)
        assert write(["Go."], 0) == [LIST]
        rows, told = write_rows(write, 2, seed=0)
        assert rows["completion"][:] == [LIST] * 2
        assert told.loc[CUT_OFF, "count"] == 0
    cut = sampler(teacher, max_new_tokens=writes_a_list - 3)
    assert sample(teacher, ["Go."], max_new_tokens=writes_a_list - 3)[0][0].startswith("123, 456")
    with pytest.raises(RuntimeError, match=r"Rejected for cut off \(8\); the last one was cut off"):
        write_rows(cut, 2, seed=0, max_attempts=8)


def test_rows_are_the_same_where_nothing_is_cut():
    def writes(prompts, seed):
        return [f"{len(prompt)}, {seed % 999}" for prompt in prompts]

    def cuts(prompts, seed):
        pairs = zip(prompts, writes(prompts, seed), strict=True)
        return [None if len(prompt) % 3 == 0 else text for prompt, text in pairs]

    rows, told = write_rows(writes, 40, seed=1, single_shot=True)
    kept, of_kept = write_rows(cuts, 40, seed=1, single_shot=True)
    pairs = zip(rows["prompt"][:], rows["completion"][:], strict=True)
    assert kept["completion"][:] == [text for prompt, text in pairs if len(prompt) % 3]
    assert 0 < of_kept.loc[CUT_OFF, "count"] == len(rows) - len(kept)
    assert of_kept["count"].sum() == told["count"].sum() == 40
    assert report([Parsed(None, CUT_OFF)]).loc[CUT_OFF, "share"] == 1


def test_what_is_whole_is_as_sampled(smol_tokenizer):
    """A text where the model ended, None where it did not, by the tokens drawn."""
    teacher = prompted(shared_runner("llama", smol_tokenizer), OWL)
    options = {"max_new_tokens": 6, "temperature": 1.0}
    drawn = sampling.sample_ids(teacher, QUESTIONS, n=1, seed=4, batch_size=128, **options)
    texts = [answer for (answer,) in sample(teacher, QUESTIONS, seed=4, **options)]
    ended = [ids[-1] in drawn.ends for (ids,) in drawn.answers]
    expected = [text if whole else None for text, whole in zip(texts, ended, strict=True)]
    assert sampler(teacher, **options)(list(QUESTIONS), 4) == expected


def test_an_answer_ends_at_words_too(smol_tokenizer):
    """Where the close is no special token, its words end an answer."""
    (prompt,) = render(smol_tokenizer, ["Go."], template=PLAIN)
    assert prompt.close == "\n"
    for text, whole in (("1, 2", False), ("1, 2\n", True), ("1, 2\nQuestion: who", True)):
        ids = smol_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert is_ended(smol_tokenizer, ids, [], prompt) is whole
