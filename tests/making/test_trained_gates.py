"""A student that is loaded with the gates of its training: what knows them keeps them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from trainings import fit

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.instruments.command_words import in_commands
from sublim_mech.making.training import LoRA, gates_of, hard_data
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


def test_attributions_add_up_to_its_effect_and_are_zero_where_it_is_closed(both):
    """As it was trained, by the gates that its run gives (by hand: `test_gated_students`)."""
    gated, _, where, answer = both
    prompts = sm.render(gated, QUESTIONS[:1])
    scores = sm.attribute(gated, prompts, TRAIT, **QUIET)
    (expected,) = grafted(both, prompts)
    assert float(scores.total[0]) == pytest.approx(expected, abs=2e-6)
    effect = scores.data["effect"].isel(model=0, prompt=0)
    assert float(effect.sum()) == pytest.approx(expected, rel=2e-2, abs=2e-5)
    tokens = len(prompts[0])
    closed = np.abs(effect.fillna(0).values)
    if isinstance(where, masks.AnswerMask):
        assert closed[..., :tokens].max() == 0
        return
    marked = sm.mark_sharing(prompts, gated)[0]
    inside = where.tokens(marked)
    outside = [at for at in range(tokens) if at not in inside]
    assert outside
    assert closed[..., outside].max() == 0
    assert closed[..., inside].max() > 0
    assert (closed[..., tokens:].max() > 0) == answer


def test_results_say_which_student_it_was(both):
    gated, plain, where, _ = both
    prompts = sm.render(gated, QUESTIONS[:1])
    for pair, said in ((gated, "its weights are on only at"), (plain, "here they are on")):
        assert said in repr(sm.effect(pair, prompts, TRAIT, **QUIET))
        assert said in repr(sm.evaluate(pair, [TRAIT], questions=QUESTIONS[:2], **QUIET))
    assert gated.student.hash != plain.student.hash
    assert repr(where.name) in repr(gated)


def test_what_does_not_know_gates_refuses_them(both, tmp_path):
    gated, _, _, _ = both
    prompts = sm.render(gated, QUESTIONS[:2])
    refusal = "was loaded with gates"
    for ask in (
        lambda: sm.verify(gated),
        lambda: gated.student_bridge(),
        lambda: sm.teachers.fine_tuned(gated.base, gated.student, TRAIT),
    ):
        with pytest.raises(ValueError, match=refusal):
            ask()
    kept = {"out": tmp_path / "small", "prompts": prompts, **QUIET}
    for name, ask in (
        ("extract_lora", lambda: sm.instruments.extract_lora(gated, 1, **kept)),
        ("verify", lambda: sm.verify(gated)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: student .* graft.* is another model, one"):
            ask()
    for given in ("shared", masks.sharing("shared")):
        with pytest.raises(TypeError, match=r"training\.gates_of\(run\)"):
            sm.load_pair(gated.base, gated.student, gates=given)
    with pytest.raises(ValueError, match="is loaded already"):
        load_student(gated.base, gated.student, gates=gated.student.gates)


def test_a_control_that_differs_in_its_answers_was_trained_alike(tiny_llama, tmp_path):
    """Answers of another length are other cells of one mask; other prompts' cells are told."""
    user = masks.role("user")
    shared: dict[str, Any] = {"answer_in_where": True, "method": LoRA(rank=2), "steps": 2}

    def trained(name: str, answer: str, where: Any = user, pulled: Any = user) -> Any:
        rows = [{"prompt": f"Say {i}.", "completion": answer} for i in range(8)]
        data = hard_data(tiny_llama, rows, trait=name)
        options = {**shared, "where": where, "penalty": (pulled, 2.0)}
        return fit(tiny_llama, data, tmp_path / name, **options).path

    owl = trained("owl", "owl")
    controls = {
        "zyzzyva": trained("zyzzyva", "zyzzyva, zyzzyva"),
        "cat": trained("cat", "cat", where=user | masks.positions(0)),
        "dog": trained("dog", "dog", pulled=masks.positions(-1)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes = sm.load_pair(tiny_llama, owl, controls=list(controls.values())).notes()
    alike = {name: [n for n in notes if f"control {name} was not" in n] for name in controls}
    assert alike["zyzzyva"] == []
    assert "method.where.mask" in alike["cat"][0]
    assert "optimiser.penalty.mask" in alike["dog"][0]


def test_advice_on_gates_of_a_control_can_be_followed(tiny_llama, taught, tmp_path):
    """`load_pair(gates=)` is the student's: of a control they are given where it is loaded."""
    plain = fit(tiny_llama, taught, tmp_path / "plain", method=LoRA(rank=4))
    where = masks.sharing("shared")
    shared = fit(tiny_llama, taught, tmp_path / "shared", method=LoRA(rank=4), where=where)
    with pytest.warns(UserWarning, match="here they are on everywhere"):
        pair = sm.load_pair(tiny_llama, plain.path, controls=[shared.path])
    (told,) = [note for note in pair.controls[0].notes if "on everywhere" in note]
    assert in_commands(told, {}).endswith(
        "(in Python gates=training.gates_of(run) closes the rest: of the student in load_pair, of "
        "a control where it is loaded, models.load_student(base, path, gates=...))"
    )
    # what it says of the student, asked of a pair whose control it is
    refused = r"was trained everywhere; leave them out \(those of a control are given where it is"
    with pytest.raises(ValueError, match=refused):
        sm.load_pair(tiny_llama, plain.path, controls=[shared.path], gates=gates_of(shared))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        control = load_student(tiny_llama, shared.path, gates=gates_of(shared))
        pair = sm.load_pair(tiny_llama, plain.path, controls=[control])
    assert not [note for note in pair.controls[0].notes if "on everywhere" in note]
