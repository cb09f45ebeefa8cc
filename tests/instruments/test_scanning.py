"""Prefix scans: every boundary is a graft of the tokens before it, and a swap of their cache."""

import copy

import numpy as np
import pytest
import stateful
import tiny
import torch
from pairs import CAT, QUIET, TRAIT
from transformers import DynamicCache

import sublim_mech as sm
from sublim_mech.instruments import prefix_scan

MEASURES = ("sufficiency", "necessity")


def grafted(pair, prompt, trait=TRAIT):
    """The same by plain grafts of every prefix, `(measure, token)`."""
    sets = {str(t): range(t + 1) for t in range(len(prompt))}
    scores = sm.graft(pair, [prompt], trait, sets, **QUIET)
    effect = scores.data["effect"].isel(model=0, prompt=0)
    return effect.transpose("measure", "set").values


def scanned(scores, prompt, number=0):
    effect = scores.data["effect"].isel(model=0, prompt=number)
    return effect.transpose("measure", "position").values[:, : len(prompt)]


def test_every_boundary_is_a_graft_of_the_tokens_before_it(pair, prompts):
    scores = prefix_scan(pair, prompts, TRAIT, **QUIET)
    assert scores.data["effect"].dims == ("model", "prompt", "measure", "position")
    for number, prompt in enumerate(prompts[:1]):
        np.testing.assert_allclose(
            scanned(scores, prompt, number), grafted(pair, prompt), atol=2e-5
        )
    # the answer's own tokens are switched at last: the total effect
    total = scores.total.values
    of_answer = scores.headline.where(scores.of_answer).mean("position").values
    np.testing.assert_allclose(of_answer, np.repeat(total[:, None], 2, 1), atol=1e-12)


@pytest.fixture(scope="module")
def doubled(smol_tokenizer):
    """GPT-2, whose norms work in double precision too."""
    base = tiny.model("gpt2").double()
    return sm.load_pair(base, tiny.lora(base, std=0.05).double(), tokenizer=smol_tokenizer)


@pytest.mark.filterwarnings("ignore")  # transformers renames the argument of the cache
def test_in_double_precision_the_three_ways_are_one(doubled, prompts):
    """A scan, plain grafts of every prefix, and one model on the other's keys and values."""
    scores = prefix_scan(doubled, prompts, TRAIT, **QUIET)
    for number, prompt in enumerate(prompts):
        np.testing.assert_allclose(
            scanned(scores, prompt, number), grafted(doubled, prompt), atol=1e-9, rtol=0
        )
    prompt = prompts[0]
    ids, cat = list(prompt.ids), sm.Trait("cat", forms=("cat",))
    (form,) = doubled.tokenizer(prompt.lead + "cat", add_special_tokens=False)["input_ids"]
    up_to, behind = scanned(prefix_scan(doubled, [prompt], cat, **QUIET), prompt)
    base, student = doubled.model, doubled.student.model
    ends = [swapped(model, model, ids, len(ids), form) for model in (base, student)]
    for at in range(1, len(ids), 6):
        of_student = swapped(student, base, ids, at, form)
        assert up_to[at - 1] == pytest.approx(of_student - ends[0], abs=1e-9)
        of_base = swapped(base, student, ids, at, form)
        assert behind[at - 1] == pytest.approx(ends[1] - of_base, abs=1e-9)
    # behind a prompt whose answer is one token nothing is left to switch
    assert up_to[-1] == behind[-1] == pytest.approx(ends[1] - ends[0], abs=1e-12)


@torch.no_grad()
def swapped(before, after, ids, boundary, form):
    """log P of a token, by transformers alone: one model on the keys and values of another."""
    if boundary == len(ids):  # nothing follows: the logits are those of the prefix's model
        logits = before(input_ids=torch.tensor([ids])).logits[0, -1]
    else:
        cache = DynamicCache()
        before(input_ids=torch.tensor([ids[:boundary]]), past_key_values=cache, use_cache=True)
        rest = torch.tensor([ids[boundary:]])
        logits = after(input_ids=rest, past_key_values=cache, use_cache=True).logits[0, -1]
    return float(logits.double().log_softmax(-1)[form])


@pytest.mark.filterwarnings("ignore")  # transformers renames the argument of the cache
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_a_boundary_is_a_swap_of_the_prefix_keys_and_values(architecture, smol_tokenizer, prompts):
    base = tiny.model(architecture)
    student = tiny.full(base, scale=0.1)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    prompt = prompts[1]
    ids = list(prompt.ids)
    (form,) = smol_tokenizer(prompt.lead + "cat", add_special_tokens=False)["input_ids"]
    cat = sm.Trait("cat", forms=("cat",))
    scores = prefix_scan(pair, [prompt], cat, **QUIET)
    ends = [swapped(model, model, ids, len(ids), form) for model in (base, student)]
    for boundary in (1, 5, len(ids) // 2, len(ids) - 1, len(ids)):
        up_to, behind = scanned(scores, prompt)[:, boundary - 1]
        assert up_to == pytest.approx(
            swapped(student, base, ids, boundary, form) - ends[0], abs=2e-5
        )
        assert behind == pytest.approx(
            ends[1] - swapped(base, student, ids, boundary, form), abs=2e-5
        )


@pytest.mark.parametrize("architecture", ["lfm2", "qwen3.5"])
def test_layers_with_state_carry_it_on_from_the_model_of_the_prefix(
    architecture, smol_tokenizer, prompts
):
    base = stateful.model(architecture)
    student = tiny.lora(base, target_modules=stateful.TARGETS[architecture], std=0.2)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    assert pair.layout.plain
    prompt = prompts[0]
    scores = prefix_scan(pair, [prompt], CAT, **QUIET)
    for t in (0, 7, len(prompt) - 1):
        sets = {"begun": range(t + 1)}
        one = sm.graft(pair, [prompt], CAT, sets, **QUIET).data["effect"].values[0, 0, 0]
        np.testing.assert_allclose(scanned(scores, prompt)[:, t], one, atol=2e-5)
    assert np.ptp(scanned(scores, prompt)) > 1e-3


def test_a_student_that_is_the_base_up_to_a_token_moves_nothing_before_it(llama, prompts):
    """Both curves end together where the answer is one token: then the prompt is everything."""
    scores = prefix_scan(llama, prompts, CAT, **QUIET)
    for number, prompt in enumerate(prompts):
        last = scanned(scores, prompt, number)[:, -1]
        np.testing.assert_allclose(last, scores.total.values[number], atol=2e-5)


def test_one_curve_and_kept_prompts_are_the_same_numbers(llama, prompts, tmp_path):
    both = prefix_scan(llama, prompts, TRAIT, **QUIET)
    for measure in MEASURES:
        one = prefix_scan(llama, prompts, TRAIT, measure=measure, **QUIET)
        np.testing.assert_allclose(
            one.sel(measure=measure).data["effect"], both.sel(measure=measure).data["effect"],
            atol=1e-6,
        )  # fmt: skip
    kept = [prefix_scan(llama, prompts, TRAIT, keep=tmp_path, **QUIET) for _ in range(2)]
    assert kept[0].data.equals(kept[1].data)
    assert len(list(tmp_path.iterdir())) == len(prompts)
    np.testing.assert_allclose(kept[0].data["effect"], both.data["effect"], atol=2e-5)


def test_what_is_asked_wrongly_is_refused_and_nothing_is_left_behind(llama, prompts):
    with pytest.raises(ValueError, match="measure='both ways'"):
        prefix_scan(llama, prompts, TRAIT, measure="both ways")
    before = copy.deepcopy([module._forward_hooks for module in llama.model.modules()])
    prefix_scan(llama, prompts[:1], CAT, **QUIET)
    assert [module._forward_hooks for module in llama.model.modules()] == before


def test_scores_are_saved_and_shown(llama, marked, tmp_path):
    scores = prefix_scan(llama, marked, TRAIT, **QUIET)
    scores.save(tmp_path / "scan.safetensors")
    assert sm.Scores.load(tmp_path / "scan.safetensors").data.equals(scores.data)
    assert "enter and settle" in repr(scores)
    assert scores._repr_html_().count('<div class="slm">') == 2
    with pytest.raises(ValueError, match="all tokens up to each one"):
        scores.by("role")
    with pytest.raises(ValueError, match="two curves"):
        scores.token_effect()
    pairs_of = scores.to_dataframe()
    assert len(pairs_of) == 2 * int((scores.data["role"] != "").sum())
