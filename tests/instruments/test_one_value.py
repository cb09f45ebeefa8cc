"""A prompt's numbers do not depend on what shares its forwards, on any kind of model."""

from dataclasses import replace

import numpy as np
import pairs
import pytest
import stateful
import tiny
import torch
from pairs import QUIET, TRAIT, answer_ids, shared_pair

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.layout import TRIE
from sublim_mech.instruments.task import GatedRow, measure, prepare
from sublim_mech.models.deltas import Whole

CLOSE = 2e-5
KINDS = [(name, "lora") for name in stateful.CONFIGS] + [("mamba2", "full"), ("lfm2", "full")]


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    """Rendered prompts of three lengths, the longest some 20 tokens longer."""
    longest = "Name one animal, please, whichever comes to your mind first, and say why it does so."
    given = ["Which animal?", "Name one animal, please.", longest]
    return sm.render(smol_tokenizer, given, context=pairs.NO_SYSTEM)


def paths(pair, prompt):
    """The strings that a trait is summed over."""
    forms = [answer_ids(pair.tokenizer, prompt, form) for form in TRAIT.forms]
    return [a for a in forms if not any(b != a and b == a[: len(b)] for b in forms)]


def check_alone_and_together(pair, prompts):
    """log P of base and student and a graft: alone, beside others, and by plain forwards."""
    task = prepare(pair, prompts, TRAIT)
    rng = np.random.default_rng(0)
    gates = [torch.from_numpy(rng.integers(0, 2, size)).float() for size in task.sizes()]
    rows = [GatedRow(i, gate) for i in range(len(prompts)) for gate in (0.0, 1.0, gates[i])]
    together = measure(task, pair.student, rows)
    alone = np.concatenate([measure(task, pair.student, [row]) for row in rows])
    assert np.abs(together - alone).max() < CLOSE
    for i, prompt in enumerate(prompts):
        for value, model in zip(together[3 * i :], (pair.model, pair.student.model), strict=False):
            own = stateful.stepwise(model, prompt.ids, paths(pair, prompt))
            assert value == pytest.approx(own, abs=CLOSE)


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_one_value_per_prompt(architecture, smol_tokenizer, prompts):
    check_alone_and_together(shared_pair(architecture, "lora", smol_tokenizer), prompts)


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_one_value_per_prompt_of_layers_with_state(architecture, kind, smol_tokenizer, prompts):
    pair = stateful.pair(architecture, kind, smol_tokenizer)
    assert "answers run as plain rows" in repr(pair)
    check_alone_and_together(pair, prompts)


@pytest.mark.parametrize("beyond", [-1, 0, 1, 9])
def test_one_value_per_prompt_of_longrope(beyond, smol_tokenizer, prompts):
    """The switch lies before, at and behind the end of a prompt, and between two prompts."""
    pair = stateful.long_pair(len(prompts[0]) + beyond, smol_tokenizer)
    assert "computes otherwise past" in repr(pair)
    check_alone_and_together(pair, prompts)


def test_longrope_before_its_switch_is_as_ever(smol_tokenizer, prompts):
    """Bit for bit: nothing is computed otherwise where nothing has to be."""
    pair = stateful.long_pair(200, smol_tokenizer)
    as_ever = replace(pair, layout=TRIE)
    one, other = (sm.effect(p, prompts, TRAIT, **QUIET).data["effect"] for p in (pair, as_ever))
    assert np.array_equal(one, other)


def test_verify_tells_a_model_that_is_run_as_another(smol_tokenizer, prompts):
    """The line fails on the very prompts of the user, where all others pass."""
    pair = stateful.long_pair(len(prompts[0]) + 1, smol_tokenizer)
    assert sm.verify(pair, prompts).passed
    wrong = sm.verify(replace(pair, layout=TRIE), prompts)
    assert [c.name for c in wrong.checks if not c.passed] == ["one value per prompt"]


@pytest.mark.parametrize(("architecture", "kind"), [("qwen3.5", "lora"), ("mamba2", "full")])
def test_verify_passes_on_layers_with_state(architecture, kind, smol_tokenizer, prompts):
    report = sm.verify(stateful.pair(architecture, kind, smol_tokenizer), prompts[:2])
    assert report.passed, report


@pytest.mark.parametrize("architecture", ["lfm2", "longrope"])
def test_sweeps_are_whole_forwards(architecture, smol_tokenizer, prompts):
    if architecture == "longrope":  # its trie crosses the switch
        pair = stateful.long_pair(len(prompts[0]), smol_tokenizer)
    else:
        pair = stateful.pair(architecture, "lora", smol_tokenizer)
    for name, rest in (("sufficiency", 0.0), ("necessity", 1.0)):
        asked = {"measure": name, "layers": [1], **QUIET}
        swept = sm.instruments.graft_sweep(pair, prompts[:1], TRAIT, **asked)
        task = prepare(pair, prompts[:1], TRAIT)
        inside = torch.tensor([pair.sites.modules[path].layer == 1 for path in pair.delta])
        rows = []
        for slot in range(task.size(0)):
            gates = torch.full((task.size(0), len(pair.delta)), rest)
            gates[slot, inside] = 1 - rest
            rows.append(GatedRow(0, gates))
        ends = measure(task, pair.student, [GatedRow(0, rest)])
        change = measure(task, pair.student, rows) - ends
        expected = change if name == "sufficiency" else -change
        assert np.allclose(swept.data["effect"].values.ravel(), expected, atol=CLOSE)


def test_patching_all_of_the_last_stream_gives_the_student(smol_tokenizer, prompts):
    pair = stateful.pair("lfm2", "lora", smol_tokenizer)
    sets = {"all": sm.masks.everything()}
    asked = {"site": "resid_post", "layers": [2], "sets": sets, "answer_in_sets": True, **QUIET}
    data = sm.patch(pair, prompts, TRAIT, **asked).data
    total = (data["student"] - data["base"]).values
    assert np.allclose(data["effect"].values.ravel(), total.ravel(), atol=CLOSE)


def test_sites_that_some_blocks_lack(smol_tokenizer, prompts):
    pair = stateful.pair("lfm2", "lora", smol_tokenizer)
    assert list(sm.patch(pair, prompts[:1], TRAIT, site="z", **QUIET).data["layer"]) == [1]
    with pytest.raises(ValueError, match=r"site='z' is in layers 1 of this model alone, not in 0"):
        sm.patch(pair, prompts[:1], TRAIT, site="z", layers=[0], **QUIET)


def test_patching_across_a_switch_is_refused(smol_tokenizer, prompts):
    pair = stateful.long_pair(len(prompts[0]), smol_tokenizer)
    with pytest.raises(ValueError, match="no activation of the prompt is one value"):
        sm.patch(pair, prompts[:1], TRAIT, layers=[1], **QUIET)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("architecture", ["qwen3.5", "mamba2", "longrope"])
def test_generation_is_the_models_own(architecture, samples, smol_tokenizer, prompts):
    if architecture == "longrope":  # the second answer crosses the switch, the others do not
        pair = stateful.long_pair(len(prompts[1]) + 2, smol_tokenizer)
    else:
        pair = stateful.pair(architecture, "lora", smol_tokenizer)
    asked = {"generated": "student", "max_new_tokens": 4}
    if samples > 1:  # so cold that it is greedy
        asked |= {"temperature": 1e-6, "samples": samples}
    answers = sm.instruments.generate(pair, prompts, sm.masks.everything(), **asked)
    for prompt, texts in zip(prompts, answers, strict=True):
        ids = stateful.greedy(pair.student.model, prompt.ids, 4)
        assert texts == [smol_tokenizer.decode(ids, skip_special_tokens=True).strip()] * samples


@pytest.mark.parametrize("architecture", ["lfm2", "longrope"])
def test_evaluation_shares_no_beginning_that_it_must_not(architecture, smol_tokenizer, prompts):
    if architecture == "longrope":
        pair = stateful.long_pair(len(prompts[1]), smol_tokenizer)
    else:
        pair = stateful.pair(architecture, "lora", smol_tokenizer)
    questions = [prompt.question for prompt in prompts]
    asked = {"questions": questions, "contexts": [pairs.NO_SYSTEM], "samples": 0, **QUIET}
    found = sm.evaluate(pair, [TRAIT], **asked)
    values = found.data["log_prob"].sel(model="base").values.ravel()
    own = [stateful.stepwise(pair.model, p.ids, paths(pair, p)) for p in prompts]
    assert np.allclose(values, own, atol=CLOSE)


@pytest.mark.parametrize("architecture", ["mamba2", "lfm2"])
def test_a_mixer_is_gated_as_one(architecture, smol_tokenizer, prompts):
    """`y = f_base(x) + g * (f_student(x) - f_base(x))`, the mixers of both run by hand."""
    pair = stateful.pair(architecture, "full", smol_tokenizer)
    mixers = [path for path, delta in pair.delta.items() if isinstance(delta, Whole)]
    assert mixers
    paths_ = list(pair.delta)
    ids = prompts[0].ids
    rng = torch.Generator().manual_seed(0)
    gates = torch.zeros(len(ids), len(paths_))
    hooks = []
    for path in mixers:
        gate = torch.randint(0, 2, (len(ids),), generator=rng).float()
        gates[:, paths_.index(path)] = gate
        own = pair.student.model.get_submodule(path)

        def mix(module, args, kwargs, output, gate=gate, own=own):
            return output + gate[None, :, None] * (own(*args, **kwargs) - output)

        hooks.append(pair.model.get_submodule(path).register_forward_hook(mix, with_kwargs=True))
    try:
        with torch.no_grad():
            expected = stateful.plain(pair.model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        batch = pair.batch([ids])
        found = pair.run(batch, gates=Gates(pair.student, gates[None])).logits[0, 0]
        base = pair.run(batch).logits[0, 0]
    assert torch.allclose(found, expected, atol=2e-5, rtol=1e-5)
    assert (found - base).abs().max() > 1e-3
