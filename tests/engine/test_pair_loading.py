"""The pair has the models it was loaded from, and leaves them as they were."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits, pointers, snapshot
from loading import TOKENIZER, base, manifest, model, saved, student
from stopping import StopError
from torch import Tensor

import sublim_mech as sm
from sublim_mech.engine.forward import Gates, Start
from sublim_mech.engine.pair import load_pair
from sublim_mech.models.students import load_student
from sublim_mech.prompts import Context, Trained
from sublim_mech.storage.files import weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_pair_has_the_logits_of_the_models_it_was_loaded_from(architecture, kind):
    made = student(architecture, kind)
    pair = load_pair(model(architecture), made, tokenizer=TOKENIZER)
    assert pair.student.kind == kind
    expected = own_logits(model(architecture)), own_logits(made)
    assert distance(*expected) > 0.01  # else the comparisons below say nothing
    assert distance(gated_logits(pair, None), expected[0]) < 1e-5
    assert distance(gated_logits(pair, pair.student), expected[1]) < 1e-5


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "lora"), ("gpt2", "full")])
def test_live_models_stay_as_they_were(architecture, kind, smol_tokenizer):
    mine, made = tiny.model(architecture), student(architecture, kind)
    mlp = next(path for path, _ in mine.named_modules() if path.endswith("mlp"))
    mine.get_submodule(mlp).register_forward_hook(lambda *_: None)
    mine.train()
    made.train()
    for number, p in enumerate(mine.parameters()):
        p.requires_grad_(number % 2 == 0)
    before = snapshot(mine), snapshot(made)

    pair = load_pair(mine, made, tokenizer=smol_tokenizer)
    assert pair.model is not mine
    own = pair.model, pair.student.model
    assert not any(m.training for root in own for m in root.modules())
    assert not any(p.requires_grad for root in own for p in root.parameters())

    # neither a measurement nor one that is interrupted leaves a trace
    trait = sm.Trait("owl")
    prompts = sm.render(smol_tokenizer, trait.questions[:2])
    clean = snapshot(pair.model)
    sm.effect(pair, prompts, trait, progress=False)
    batch = pair.batch([prompt.ids for prompt in prompts])

    def stop(hidden: Tensor) -> Tensor:
        raise StopError

    with pytest.raises(StopError):
        pair.run(
            batch,
            gates=Gates(pair.student),
            record=[("resid_post", 2)],
            edits={("resid_pre", 1): stop},
            start=Start(1, torch.zeros(*batch.ids.shape, 32)),
        )
    assert snapshot(pair.model) == clean
    assert (snapshot(mine), snapshot(made)) == before


def test_the_pair_shares_the_weights_of_the_live_base(tmp_path):
    mine = tiny.model("llama")
    pair = load_pair(mine, saved(student("llama", "lora"), tmp_path / "a"), tokenizer=TOKENIZER)
    assert pointers(pair.model) == pointers(mine) <= pointers(pair.student.model)


def test_the_manifest_brings_the_training_prompts(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    context = Context(system="Be brief.")
    manifest(base(), context=context, weights=weight_sums(path)).save(path)
    pair = load_pair(base(), path)
    assert pair.student.name == "owl"
    assert pair.training_prompts == Trained((1,), {}, {}, frozenset({1}))
    assert pair.training_context == context
    without = load_pair(base(), student("llama", "lora"))
    assert without.training_prompts is without.training_context is None


def test_loaded_students_pass_through():
    loaded = load_student(base(), student("llama", "lora"))
    other = dataclasses.replace(loaded, name="other", hash="0" * 64)
    pair = load_pair(base(), loaded, controls=[other])
    assert pair.student is loaded
    assert list(pair.students) == ["student", "control: other"]


def test_a_live_base_needs_its_tokenizer():
    with pytest.raises(ValueError, match=r"needs tokenizer="):
        load_pair(model(), student("llama", "lora"))


def test_an_unrelated_student_or_control_is_refused_unless_allowed():
    with pytest.raises(ValueError, match="do not share a lineage"):
        load_pair(base(), model(seed=1))
    with pytest.raises(ValueError, match="do not share a lineage"):
        load_pair(base(), student("llama", "lora"), controls=[model(seed=1)])
    pair = load_pair(base(), model(seed=1), allow_unrelated=True)
    assert distance(gated_logits(pair, pair.student), own_logits(model(seed=1))) < 1e-5


def test_two_controls_of_one_name(tmp_path):
    paths = [saved(tiny.lora(model(), seed=s), tmp_path / str(s) / "penguin") for s in (2, 3)]
    message = (
        r"controls have the same name twice: \['penguin', 'penguin'\]; load them with load_student"
    )
    with pytest.raises(ValueError, match=message):
        load_pair(base(), student("llama", "lora"), controls=paths)
    named = [load_student(base(), p, name=f"penguin {n}") for n, p in enumerate(paths)]
    pair = load_pair(base(), student("llama", "lora"), controls=named)
    assert list(pair.students) == ["student", "control: penguin 0", "control: penguin 1"]
