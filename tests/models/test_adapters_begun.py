"""Adapters that begin with a part of the base's weights, or with random numbers: a folder must give
the student that was trained, whatever torch's generator, or be refused.
"""

from __future__ import annotations

import copy
import json

import adapter_kinds
import peft
import pytest
import torch
from comparing import distance, gated_logits, own_logits
from loading import base, model, runner, saved

from sublim_mech.models import adapters, plausible
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BEGUN = {"r": 2, "lora_alpha": 2, "target_modules": adapter_kinds.ATTENTION}
DRAWN = [
    "LoRA, orthogonal", "LoRA, Gaussian", "LoRA, EVA not yet initialised", "PiSSA", "OLoRA", "MiCA",
    "KaSA", "VeLoRA", "MonteCLoRA", "PSOFT", "SHiRA", "VeRA", "RandLoRA", "VB-LoRA", "FourierFT",
    "UniLoRA", "OSF",
]  # fmt: skip
"""Kinds that draw numbers or decompose the base's weights where they are made."""


def begun(how):
    """A model with an untrained adapter that begins so, and its configuration."""
    config = peft.LoraConfig(init_lora_weights=how, task_type="CAUSAL_LM", **BEGUN)
    if how == "lora_ga":
        config.lora_ga_config = peft.LoraGAConfig()
    made = copy.deepcopy(model())
    if how == "lora_ga":  # as `preprocess_loraga` leaves it
        for path, module in made.named_modules():
            if path.rpartition(".")[2] in adapter_kinds.ATTENTION:
                module._peft_loraga_grad = 0.2 * torch.randn_like(module.weight)
    return peft.get_peft_model(made, config).eval()


def stored_and_converted(how, folder):
    """A student trained from such a beginning, stored as it is and by PEFT's own remedy."""
    torch.manual_seed(1)
    made = begun(how)
    config = made.peft_config["default"]
    config.init_lora_weights = True
    made.save_pretrained(folder / "begin")
    config.init_lora_weights = how
    adapter_kinds._move(made, adapter_kinds.STD)
    plainly, converted = folder / "plain", folder / "converted"
    made.save_pretrained(plainly)
    made.save_pretrained(converted, path_initial_model_for_weight_conversion=str(folder / "begin"))
    return made, plainly, converted


@pytest.mark.parametrize("name", DRAWN)
def test_a_folder_gives_what_was_trained_whatever_the_generator(name, tmp_path):
    made = adapter_kinds.KINDS[name]()
    path, expected = saved(made, tmp_path / "run"), own_logits(made)
    hashes = set()
    for seed in (11, 12):
        torch.manual_seed(seed)
        loaded = load_student(base(), path)
        hashes.add(loaded.hash)
        assert distance(gated_logits(runner(), loaded), expected) < 1e-5
    assert len(hashes) == 1


@pytest.mark.parametrize("how", ["pissa_niter_4", "lora_ga"])
def test_what_was_begun_at_random_or_from_data_is_another_model_and_refused(
    how, tmp_path, monkeypatch
):
    with torch.random.fork_rng():
        made, plainly, converted = stored_and_converted(how, tmp_path)
    expected = own_logits(made)
    found = "with random numbers" if how != "lora_ga" else "from data"
    message = (
        rf"^student='.*plain': its adapter was begun with init_lora_weights='{how}': PEFT took a "
        rf"part out of the base's weights, found {found}, and its folder does not hold which.* "
        r"save it merged \(merge_and_unload\(\)\) or as a LoRA"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_student(base(), plainly)
    assert ("init_lora_weights='pissa'." in str(error.value)) == (how != "lora_ga")
    # live it is what it is, and so it is where it was stored as the message says
    merged = saved(copy.deepcopy(made).merge_and_unload(), tmp_path / "merged")
    for source in (made, converted, merged):
        assert distance(gated_logits(runner(), load_student(base(), source)), expected) < 1e-5
    # it is refused for a reason: what would be loaded is not what was trained
    monkeypatch.setattr(adapters, "not_in_its_folder", lambda config: None)
    loaded = load_student(base(), plainly)
    assert distance(gated_logits(runner(), loaded), expected) > 1e-2


def test_corda_is_refused_with_the_reason_and_not_as_of_another_model(tmp_path):
    path = saved(adapter_kinds.KINDS["LoRA"](), tmp_path / "run")
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": "corda"}))
    with pytest.raises(ValueError, match=r"begun with init_lora_weights='corda': .* from data"):
        load_student(base(), path)


def test_loading_depends_on_nobodys_generator(tmp_path, monkeypatch):
    """Also where PEFT would draw what the file does not hold."""
    monkeypatch.setattr(adapters, "not_in_its_folder", lambda config: None)
    path = saved(begun("pissa_niter_4"), tmp_path / "run")
    hashes, states = set(), []
    for seed in (11, 12):
        torch.manual_seed(seed)
        hashes.add(load_student(base(), path).hash)
        states.append((torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state()))
    assert len(hashes) == 1
    assert all(torch.equal(left, before) for left, before in states)


@pytest.mark.parametrize(
    ("name", "options"),
    [("PiSSA", "lora_alpha, r and use_rslora"), ("LoHa", "the options in adapter_config.json")],
)
def test_adapters_that_are_no_pair_are_told_by_their_size_too(name, options, monkeypatch):
    loaded = load_student(base(), adapter_kinds.KINDS[name](), allow_unrelated=True)
    assert loaded.kind == "adapter"
    moved = sum(delta.norm() ** 2 for delta in loaded.deltas.values()) ** 0.5
    weights = sum(
        float(model().get_submodule(path).weight.square().sum()) for path in loaded.deltas
    )
    share = moved / weights**0.5
    for limit in (share * 0.99, share * 1.01):
        monkeypatch.setattr(plausible, "LARGEST_CHANGE", limit)
        notes = load_student(base(), adapter_kinds.KINDS[name](), allow_unrelated=True).notes
        told = [note for note in notes if "of their norm" in note]
        assert len(told) == (limit < share)
        assert all(
            f"by {share:.0%} of" in note and f"check that {options} " in note for note in told
        )
