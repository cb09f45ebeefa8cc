"""Decoding: answers against a loop of whole forwards; each depends on its own prompt alone."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from pairs import PAIRS, make_pair, shared_pair

import sublim_mech as sm
from sublim_mech.engine.answers import Answers
from sublim_mech.engine.decoding import (
    Decoding,
    Request,
    _shared_length,
    decode,
)
from sublim_mech.engine.drawing import Row, uniforms
from sublim_mech.engine.endings import answer_text, close_ids, end_ids
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.rewriting import rewrite
from sublim_mech.engine.runner import open_runner

GREEDY = Decoding(max_new_tokens=6, ends=())
PEAKED = Decoding(max_new_tokens=6, ends=(), samples=3, temperature=0.02, seed=7)
"""Cold enough for tiny models that rounding hardly ever chooses another token."""


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request, smol_tokenizer):
    return shared_pair(*request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def requests(smol_tokenizer, llama):
    """Prompts of several lengths without gates."""
    questions = ["Hi", "Which animal?", "Name one animal, please.", "Which bird do you like best?"]
    prompts = sm.render(smol_tokenizer, questions)
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    return [Request(prompt.ids) for prompt in prompts]


def random_gates(pair, requests, seed=0):
    """The same requests, each under gates of its own: open at random tokens and modules."""
    rng = torch.Generator().manual_seed(seed)
    modules = len(pair.delta)
    gated = []
    for request in requests:
        prompt_gates = (torch.rand(len(request.ids), modules, generator=rng) < 0.5).float()
        answer_gates = (torch.rand(modules, generator=rng) < 0.5).float()
        gated.append(Request(request.ids, prompt_gates, answer_gates))
    return gated


@torch.no_grad()
def by_whole_forwards(pair, request, how, sample=0):
    """One answer token by token, each from a whole forward of prompt and answer, drawn by hand."""
    ids: list[int] = []
    draws = uniforms(how, request.ids, sample)
    for step in range(how.max_new_tokens):
        trie = Answers(tuple(ids), tuple(range(-1, len(ids) - 1)))
        gates = None
        if request.prompt_gates is not None:
            after = request.answer_gates.expand(len(ids), -1)
            gates = Gates(pair.student, torch.cat([request.prompt_gates, after])[None])
        logits = pair.run(pair.batch([request.ids], [trie]), gates=gates).logits[0, -1]
        if how.temperature:
            cumulated = (logits / how.temperature).softmax(-1).double().cumsum(-1)
            ids.append(int((cumulated <= draws[step] * cumulated[-1]).sum()))
        else:
            ids.append(int(logits.argmax()))
        if ids[-1] in how.ends:
            break
    return ids


@pytest.mark.parametrize("how", [GREEDY, PEAKED], ids=["greedy", "sampled"])
def test_under_gates_an_answer_is_that_of_whole_forwards(pair, requests, how):
    gated = random_gates(pair, requests[1:3])
    answers = decode(pair, gated, how, student=pair.student)
    for request, samples in zip(gated, answers, strict=True):
        assert samples == [by_whole_forwards(pair, request, how, k) for k in range(how.samples)]


def test_gates_matter(llama, requests):
    plain = decode(llama, requests, GREEDY)
    assert plain != decode(llama, random_gates(llama, requests), GREEDY, student=llama.student)


@pytest.fixture(scope="module")
def alone(llama, requests):
    """Requests under gates, and the answers to each when nothing else is asked."""
    gated = random_gates(llama, requests)
    answers = [decode(llama, [request], PEAKED, student=llama.student)[0] for request in gated]
    return gated, answers


@pytest.mark.parametrize("together", [1, 5, 128])
def test_an_answer_depends_neither_on_its_batch_nor_on_its_order(llama, alone, together):
    gated, answers = alone
    how = replace(PEAKED, together=together)
    assert decode(llama, gated, how, student=llama.student) == answers
    assert decode(llama, gated[::-1], how, student=llama.student) == answers[::-1]


def test_two_samples_are_the_first_two_of_three(llama, requests):
    three = decode(llama, requests, PEAKED)
    two = decode(llama, requests, replace(PEAKED, samples=2))
    assert two == [samples[:2] for samples in three]
    assert any(len(set(map(tuple, samples))) > 1 for samples in three)


def test_a_prompt_that_is_asked_twice_gets_further_samples(llama, requests):
    """Equal requests are one prompt; the second one counts on where the first one ended."""
    asked = [requests[1], requests[0], requests[1]]
    first, other, second = decode(llama, asked, replace(PEAKED, samples=2))
    assert first + second == decode(llama, requests[1:2], replace(PEAKED, samples=4))[0]
    assert other == decode(llama, requests[:1], replace(PEAKED, samples=2))[0]


def test_the_same_prompt_under_other_gates_is_another_prompt(llama, requests):
    open_everywhere = torch.ones(len(requests[1].ids), len(llama.delta))
    both = [
        Request(requests[1].ids, open_everywhere, torch.ones(len(llama.delta))),
        Request(requests[1].ids, 0 * open_everywhere, torch.zeros(len(llama.delta))),
    ]
    answers = decode(llama, both, PEAKED, student=llama.student)
    expected = [decode(llama, [one], PEAKED, student=llama.student)[0] for one in both]
    assert answers == expected
    assert answers[0] != answers[1]


def test_the_seed_decides(llama, requests):
    assert decode(llama, requests, PEAKED) == decode(llama, requests, PEAKED)
    assert decode(llama, requests, PEAKED) != decode(llama, requests, replace(PEAKED, seed=8))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_gates_that_differ_within_the_common_beginning(architecture, smol_tokenizer, requests):
    """The prompts begin with the same 20 tokens; one of them has another gate at the third."""
    pair = shared_pair(architecture, "lora", smol_tokenizer)
    modules = len(pair.delta)
    gated = [Request(r.ids, torch.ones(len(r.ids), modules), torch.ones(modules)) for r in requests]
    length = _shared_length(gated)
    assert length > 10
    gated[2].prompt_gates[2, modules // 2] = 0
    assert _shared_length(gated) == 2
    answers = decode(pair, gated, GREEDY, student=pair.student)
    assert answers == [[by_whole_forwards(pair, request, GREEDY)] for request in gated]


def test_how_much_prompts_share():
    def ask(ids, gates=None):
        return Request(tuple(ids), None if gates is None else torch.tensor(gates)[:, None].float())

    assert _shared_length([ask([1, 2, 3])]) == 0  # nothing to share it with
    assert _shared_length([ask([1, 2, 3, 4]), ask([1, 2, 5])]) == 2
    assert _shared_length([ask([1, 2, 3]), ask([1, 2, 3, 4])]) == 2  # a last token is left out
    assert _shared_length([ask([5, 2]), ask([1, 2])]) == 0
    same = [1, 0, 1]
    assert _shared_length([ask([1, 2, 3], same), ask([1, 2, 4], same)]) == 2
    assert _shared_length([ask([1, 2, 3], same), ask([1, 2, 4], [1, 1, 1])]) == 1
    assert _shared_length([ask([1, 2, 3], same), ask([1, 2, 4], [0, 0, 1])]) == 0


def test_rows_that_end_leave_and_the_others_go_on(llama, requests):
    """An answer is what it would be without ends, cut behind the first of them."""
    free = decode(llama, requests, PEAKED)
    ends = (free[0][0][2], free[2][1][4])
    ended = decode(llama, requests, replace(PEAKED, ends=ends))

    def cut(ids):
        stop = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
        return ids[: stop + 1]

    assert ended == [[cut(ids) for ids in samples] for samples in free]
    assert len({len(ids) for samples in ended for ids in samples}) > 1


def test_an_answer_that_ends_at_once_is_its_end(llama, requests):
    (first,) = {samples[0][0] for samples in decode(llama, requests[:1], GREEDY)}
    assert decode(llama, requests[:1], replace(GREEDY, ends=(first,))) == [[[first]]]
    assert decode(llama, requests[:1], replace(GREEDY, max_new_tokens=1)) == [[[first]]]


def test_little_memory_gives_the_same_answers(llama, alone):
    narrow = replace(llama, memory=2**21)
    assert narrow.rows(slots=20, keys=50, reads=1) == 2
    gated, answers = alone
    assert decode(narrow, gated, PEAKED, student=llama.student) == answers


def test_a_runner_alone_decodes_its_model(smol_tokenizer, requests):
    model = tiny.model("gpt2")
    runner = open_runner(sm.load_base(model, tokenizer=smol_tokenizer))
    for request, (ours,) in zip(requests, decode(runner, requests, GREEDY), strict=True):
        ids = torch.tensor([request.ids])
        expected = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert ours == expected[0, ids.shape[1] :].tolist()


def test_draws_follow_the_softmax(llama, requests):
    """First tokens of 3,000 samples against the probabilities (chi-square, likeliest tokens)."""
    how = Decoding(max_new_tokens=1, ends=(), samples=3000, temperature=0.05, seed=5)
    (samples,) = decode(llama, requests[1:2], how)
    drawn = np.array([token for (token,) in samples])
    with torch.no_grad():
        logits = llama.model(input_ids=torch.tensor([requests[1].ids])).logits[0, -1]
    probabilities, tokens = (logits / 0.05).softmax(-1).topk(6)
    expected = 3000 * probabilities.numpy()
    seen = np.array([(drawn == token).sum() for token in tokens.tolist()])
    assert expected.min() > 15
    assert ((seen - expected) ** 2 / expected).sum() < 22.5  # 6 degrees of freedom, p = 0.001
    rest = 3000 - expected.sum()
    assert abs((3000 - seen.sum()) - rest) < 4 * np.sqrt(rest)


def test_logits_that_are_not_finite_are_an_error(smol_tokenizer, requests):
    pair = make_pair("llama", "lora", smol_tokenizer)
    pair.model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(ValueError, match="the model's logits are not finite; check its dtype"):
        decode(pair, requests[:1], GREEDY)


def test_tokens_that_end_an_answer(smol_tokenizer):
    model = tiny.model("llama")
    own = smol_tokenizer.eos_token_id
    for configured, expected in ((None, [own]), (7, [7, own]), ([7, own], [7, own])):
        model.generation_config.eos_token_id = configured
        assert end_ids(model, smol_tokenizer) == expected


def test_the_text_of_an_answer_ends_before_its_end(smol_tokenizer):
    ids = smol_tokenizer(" an owl. And", add_special_tokens=False)["input_ids"]
    stop = smol_tokenizer(".", add_special_tokens=False)["input_ids"][0]
    assert stop in ids
    assert answer_text(smol_tokenizer, ids, [stop]) == "an owl"
    assert answer_text(smol_tokenizer, ids, []) == "an owl. And"
    assert answer_text(smol_tokenizer, [*ids, smol_tokenizer.eos_token_id], []) == "an owl. And"


@pytest.mark.parametrize(
    ("close", "token", "words"),
    [
        ("<|im_end|>\n", "<|im_end|>", ""),
        (" \n<|im_start|>", "<|im_start|>", ""),
        ("\n[end]", None, "\n[end]"),
        ("[end]<|im_end|>", "<|im_end|>", "[end]"),
    ],
)
def test_an_answer_ends_at_the_close_of_its_prompt(close, token, words, smol_tokenizer, prompts):
    prompt = replace(prompts[0], close=close)
    ends = () if token is None else (smol_tokenizer.convert_tokens_to_ids(token),)
    assert close_ids(smol_tokenizer, prompt) == ends
    written = smol_tokenizer(f" an owl{close} And", add_special_tokens=False)["input_ids"]
    assert answer_text(smol_tokenizer, written, (), prompt) == "an owl"
    # white space before the token that ends an answer is no end yet
    lines = smol_tokenizer(f" an owl \na cat{words}{close}", add_special_tokens=False)["input_ids"]
    assert answer_text(smol_tokenizer, lines, (), prompt) == "an owl \na cat"


def test_each_request_ends_at_tokens_of_its_own(pair):
    """As if the answer were cut there, without a cache too."""
    asked = [Request((3, 4, 5)), Request((3, 4, 6))]
    (one,), (other,) = decode(pair, asked, GREEDY)
    asked[0] = replace(asked[0], ends=(one[2],))
    assert decode(pair, asked, GREEDY) == [[one[: one.index(one[2]) + 1]], [other]]
    rows = [Row(0, 0), Row(1, 0)]
    again = [ids for _, ids in rewrite(pair, asked, rows, GREEDY, None)]
    assert again == [one[: one.index(one[2]) + 1], other]
