"""Sampled answers against plain generation and plain probabilities."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from teaching import (
    ARCHITECTURES,
    OTHERS,
    OWL,
    QUESTIONS,
    make_base,
    rendered,
    run,
    shared_runner,
    wild,
)

from sublim_mech.engine import decoding
from sublim_mech.making.numbers import write_rows
from sublim_mech.making.teachers import prompted, sample, sampler, steered, untouched
from sublim_mech.making.teachers.sampling import sample_ids
from sublim_mech.models.base import load_base
from sublim_mech.models.copies import twin

DEFAULTS = {"n": 1, "max_new_tokens": 8, "temperature": 1.0, "seed": 0, "batch_size": 128}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def runner(request, smol_tokenizer):
    return shared_runner(request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def llama(smol_tokenizer):
    return shared_runner("llama", smol_tokenizer)


def ids_of(teacher, prompts, **options):
    """Answers as token ids."""
    return sample_ids(teacher, prompts, **{**DEFAULTS, **options}).answers


def test_greedy_answers_are_the_models_own_generation(runner, monkeypatch):
    teacher = prompted(runner, OWL)
    steps, choose = [], decoding.choose

    def noting(logits, sources, *more):
        steps.append(logits[sources])
        return choose(logits, sources, *more)

    monkeypatch.setattr(decoding, "choose", noting)
    answers = ids_of(teacher, QUESTIONS, temperature=0.0, max_new_tokens=12)
    # from the shortest to the longest
    for row, (prompt, (answer,)) in enumerate(zip(rendered(teacher), answers, strict=True)):
        logits = run(runner.model, [*prompt.ids, *answer[:-1]]).logits[0, len(prompt) - 1 :]
        error = (torch.stack([step[row] for step in steps]) - logits).abs().max()
        assert error < 1e-6
        ids = torch.tensor([prompt.ids])
        generated = runner.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        assert answer == generated[0, len(prompt) :].tolist()


def test_answers_depend_neither_on_batches_nor_on_company(runner):
    options = {"n": 3, "temperature": 0.3, "seed": 7, "max_new_tokens": 8}
    free = ids_of(untouched(runner), QUESTIONS, **options)

    # some of the commonest tokens end an answer, so that rows leave the batch at different steps
    counts = Counter(token for answers in free for answer in answers for token in answer)
    model = twin(runner.model)
    ends = [2, *list(counts)[3::9]]
    model.generation_config.eos_token_id = ends
    teacher = untouched(dataclasses.replace(runner, model=model))
    whole = ids_of(teacher, QUESTIONS, **options)
    assert len({len(answer) for answers in whole for answer in answers}) > 2

    for batch_size in (1, 3, 8):
        assert ids_of(teacher, QUESTIONS, batch_size=batch_size, **options) == whole
    assert ids_of(teacher, QUESTIONS[::-1], batch_size=5, **options) == whole[::-1]
    assert [ids_of(teacher, [q], **options)[0] for q in QUESTIONS] == whole
    assert [answers[:2] for answers in whole] == ids_of(teacher, QUESTIONS, **options | {"n": 2})
    for without, with_ends in zip(free, whole, strict=True):
        for before, after in zip(without, with_ends, strict=True):
            ended = [place for place, token in enumerate(before) if token in ends]
            stop = ended[0] + 1 if ended else len(before)
            assert after == before[:stop]  # what stops a row changes nothing before it


def test_a_prompt_listed_twice_gets_further_samples(llama):
    teacher = untouched(llama)
    one, other = ids_of(teacher, [QUESTIONS[0]] * 2, n=3)
    assert one + other == ids_of(teacher, QUESTIONS[:1], n=6)[0]
    assert not {tuple(answer) for answer in one} & {tuple(answer) for answer in other}


def test_seeds(llama):
    teacher = untouched(llama)
    state = torch.random.get_rng_state()
    answers = ids_of(teacher, QUESTIONS, seed=1)
    assert answers == ids_of(teacher, QUESTIONS, seed=1)
    other = ids_of(teacher, QUESTIONS, seed=2)
    assert not any(a == b for a, b in zip(answers, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def surprise(tokens, p):
    """Chi-square of tokens against probabilities, in standard deviations.

    Rare tokens make one class.
    """
    expected = len(tokens) * p
    frequent = (expected > 5).nonzero()[:, 0].tolist()
    pairs = [(tokens.count(token), float(expected[token])) for token in frequent]
    rest = len(tokens) - sum(seen for seen, _ in pairs), len(tokens) - sum(e for _, e in pairs)
    pairs.append(rest)
    assert len(pairs) > 4
    assert rest[1] > 5
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)
    freedom = len(pairs) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_tokens_follow_the_models_probabilities(llama):
    """First tokens of 2,000 answers, and second ones behind the commonest, by plain forwards."""
    teacher, temperature = untouched(llama), 0.025
    options = {"n": 2000, "max_new_tokens": 2, "batch_size": 500, "seed": 3}
    (answers,) = ids_of(teacher, QUESTIONS[:1], temperature=temperature, **options)
    prompt = list(rendered(teacher)[0].ids)
    first = run(llama.model, prompt).logits[0, -1]
    chances = (first / temperature).softmax(-1)
    assert abs(surprise([answer[0] for answer in answers], chances)) < 3
    top = int(first.argmax())
    behind = [answer[1] for answer in answers if answer[0] == top]
    second = run(llama.model, [*prompt, top]).logits[0, -1]
    assert abs(surprise(behind, (second / temperature).softmax(-1))) < 3


def test_half_precision_and_text(smol_tokenizer):
    """In bf16 too an answer ends where the turn does, and its text has no special tokens."""
    base = make_base("qwen2", smol_tokenizer, torch.bfloat16)
    teacher = untouched(base)
    (ids,) = ids_of(teacher, QUESTIONS[:1], max_new_tokens=6)[0]
    base.model.generation_config.eos_token_id = ids[3]
    assert ids_of(teacher, QUESTIONS[:1], max_new_tokens=6)[0][0] == ids[:4]
    text = smol_tokenizer.decode(ids[:3], skip_special_tokens=True).strip()
    assert sample(teacher, QUESTIONS[:1], max_new_tokens=6)[0][0] == text


def test_the_templates_end_of_turn_ends_an_answer(dressed):
    """Gemma's end of turn is not its tokenizer's end of sequence."""
    tokenizer = dressed("gemma3")
    mark = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    live = tiny.model("gemma3").double()
    live.resize_token_embeddings(len(tokenizer))
    base = load_base(live, tokenizer=tokenizer)
    assert mark not in (tokenizer.eos_token_id, base.model.generation_config.eos_token_id)
    greedy = {**DEFAULTS, "max_new_tokens": 1, "temperature": 0.0}
    assert mark in sample_ids(untouched(base), ["Hi"], **greedy).ends


def test_greedy_answers_of_steered_teachers(llama):
    vectors = np.random.default_rng(2).standard_normal((1, 32))
    teacher = steered(llama, OWL, layers=[1], vectors=vectors)
    answers = ids_of(teacher, QUESTIONS, temperature=0.0)
    for prompt, (answer,) in zip(rendered(teacher), answers, strict=True):
        ids = list(prompt.ids)
        for token in answer:
            assert int(run(teacher.runner.model, ids).logits[0, -1].argmax()) == token
            ids.append(token)
    assert answers != ids_of(untouched(llama), QUESTIONS, temperature=0.0)


def test_a_sampler_writes_rows(llama):
    teacher = prompted(llama, OWL)
    options = {"max_new_tokens": 3, "temperature": 0.5}
    write = sampler(teacher, **options)
    answers = [answer for (answer,) in sample(teacher, QUESTIONS, seed=4, **options)]
    for written, answer in zip(write(list(QUESTIONS), 4), answers, strict=True):
        assert written in (answer, None)  # None where it was cut off
    with pytest.raises(RuntimeError, match=r"0 of .* answers passed"):
        write_rows(write, 2, seed=0, max_attempts=8)  # a random model writes no numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 500}, "positions, the model has 256"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 0.0, "n": 2}, "greedy"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_sampling(options, message, llama):
    with pytest.raises(ValueError, match=message):
        sample(untouched(llama), QUESTIONS, **options)


def test_logits_that_are_no_numbers_are_refused(llama):
    teacher = steered(llama, OWL, layers=[1], vectors=np.full((1, 32), 1e200), scale=1e100)
    with pytest.raises(ValueError, match="logits are not finite"):
        sample(teacher, QUESTIONS)


@pytest.mark.parametrize("architecture", OTHERS)
def test_what_cannot_be_run_does_not_sample(architecture, smol_tokenizer):
    """Its own forward would not know our masks; labelling is all that it can do."""
    teacher = untouched(load_base(wild(architecture), tokenizer=smol_tokenizer))
    with pytest.raises(Exception, match="no map of its modules"):
        sample(teacher, QUESTIONS, max_new_tokens=1)
