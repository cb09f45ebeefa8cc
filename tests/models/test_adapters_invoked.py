"""aLoRA is a gate by position: from its invocation tokens on, as PEFT's own forward has it."""

from __future__ import annotations

import dataclasses

import adapter_kinds
import numpy as np
import pytest
import torch
from comparing import distance
from loading import base, model, runner, saved
from pairs import CAT, NO_SYSTEM, QUIET, TRAIT, answer_ids

import sublim_mech as sm
from sublim_mech.engine.answers import NO_ANSWERS, build_trie
from sublim_mech.engine.decoding import Decoding, Request, decode
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.invocation import invoked_at, shared_under
from sublim_mech.models.students import invocation_of, load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TOKENS = adapter_kinds.INVOCATION
PLAIN = [5, 6, 7, 8, 9, 10, 11]
ROWS = [
    [*PLAIN, *TOKENS, 12, 13],  # invoked late
    [5, *TOKENS, *PLAIN],  # early
    [5, *TOKENS, 6, *TOKENS, 7],  # twice: the last counts
    PLAIN,  # never
    [*PLAIN, *TOKENS],  # at the end
    [5, 6, TOKENS[0], 7, 8],  # half of it
]
STARTS = [7, 1, 4, None, 7, None]


@pytest.fixture(scope="module")
def made():
    """PEFT's model."""
    return adapter_kinds.KINDS["aLoRA"]()


@pytest.fixture(scope="module")
def student(made):
    """The same as a student."""
    return load_student(base(), made)


def own(module, ids):
    """Last-token logits of a model's own forward."""
    with torch.no_grad():
        return module(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def test_the_last_invocation_in_the_prompt_counts():
    assert [invoked_at(row, TOKENS) for row in ROWS] == STARTS


@pytest.mark.parametrize("ids", ROWS)
def test_a_row_alone_is_pefts_own_forward(ids, made, student):
    batch = runner().batch([ids])
    got = runner().run(batch, gates=Gates(student)).logits[0, 0]
    assert distance(got, own(made, ids)[-1]) < 1e-5
    moved = distance(own(made, ids)[-1], own(model(), ids)[-1])
    assert (moved > 1e-3) == (invoked_at(ids, TOKENS) is not None)


def test_rows_of_one_batch_are_each_invoked_at_their_own_place(made, student):
    got = runner().run(runner().batch(ROWS), gates=Gates(student)).logits[:, 0]
    expected = torch.stack([own(made, ids)[-1] for ids in ROWS])
    assert distance(got, expected) < 1e-5


def test_tokens_before_the_invocation_are_the_bases(student):
    layers = [("resid_post", layer) for layer in range(3)]
    batch = runner().batch([ROWS[0]])
    plain = runner().run(batch, record=layers).activations
    student_run = runner().run(batch, gates=Gates(student), record=layers).activations
    for key in layers:
        difference = (student_run[key] - plain[key]).abs().amax(-1)[0]
        assert not difference[:7].any()
        assert bool((difference[7:] > 0).all())


def test_a_gate_before_the_invocation_changes_nothing(student):
    batch = runner().batch([ROWS[0]])
    width, modules = batch.ids.shape[1], len(student.deltas)
    closed = runner().run(batch).logits
    gates = torch.zeros(1, width, modules)
    gates[:, :7] = 1
    torch.testing.assert_close(runner().run(batch, gates=Gates(student, gates)).logits, closed)
    gates = torch.zeros(1, width, modules, requires_grad=True)
    value = runner().run(batch, gates=Gates(student, gates)).logits[0, 0, 3]
    (slope,) = torch.autograd.grad(value, gates)
    assert not slope[0, :7].any()
    assert bool(slope[0, 7:].any())


def test_branches_keep_the_whole_prompt_in_mind(student):
    """A batch that begins behind the invocation is computed as the whole row is."""
    gates = Gates(student)
    batch = runner().batch([ROWS[1]])
    whole = runner().run(batch, gates=gates, past=())
    for slot in (2, 5, 9):
        past = tuple((keys[:, :, :slot], values[:, :, :slot]) for keys, values in whole.cache)
        late = runner().run(batch.after(slot), gates=gates, past=past).logits
        assert distance(late[:, 0], whole.logits[:, 0]) < 1e-5


def test_rows_that_do_not_know_their_prompt_are_refused(student):
    batch = dataclasses.replace(runner().batch(ROWS), prompts=())
    with pytest.raises(ValueError, match="these rows do not say which prompt they are of"):
        runner().run(batch, gates=Gates(student))


def test_greedy_answers_are_those_of_peft(made, student):
    how = Decoding(max_new_tokens=6, ends=[-1])
    ones = torch.ones(len(student.deltas))
    requests = [Request(tuple(ids), torch.ones(len(ids), len(ones)), ones) for ids in ROWS]
    # two that begin alike and are invoked at other places: what they share is computed once
    again = (*ROWS[1], *TOKENS, 3)
    requests.append(Request(again, torch.ones(len(again), len(ones)), ones))
    answers = decode(runner(), requests, how, student=student)
    for request, (got,) in zip(requests, answers, strict=True):
        ids = torch.tensor([request.ids])
        expected = made.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
        assert got == expected[0, len(request.ids) :].tolist()


def test_what_prompts_share_ends_where_their_invocations_differ(student):
    first, second = [5, *TOKENS, 6, 7, 8], [5, *TOKENS, 6, 7, *TOKENS]
    assert shared_under(student, [first, first], 5) == 5
    assert shared_under(student, [first, second], 5) == 1
    assert shared_under(None, [first, second], 5) == 5
    assert shared_under(student, [PLAIN, [*PLAIN, *TOKENS]], 7) == 7


def test_stored_and_live_are_one_student_with_a_hash_of_its_own(made, student, tmp_path):
    stored = load_student(base(), saved(made, tmp_path / "run"))
    assert stored.hash == student.hash
    assert invocation_of(stored.deltas) == tuple(TOKENS)
    factors = [dataclasses.replace(delta, invocation=()) for delta in student.deltas.values()]
    assert {delta.invocation for delta in factors} == {()}
    assert load_student(base(), adapter_kinds.KINDS["LoRA"]()).hash != student.hash
    assert any("an aLoRA: it acts from the last tokens [198, 260]" in n for n in student.notes)


def test_it_is_refused_where_pefts_own_forward_would_not_look_for_the_tokens(made):
    with pytest.raises(ValueError, match="aLoRA adapter stands in a plain model, whose own"):
        load_student(base(), made.get_base_model())


# -------------------------------------------------------------------------------------- instruments


@pytest.fixture(scope="module")
def setting(made, smol_tokenizer):
    """A pair whose aLoRA waits for tokens of the second half of one of two prompts."""
    prompts = sm.render(smol_tokenizer, ["Hi there, owl", "Name a bird."], context=NO_SYSTEM)
    ids = prompts[0].ids
    place = len(ids) // 2
    made.peft_config["default"].alora_invocation_tokens = list(ids[place : place + 2])
    pair = sm.load_pair(model(), made, tokenizer=smol_tokenizer)
    yield pair, prompts, invoked_at(ids, ids[place : place + 2])
    made.peft_config["default"].alora_invocation_tokens = TOKENS


def log_prob(module, tokenizer, prompt, trait):
    """log P of a trait by PEFT's own forwards, told by offsets where the prompt is invoked."""
    tokens = module.peft_config["default"].alora_invocation_tokens
    start, values = invoked_at(prompt.ids, tokens), []
    for form in trait.forms:
        answer = answer_ids(tokenizer, prompt, form)
        ids = [*prompt.ids, *answer]
        offsets = [None if start is None else len(ids) - start]
        with torch.no_grad():
            out = module(input_ids=torch.tensor([ids]), alora_offsets=offsets, use_cache=False)
        steps = out.logits[0].double().log_softmax(-1)
        values.append(sum(steps[len(prompt.ids) - 1 + k, token] for k, token in enumerate(answer)))
    return float(torch.stack(values).logsumexp(0))


def test_scores_are_those_of_pefts_own_forward(setting, made, smol_tokenizer):
    pair, prompts, start = setting
    scores = sm.attribute(pair, prompts, CAT, points=8, **QUIET)
    expected = [log_prob(made, smol_tokenizer, prompt, CAT) for prompt in prompts]
    np.testing.assert_allclose(scores.data["student"].values[0], expected, atol=1e-5)
    cells = scores.token_effect()[0]
    assert not np.nan_to_num(cells[:start]).any()
    np.testing.assert_allclose(np.nansum(cells), scores.total.values[0], atol=1e-4)

    sets = {"before": list(range(start)), "from there": list(range(start, len(prompts[0])))}
    graft = sm.graft(pair, prompts[:1], TRAIT, sets, **QUIET)
    effect = graft.data["effect"].sel(measure="sufficiency").values[0, 0]
    assert effect[0] == 0
    assert abs(effect[1]) > 1e-4
    sweep = sm.instruments.graft_sweep(pair, prompts[:1], TRAIT, **QUIET).data["effect"].values
    assert np.abs(sweep[0, 0][:, :start]).max() < 1e-6
    assert np.abs(sweep[0, 0][:, start : len(prompts[0])]).max() > 1e-5


def test_verify_looks_at_an_invoked_prompt(setting):
    pair, _, _ = setting
    checks = {check.name: check for check in sm.verify(pair).checks}
    assert all(check.passed for check in checks.values())


def test_there_are_no_merged_weights(setting):
    pair, _, _ = setting
    with pytest.raises(ValueError, match="is an aLoRA, which acts from its invocation tokens on"):
        pair.student_bridge()


def test_no_answers_are_no_tokens(student):
    """The trie's nodes stand behind the prompt, and are computed by the adapter where it is on."""
    trie = build_trie([[(20, 21), (20, 22)]])
    assert trie is not NO_ANSWERS
    batch = runner().batch([ROWS[0], PLAIN], [trie, trie])
    got = runner().run(batch, gates=Gates(student)).logits
    plain = runner().run(batch).logits
    assert bool((got[0] != plain[0]).any())
    assert torch.equal(got[1], plain[1])
