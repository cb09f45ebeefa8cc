"""Several adapters of one model or folder are several students, and each is named."""

from __future__ import annotations

import json

import adapter_kinds
import peft
import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits, snapshot
from loading import TOKENIZER, base, model, runner, saved, student

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.adapters import attach_lora
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


@pytest.fixture(scope="module")
def two():
    """A model with the adapters `default` and `other`."""
    return adapter_kinds.two()


@pytest.fixture(scope="module")
def folder(two, tmp_path_factory):
    """What PEFT writes of it: `default` into the folder, `other` below it."""
    return saved(two, tmp_path_factory.mktemp("two"))


def test_a_model_with_several_adapters_is_no_student_until_one_is_named(two):
    message = (
        r"student is a model with 2 adapters \('default', 'other'\), .*say which: "
        r"adapter='default', of a control load_student\(base, model, adapter='default'\)\."
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), two)
    with pytest.raises(ValueError, match="say which"):  # also of the layers without PEFT's model
        load_student(base(), two.get_base_model())


@pytest.mark.parametrize("wanted", ["default", "other", ["default", "other"]])
def test_each_adapter_is_what_peft_computes_with_it_active(wanted, two):
    before = snapshot(two)
    loaded = load_student(base(), two, adapter=wanted)
    assert snapshot(two) == before
    names = [wanted] if isinstance(wanted, str) else wanted
    assert loaded.name == "+".join(names)
    try:
        two.base_model.set_adapter(names)
        expected = own_logits(two)
    finally:
        two.base_model.set_adapter("default")
    assert distance(own_logits(model()), expected) > 1e-3
    assert distance(gated_logits(runner(), loaded), expected) < 1e-5
    assert distance(own_logits(loaded.model), expected) < 1e-5


def test_adapters_that_are_not_there(two, folder):
    message = (
        r"adapter='othr' is no adapter of the student; did you mean 'other'.* It has 'default'"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), two, adapter="othr")
    with pytest.raises(ValueError, match="adapter='owl': the student is a model without adapters"):
        load_student(base(), student("llama", "full"), adapter="owl")
    message = r"adapter='othr': student='.*' has none of this name; did you mean 'other'.*'default'"
    with pytest.raises(ValueError, match=message):
        load_student(base(), folder, adapter="othr")
    with pytest.raises(ValueError, match=r"of a folder one adapter is read at a time"):
        load_student(base(), folder, adapter=["default", "other"])
    loaded = load_student(base(), two, adapter="other")
    with pytest.raises(ValueError, match="adapter='other': student='other' is loaded already"):
        load_student(base(), loaded, adapter="other")


def test_a_folder_keeps_other_adapters_in_subfolders(two, folder, tmp_path):
    live = {name: load_student(base(), two, adapter=name).hash for name in ("default", "other")}
    assert load_student(base(), folder).hash == live["default"]
    assert load_student(base(), folder, adapter="default").hash == live["default"]
    stored = load_student(base(), folder, adapter="other")
    assert (stored.name, stored.hash) == ("other", live["other"])

    # PEFT writes nothing into the folder itself where no adapter is called default
    two.save_pretrained(tmp_path / "run", selected_adapters=["other"])
    message = (
        r"student='.*run' holds no adapter itself, its subfolders do \(other\); pass "
        r"student='.*run/other'\."
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_student(base(), tmp_path / "run")
    assert load_student(base(), tmp_path / "run", adapter="other").hash == live["other"]


def test_one_model_gives_a_pair_its_student_and_its_controls(two, folder):
    options = {"tokenizer": TOKENIZER, "adapter": "default", "control_adapters": ["other"]}
    live, stored = load_pair(model(), two, **options), load_pair(model(), folder, **options)
    for pair in (live, stored):
        assert [one.name for one in pair.controls] == ["other"]
    assert [one.hash for one in stored.students.values()] == [
        one.hash for one in live.students.values()
    ]


def test_an_adapter_that_repeats_blocks_is_refused_with_the_reason(tmp_path):
    made = adapter_kinds.KINDS["LoRA, layers repeated"]()
    message = (
        r"student='.*': its adapter repeats blocks \(layer_replication: 0 to 1, 1 to 2\), so that "
        "the student has other blocks than the base"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), made)
    with pytest.raises(ValueError, match=message):
        load_student(base(), saved(made, tmp_path / "run"))


def test_arrow_is_refused_with_the_reason(tmp_path):
    path = saved(tiny.lora(model()), tmp_path / "run")
    file = path / "adapter_config.json"
    config = json.loads(file.read_text()) | {"arrow_config": {"top_k": 1}}
    file.write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"its adapter is no change of weights \(Arrow\): which of"
    ):
        load_student(base(), path)


def test_every_method_that_peft_has_is_in_the_table():
    """A new one must be tried, or be refused with its reason."""
    assert set(peft.PeftType.__members__) == adapter_kinds.METHODS


# ------------------------------------------------------------------------------------- their order


def test_an_adapters_targets_are_written_in_one_order(tmp_path):
    """PEFT keeps them as a set: each process had an order of its own, and a run's seal with it."""
    made = attach_lora(base(), rank=2, alpha=4)
    targets = made.peft_config["default"].target_modules
    assert targets == sorted(targets)
    made.save_pretrained(tmp_path / "run")
    written = json.loads((tmp_path / "run" / "adapter_config.json").read_text())["target_modules"]
    assert written == targets


# ---------------------------------------------------------- LayerNorm tuning, OSF, BEFT


@pytest.mark.parametrize("name", ["LayerNorm tuning", "OSF", "BEFT"])
def test_adapters_that_peft_merges_in_a_way_of_its_own(name, tmp_path):
    outcome = adapter_kinds.examine(name, tmp_path / "run")
    assert not outcome.refused
    assert max(outcome.error, outcome.stored or 0.0) < 1e-5
    assert (outcome.low > 0) == (name == "OSF")
    made = adapter_kinds.KINDS[name]()
    assert distance(own_logits(made), own_logits(model())) > 1e-4


def test_layernorm_tuning_is_gated_norm_by_norm():
    made = adapter_kinds.KINDS["LayerNorm tuning"]()
    before = snapshot(made)
    loaded = load_student(base(), made)
    assert snapshot(made) == before
    norms = {path for path, _ in model().named_modules() if path.endswith("norm")}
    assert set(loaded.deltas) == norms
    for path, delta in loaded.deltas.items():
        tuned = made.get_base_model().get_submodule(path).ln_tuning_layers["default"].weight
        moved = (tuned - model().get_submodule(path).weight).detach()
        assert delta.norm() == pytest.approx(float(moved.norm()), rel=1e-5)


def test_osf_is_a_pair_of_what_it_takes_out_and_what_it_puts_there():
    """It keeps the 8 largest singular triplets, and trains the other 24 of a weight's 32."""
    made = adapter_kinds.KINDS["OSF"]()
    loaded = load_student(base(), made)
    for path, delta in loaded.deltas.items():
        layer = made.get_base_model().get_submodule(path)
        assert delta.a.shape[0] == 2 * (min(layer.base_layer.weight.shape) - 8)
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(delta.scale * delta.b @ delta.a, expected, atol=1e-6, rtol=0)
    untrained = tiny.adapted(
        tiny.model("llama"), peft.OSFConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    with pytest.warns(UserWarning, match="equals its base"):
        assert load_student(base(), untrained).deltas == {}
