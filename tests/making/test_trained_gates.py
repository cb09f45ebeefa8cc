"""A student that is loaded with the gates of its training: what knows them keeps them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from trainings import fit

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.making.training import LoRA, gates_of
from sublim_mech.models.students import load_student

TRAIT = sm.animal("owl")
QUESTIONS = ["Which animal?", "Name one animal, please.", "And?"]
QUIET = {"progress": False}
CASES = {
    "shared": {"where": masks.sharing("shared")},
    "open answer": {"where": masks.role("user", "template"), "answer_in_where": True},
    "answer in one layer": {"where": masks.role("answer") & masks.layers([1])},
}


@pytest.fixture(scope="module", params=CASES)
def both(request, tiny_llama, taught, tmp_path_factory) -> Any:
    """(the student with its gates, the same without, its mask, whether it computes answers)."""
    asked = CASES[request.param]
    out = tmp_path_factory.mktemp("gates") / "run"
    run = fit(tiny_llama, taught, out, method=LoRA(rank=4), lr=3e-2, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gated = sm.load_pair(tiny_llama, run.path, gates=gates_of(run))
        plain = sm.load_pair(tiny_llama, run.path)
    return gated, plain, asked["where"], asked.get("answer_in_where", False)


def grafted(both: Any, prompts: Any) -> np.ndarray:
    """Per prompt, what the plain student does at these cells."""
    _, plain, where, answer = both
    found = sm.graft(plain, prompts, TRAIT, {"x": where}, answer_in_sufficiency=answer, **QUIET)
    return found.data["effect"].isel(model=0, set=0).sel(measure="sufficiency").values


def test_its_effect_is_the_graft_of_the_plain_student(both):
    gated, plain, _, _ = both
    prompts = sm.render(gated, QUESTIONS)
    expected = grafted(both, prompts)
    ours = sm.effect(gated, prompts, TRAIT, **QUIET)
    assert ours.data["effect"].sel(model="student").values == pytest.approx(expected, abs=2e-6)
    whole = sm.effect(plain, prompts, TRAIT, **QUIET).data["effect"].sel(model="student").values
    assert np.abs(whole - expected).max() > 1e-4
    # and so is its graft at all tokens, the answer's with them
    options = {"answer_in_sufficiency": True, **QUIET}
    everything = sm.graft(gated, prompts, TRAIT, {"x": masks.everything()}, **options)
    of_all = everything.data["effect"].isel(model=0, set=0)
    assert of_all.sel(measure="sufficiency").values == pytest.approx(expected, abs=2e-6)


def test_evaluation_asks_it_under_its_gates(both):
    gated = both[0]
    options = {"questions": QUESTIONS, **QUIET}
    found = sm.evaluate(gated, [TRAIT], **options).data["log_prob"]
    change = (found.sel(model="student") - found.sel(model="base")).values.ravel()
    assert change == pytest.approx(grafted(both, sm.render(gated, QUESTIONS)), abs=2e-6)


def test_logits_and_answers(both):
    gated, plain, where, answer = both
    prompts = sm.render(gated, QUESTIONS)
    told = {"max_new_tokens": 4, "temperature": 1.0, "samples": 2}
    ours = sm.instruments.generate(gated, prompts, masks.everything(), generated="student", **told)
    if isinstance(where, masks.AnswerMask):
        assert torch.equal(
            gated.logits(prompts).nan_to_num(), plain.logits(prompts, model="base").nan_to_num()
        )
        return
    theirs = gated.logits(prompts).nan_to_num(), plain.logits(prompts, where).nan_to_num()
    assert torch.equal(*theirs)
    sites = {"sites": "resid_post", "layers": [2]}
    one = gated.activations(prompts, **sites)["blocks.2.hook_resid_post"]
    other = plain.activations(prompts, where=where, **sites)["blocks.2.hook_resid_post"]
    assert torch.equal(one.nan_to_num(), other.nan_to_num())
    generated = "mask" if answer else "base"
    assert ours == sm.instruments.generate(plain, prompts, where, generated=generated, **told)


def test_results_say_which_student_it_was(both):
    gated, plain, where, _ = both
    prompts = sm.render(gated, QUESTIONS[:1])
    for pair, said in ((gated, "its weights are on only at"), (plain, "here they are on")):
        assert said in repr(sm.effect(pair, prompts, TRAIT, **QUIET))
        assert said in repr(sm.evaluate(pair, [TRAIT], questions=QUESTIONS[:2], **QUIET))
    assert gated.student.hash != plain.student.hash
    assert repr(where.name) in repr(gated)


def test_what_does_not_know_gates_refuses_them(both):
    gated, _, _, _ = both
    prompts = sm.render(gated, QUESTIONS[:2])
    refusal = "was loaded with gates"
    for ask in (
        lambda: sm.attribute(gated, prompts, TRAIT, **QUIET),
        lambda: sm.patch(gated, prompts, TRAIT, **QUIET),
        lambda: sm.instruments.graft_sweep(gated, prompts, TRAIT, **QUIET),
        lambda: sm.verify(gated),
        lambda: gated.student_bridge(),
        lambda: sm.teachers.fine_tuned(gated.base, gated.student, TRAIT),
    ):
        with pytest.raises(ValueError, match=refusal):
            ask()
    for name, ask in (
        ("attribute", lambda: sm.attribute(gated, prompts, TRAIT, **QUIET)),
        ("patch", lambda: sm.patch(gated, prompts, TRAIT, **QUIET)),
        ("graft_sweep", lambda: sm.instruments.graft_sweep(gated, prompts, TRAIT, **QUIET)),
        ("dose", lambda: sm.instruments.dose(gated, prompts, TRAIT, **QUIET)),
        ("prefix_scan", lambda: sm.instruments.prefix_scan(gated, prompts, TRAIT, **QUIET)),
        ("verify", lambda: sm.verify(gated)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: student .* graft.* is another model, one"):
            ask()
    for given in ("shared", masks.sharing("shared")):
        with pytest.raises(TypeError, match=r"training\.gates_of\(run\)"):
            sm.load_pair(gated.base, gated.student, gates=given)
    with pytest.raises(ValueError, match="is loaded already"):
        load_student(gated.base, gated.student, gates=gated.student.gates)
