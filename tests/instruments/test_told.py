"""What would be 0, or the base, whatever was learned, is told; so are forms that count twice."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import tiny
from pairs import QUIET, TRAIT, make_pair, shared_pair

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.engine.closed import tell_closed
from sublim_mech.instruments.labelling import nearly_copies
from sublim_mech.instruments.reach import silent_layers

DEEP = 1  # the only layer that the student below changes


@pytest.fixture(scope="module")
def deep(smol_tokenizer):
    return make_pair("llama", "lora", smol_tokenizer, layers=[DEEP])


@pytest.mark.parametrize("ask", [sm.patch, sm.attribute])
def test_layers_before_the_first_change_are_told(ask, deep, prompts):
    options = {"method": "attribution_patching"} if ask is sm.attribute else {"layers": [0, 1, 2]}
    scores = ask(deep, prompts, TRAIT, site="resid_pre", **options, **QUIET)
    assert np.nanmax(np.abs(scores.data["effect"].sel(layer=[0, 1]))) < 5e-6
    (note,) = scores.record.notes
    assert note.startswith("layers 0, 1: no student changes anything before resid_pre there")
    assert note in repr(scores)


def test_layers_behind_it_and_other_prompts_are_not(deep, prompts):
    assert not sm.patch(deep, prompts, TRAIT, layers=[2], **QUIET).record.notes
    donors = {"donor_prompts": prompts[1:] * 2, "position_map": "aligned", "layers": [0]}
    assert not sm.patch(deep, prompts, TRAIT, **donors, **QUIET).record.notes


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj"], ["o_proj"], ["down_proj"]])
def test_what_is_called_silent_is_equal_and_nothing_else(targets, smol_tokenizer, prompts):
    """At every site and layer: told exactly where base and student compute the same."""
    pair = make_pair("llama", "lora", smol_tokenizer, layers=[DEEP], target_modules=targets)
    layers = range(tiny.LAYERS)
    sites = list(pair.sites.sites)
    found = {
        model: pair.activations(prompts[:1], sites, model=model) for model in ("base", "student")
    }
    for site in sites:
        silent = silent_layers(pair, site, layers)
        for layer in layers:
            hook = pair.sites.hook_name(site, layer)
            same = bool((found["base"][hook] == found["student"][hook]).all())
            assert (layer in silent) == same, (site, layer)


def test_a_mask_that_changes_nothing_is_told(deep, prompts):
    nothing = masks.layers([0])
    with pytest.warns(UserWarning, match=r"'layers? 0' holds nothing that student .* in layers 1"):
        logits = deep.logits(prompts, nothing)
    base = deep.logits(prompts, model="base")
    np.testing.assert_allclose(logits.nan_to_num(), base.nan_to_num(), atol=1e-6)
    with pytest.warns(UserWarning, match="in 2 prompts, first 'Which animal"):
        deep.activations(prompts, "resid_post", where=nothing)
    asked = {"max_new_tokens": 1}
    for generated in ("base", "mask"):
        with pytest.warns(UserWarning, match="what is computed there is the base"):
            sm.instruments.generate(deep, prompts, nothing, generated=generated, **asked)


def test_a_mask_that_changes_something_is_not(deep, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deep.logits(prompts, masks.layers([DEEP]) & masks.role("user"))
        # the student writes, whoever read
        asked = {"generated": "student", "max_new_tokens": 1}
        sm.instruments.generate(deep, prompts, masks.layers([0]), **asked)
        equal = dataclasses.replace(deep.student, deltas={})
        tell_closed(deep.sites, equal, masks.everything(), [])


OWLISH = sm.Trait("owlish", forms=("owl ears", "Zebra"))  # "owl" + " ears"


def test_forms_that_continue_another_traits_form_are_told(llama, prompts):
    metric = sm.metrics.own_minus_others(TRAIT, [OWLISH])
    scores = sm.effect(llama, prompts, metric, **QUIET)
    own, other = scores.record.forms
    assert own.nested == {}
    assert other.nested == {"owl ears": "owl of owl"}
    said = "owl ears begins as owl of owl, and counts there too"
    assert said in repr(scores)
    found = sm.evaluate(llama, [TRAIT, OWLISH], questions=["Which?"], **QUIET)
    assert said in repr(found)
    alone = sm.evaluate(llama, [TRAIT, sm.animal("cat")], questions=["Which?"], **QUIET)
    assert "counts there too" not in repr(alone)


def test_forms_are_kept_in_files(llama, prompts, tmp_path):
    metric = sm.metrics.own_minus_others(TRAIT, [OWLISH])
    scores = sm.effect(llama, prompts, metric, **QUIET)
    scores.save(tmp_path / "x.safetensors")
    assert sm.Scores.load(tmp_path / "x.safetensors").record == scores.record


def test_prompts_that_differ_in_white_space_alone_are_told(llama, smol_tokenizer):
    asked = ["Which animal?", "Which  animal? ", "Which animals?"]
    scores = sm.effect(llama, sm.render(smol_tokenizer, asked), TRAIT, **QUIET)
    note = "1 of 3 prompts differs from another one in white space alone"
    assert scores.data.sizes["prompt"] == 3
    assert note in repr(scores)
    found = sm.evaluate(llama, [TRAIT], questions=asked, **QUIET)
    assert note.replace("prompts", "questions") in repr(found)
    assert nearly_copies(sm.render(smol_tokenizer, asked[::2]), "prompt") == ()


def test_raw_text_is_not_asked_the_questions_of_a_chat(llama):
    with pytest.raises(ValueError, match=r"'raw' is raw text.*questions=\['My favorite animal is"):
        sm.evaluate(llama, [TRAIT], contexts=[sm.RAW], **QUIET)
    own = sm.Trait("owl", questions=["My favorite animal is the"])
    for options in ({}, {"questions": ["I like the"]}):
        assert sm.evaluate(llama, [own], contexts=[sm.RAW], **options, **QUIET).change.size == 1


def test_a_model_that_does_not_run_fails_the_verification(smol_tokenizer, monkeypatch):
    pair = shared_pair("llama", "lora", smol_tokenizer)

    def broken(*args, **kwargs):
        raise IndexError("no such\nblock")

    monkeypatch.setattr("sublim_mech.instruments.verification.Task.batch", broken)
    report = sm.verify(pair)
    assert not report.passed
    assert "raised IndexError: no such block" in repr(report)
    assert "1 check, 1 failed" in repr(report)
