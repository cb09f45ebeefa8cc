"""Attention that keeps its keys and values compressed: a remembered slot keeps its gate."""

from __future__ import annotations

from typing import Any

import mixtures
import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT, whole_run

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


@pytest.fixture(scope="module")
def pair(smol_tokenizer: Any) -> Any:
    """DeepSeek, of which the projection that expands keys and values differs, and another."""
    base = mixtures.base("deepseek_v3")
    student = tiny.lora(base, target_modules=["kv_b_proj", "q_a_proj"], std=0.3)
    return sm.load_pair(base, student, tokenizer=smol_tokenizer)


@pytest.fixture(scope="module")
def prompts(pair: Any) -> list[Any]:
    return sm.render(pair.tokenizer, ["Hi", "Name the bird you like."], context=sm.RAW)


@pytest.mark.parametrize("measure", ["sufficiency", "necessity"])
def test_a_sweep_of_cells_is_that_of_whole_forwards(pair, prompts, measure):
    swept = sm.instruments.graft_sweep(
        pair, prompts[:1], TRAIT, measure=measure, layers=[1], **QUIET
    )
    effect = swept.data["effect"].squeeze().values
    task = prepare(pair, prompts[:1], TRAIT)
    inside = torch.tensor([pair.sites.modules[path].layer == 1 for path in pair.delta])
    alone = measure == "sufficiency"
    whole = whole_run(pair, prompts[0], gates=None if alone else Gates(pair.student))
    for slot in range(len(prompts[0])):
        gates = torch.full((1, task.size(0), len(pair.delta)), 0.0 if alone else 1.0)
        gates[0, slot, inside] = 1.0 if alone else 0.0
        value = whole_run(pair, prompts[0], gates=Gates(pair.student, gates))
        expected = value - whole if alone else whole - value
        assert effect[slot] == pytest.approx(expected, abs=1e-5)
    assert np.abs(effect[: len(prompts[0])]).max() > 1e-4


@pytest.mark.parametrize("policy", ["base", "student"])
def test_decoding_is_that_of_whole_forwards(pair, prompts, policy):
    """Greedy answers behind a half-open prompt, against one whole gated forward per token."""
    where = lambda prompt: range(1, len(prompt), 2)  # noqa: E731
    given = sm.instruments.generate(pair, prompts, where, generated=policy, max_new_tokens=4)
    for prompt, (text,) in zip(prompts, given, strict=True):
        ids, odd = list(prompt.ids), torch.tensor([i % 2 for i in range(len(prompt))])
        for _ in range(4):
            gates = torch.full((1, len(ids)), float(policy == "student"))
            gates[0, : len(odd)] = odd.float()
            done = pair.run(pair.batch([ids]), gates=Gates(pair.student, gates))
            ids.append(int(done.logits[0, 0].argmax()))
        assert text == pair.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
