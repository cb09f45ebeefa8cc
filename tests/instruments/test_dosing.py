"""Doses: a gate is a scale of the weight change."""

import copy

import numpy as np
import pytest
import tiny
import torch
from pairs import CAT, QUIET, TRAIT, brute_force

import sublim_mech as sm
from sublim_mech.instruments import dose


def adapter_scaled(student, scale):
    """A copy of a PEFT model whose adapter is so many times itself."""
    scaled = copy.deepcopy(student)
    with torch.no_grad():
        for name, p in scaled.named_parameters():
            if "lora_B" in name:
                p *= scale
    return scaled


def between(base, student, scale):
    """A model whose weights are base + scale x change."""
    made = copy.deepcopy(base)
    with torch.no_grad():
        for p, q in zip(made.parameters(), student.parameters(), strict=True):
            p += scale * (q - p)
    return made


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_a_dose_of_everything_is_a_model_with_a_scaled_adapter(scale, smol_tokenizer, prompts):
    base = tiny.model("llama")
    student = tiny.lora(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    scores = dose(pair, prompts, TRAIT, [scale], **QUIET)
    model = adapter_scaled(student, scale)
    for number, prompt in enumerate(prompts):
        by_hand = brute_force(model, smol_tokenizer, prompt)
        base_value = brute_force(base, smol_tokenizer, prompt)
        effect = float(scores.data["effect"][0, number, 0])
        assert effect == pytest.approx(by_hand - base_value, abs=2e-5)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
def test_a_dose_of_a_full_fine_tune_is_the_line_through_both_weights(
    architecture, scale, smol_tokenizer, prompts
):
    base = tiny.model(architecture)
    student = tiny.full(base)
    pair = sm.load_pair(base, student, tokenizer=smol_tokenizer)
    effect = float(dose(pair, prompts[:1], TRAIT, [scale], **QUIET).data["effect"][0, 0, 0])
    model = between(base, student, scale)
    ends = [brute_force(one, smol_tokenizer, prompts[0]) for one in (base, model)]
    assert effect == pytest.approx(ends[1] - ends[0], abs=2e-5)


def test_a_set_at_gate_1_is_its_graft(llama, prompts):
    system = sm.masks.role("system") & sm.masks.layers([1])
    scores = dose(llama, prompts, TRAIT, [0.0, 1.0], where=system, **QUIET)
    assert scores.record.answer_gate == {"dose": 0.0}
    grafted = sm.graft(llama, prompts, TRAIT, {"chosen": system}, **QUIET)
    np.testing.assert_allclose(
        scores.data["effect"].sel(scale=1.0),
        grafted.data["effect"].sel(set="chosen", measure="sufficiency"),
        atol=2e-5,
    )
    np.testing.assert_allclose(scores.data["effect"].sel(scale=0.0), 0, atol=2e-5)
    opened = dose(llama, prompts, TRAIT, [1.0], where=system, answer=True, **QUIET)
    with_answer = sm.graft(
        llama, prompts, TRAIT, {"chosen": system}, answer_in_sufficiency=True, **QUIET
    )
    np.testing.assert_allclose(
        opened.data["effect"].sel(scale=1.0),
        with_answer.data["effect"].sel(set="chosen", measure="sufficiency"),
        atol=2e-5,
    )


def test_prompt_and_answer_are_parts_of_everything(llama, prompts):
    """With one token per form nothing of the answer is fed, so both are all."""
    whole = dose(llama, prompts, CAT, [2.0], **QUIET)
    closed = dose(llama, prompts, CAT, [2.0], answer=False, **QUIET)
    np.testing.assert_allclose(whole.data["effect"], closed.data["effect"], atol=2e-5)
    only = dose(llama, prompts, TRAIT, [1.0], where=sm.masks.role("answer"), **QUIET)
    grafted = sm.graft(llama, prompts, TRAIT, {"answer": sm.masks.role("answer")}, **QUIET)
    np.testing.assert_allclose(
        only.data["effect"].sel(scale=1.0),
        grafted.data["effect"].sel(set="answer", measure="sufficiency"),
        atol=2e-5,
    )


def test_wrong_scales_and_empty_sets_are_refused(llama, prompts):
    for scales in ([0.0, float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="NaN or infinity"):
            dose(llama, prompts, TRAIT, scales)
    with pytest.raises(ValueError, match="each once"):
        dose(llama, prompts, TRAIT, [1.0, 1.0])
    with pytest.raises(ValueError, match="each once"):
        dose(llama, prompts, TRAIT, [])
    with pytest.raises(ValueError, match="holds nothing that a student"):
        dose(llama, prompts, TRAIT, where=sm.masks.modules("norms"))


def test_it_is_saved_kept_and_shown(smol_tokenizer, prompts, tmp_path):
    base = tiny.model("llama")
    pair = sm.load_pair(
        base, tiny.lora(base), controls=[tiny.lora(base, seed=2)], tokenizer=smol_tokenizer
    )
    asked = {"scales": [2, 0.5, 1], "keep": tmp_path / "kept", **QUIET}
    scores = dose(pair, prompts, TRAIT, **asked)
    assert scores.data["scale"].values.tolist() == [0.5, 1.0, 2.0]
    assert scores.data.equals(dose(pair, prompts, TRAIT, **asked).data)
    scores.save(tmp_path / "dose.safetensors")
    assert sm.Scores.load(tmp_path / "dose.safetensors").data.equals(scores.data)
    assert "effect by gate" in repr(scores)
    assert scores.curve().index.tolist() == [0.5, 1.0, 2.0]
