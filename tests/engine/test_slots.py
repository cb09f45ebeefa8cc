"""Attention that goes by slots (alibi, windows that a model keeps as a mask) takes plain rows, in
every floating-point type: a trie would be another model."""

from __future__ import annotations

import functools
from typing import Any

import architectures
import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, brute_force
from transformers import AutoModelForCausalLM

import sublim_mech as sm
from sublim_mech.engine import fitting
from sublim_mech.engine.fitting import find_layout
from sublim_mech.engine.layout import TRIE, counts_slots
from sublim_mech.instruments import prefix_scan
from sublim_mech.models.sites import find_sites

TRAIT = sm.Trait("owl", forms=("owl", "Owl", "ox"))  # of bytes: a trie that branches twice
HALF = (torch.bfloat16, torch.float16)
ALIBI = ("BloomForCausalLM", "FalconForCausalLM, alibi", "MptForCausalLM")
LOCAL = "GPTNeoForCausalLM"
WINDOW = 20  # longer than the probe's prompt, shorter than those below


def strong(name: str, window: int = WINDOW) -> Any:
    """A tiny model whose attention does something."""
    config = architectures.CONFIGS[name]()
    if name == LOCAL:
        config.window_size = window
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p *= 3
    return model


@functools.cache
def pair_of(name: str, dtype: torch.dtype) -> Any:
    base = strong(name).to(dtype)
    student = tiny.lora(base, std=0.2)
    tokenizer = architectures.tokenizer()
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


def asked(pair: Any) -> Any:
    questions = ["Which animal do you like?", "Name the bird."]
    return sm.render(pair, questions, context=sm.Context(system=sm.Context.NONE))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("name", "window"), [*((n, 0) for n in ALIBI), (LOCAL, 20), (LOCAL, 256)])
def test_what_counts_slots_takes_plain_rows_in_every_type(name, window, dtype):
    model = strong(name, window).to(dtype)
    assert find_layout(model, find_sites(model)).plain


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("name", ["MptForCausalLM", LOCAL])
def test_the_probe_finds_it_where_no_configuration_says_so(name, dtype, monkeypatch):
    monkeypatch.setattr(fitting, "counts_slots", lambda config: False)
    model = strong(name).to(dtype)
    assert find_layout(model, find_sites(model)).plain


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "opt"])
def test_attention_by_positions_takes_the_trie_in_half_precision(architecture, dtype):
    model = tiny.model(architecture).to(dtype)
    assert find_layout(model, find_sites(model)) == TRIE


@pytest.mark.science
@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_every_attention_by_positions_takes_the_trie_in_half_precision(architecture):
    test_attention_by_positions_takes_the_trie_in_half_precision(architecture, torch.bfloat16)


def test_a_window_of_slots_is_one_only_where_a_layer_is_local():
    config = architectures.CONFIGS[LOCAL]()
    assert counts_slots(config)
    config.attention_layers = ["global", "global"]
    assert not counts_slots(config)


def test_effects_of_local_attention_are_those_of_the_models_own_forwards():
    pair = pair_of(LOCAL, torch.float32)
    prompts = asked(pair)
    assert min(map(len, prompts)) > pair.model.config.window_size
    found = sm.effect(pair, prompts, TRAIT, **QUIET).data
    for which, model in (("base", pair.model), ("student", pair.student.model)):
        own = [brute_force(model, pair.tokenizer, prompt, TRAIT) for prompt in prompts]
        assert found[which].values.ravel() == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(LOCAL, torch.float32), ("MptForCausalLM", torch.bfloat16)],
)
def test_a_scan_is_the_graft_of_its_first_tokens(name, dtype):
    pair = pair_of(name, dtype)
    prompts = asked(pair)[:1]
    length = len(prompts[0])
    scan = prefix_scan(pair, prompts, TRAIT, measure="sufficiency", **QUIET)
    scanned = scan.data["effect"].values.ravel()[:length]
    sets = {f"first {n}": range(n) for n in range(1, length + 1)}
    grafted = sm.graft(pair, prompts, TRAIT, sets, **QUIET).data["effect"]
    grafts = grafted.sel(measure="sufficiency").values.ravel()
    assert np.abs(grafts).max() > 0.1
    close = 1e-5 if dtype == torch.float32 else 0.02
    np.testing.assert_allclose(scanned, grafts, rtol=0, atol=close)


def test_answers_of_local_attention_are_the_models_own():
    pair = pair_of(LOCAL, torch.float32)
    # beside the longest the others are padded by more than a window
    questions = ["Name one animal, please, that you like best of all.", "Who", "I", "A?", "ox"]
    prompts = sm.render(pair, questions, context=sm.Context(system="Be calm."))
    options = {"generated": "student", "max_new_tokens": 12}
    ours = sm.instruments.generate(pair, prompts, sm.masks.everything(), **options)
    for prompt, (text,) in zip(prompts, ours, strict=True):
        ids = list(prompt.ids)
        for _ in range(options["max_new_tokens"]):
            with torch.no_grad():  # whole forwards: no cache
                logits = pair.student.model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == pair.tokenizer.eos_token_id:
                break
        answer = pair.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert text == answer.strip()
