"""Students are named as their pair calls them or by their own names, in whatever asks for one."""

import inspect

import pytest
import tiny

import sublim_mech as sm
from sublim_mech import instruments

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pair(smol_tokenizer):
    plain = tiny.model("llama")
    base = sm.load_base(plain, tokenizer=smol_tokenizer)
    owl = sm.models.load_student(base, tiny.lora(plain), name="owl")
    cat = sm.models.load_student(base, tiny.lora(plain, seed=3), name="cat")
    return sm.load_pair(base, owl, controls=[cat])


def asked(pair, prompts, folder):
    """What asks for a student by `model`, by its name in `instruments`: the pair's name for it."""
    everything, few = sm.masks.everything(), {"modules": "mlp.out", "layers": [0]}
    said = {"generated": "base", "max_new_tokens": 2}
    extract = {"out": folder / "made", **QUIET}
    return {
        "spectrum": lambda model: instruments.spectrum(pair, model=model, **QUIET).student,
        "intruders": lambda model: instruments.intruders(pair, model=model, **few, **QUIET).student,
        "intruder_cost": lambda model: instruments.intruder_cost(pair, model=model, **few),
        "read_singular": lambda model: (
            instruments.read_singular(pair, model=model, layers=[0], draws=5, **QUIET).student
        ),
        "extract_lora": lambda model: (
            instruments.extract_lora(pair, 1, model=model, **extract).student
        ),
        "generate": lambda model: instruments.generate(
            pair, prompts, everything, model=model, **said
        ),
    }


def test_whatever_takes_a_model_takes_its_own_name(pair, prompts, tmp_path):
    ways = asked(pair, prompts[:1], tmp_path)
    there = {
        name
        for name in instruments.__all__
        if inspect.isfunction(getattr(instruments, name))
        and "model" in inspect.signature(getattr(instruments, name)).parameters
    }
    assert set(ways) == there
    for name, ask in ways.items():
        for wrong in ("catt", "control: owl"):
            with pytest.raises(ValueError, match=f"model='{wrong}' is no student of this pair"):
                ask(wrong)
        found = ask("cat")
        assert found == "control: cat" or name in ("intruder_cost", "generate")
    own, key = (ways["generate"](name) for name in ("cat", "control: cat"))
    assert own == key


def test_logits_and_activations_too(pair, prompts):
    own, key, student = (pair.logits(prompts[:1], model=n) for n in ("cat", "control: cat", "owl"))
    assert (own == key).all()
    assert not (own == student).all()
    (own, key) = (
        pair.activations(prompts[:1], ["resid_post"], model=name)["blocks.2.hook_resid_post"]
        for name in ("cat", "control: cat")
    )
    assert (own == key).all()
