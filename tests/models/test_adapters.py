"""Adapters: attached to a base, and read from a folder."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import tiny
import torch
from comparing import pointers
from loading import base, broken, edit, model, resized, saved, student
from torch import Tensor

from sublim_mech.models.adapters import attach_lora
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

# ----------------------------------------------------------------------------------------- attached


def adapted(made: object) -> set[str]:
    """Paths of the base's modules that have an adapter."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, p in made.named_parameters()
        if ".lora_A." in name
    }


@pytest.mark.parametrize(
    ("architecture", "targets", "layers", "expected"),
    [
        ("llama", "all-linear", None, 7 * tiny.LAYERS),
        ("gpt2", "all-linear", None, 4 * tiny.LAYERS),
        ("llama", ("q_proj", "mlp.up_proj"), None, 2 * tiny.LAYERS),
        ("gpt2", ("attn.c_proj",), None, tiny.LAYERS),
        ("llama", r".*\.[02]\.mlp\..*_proj", None, 2 * 3),
        ("llama", ("q_proj", "lm_head"), None, tiny.LAYERS + 1),
        ("llama", "all-linear", (1,), 7),
        ("llama", r".*_proj", (0, 2), 2 * 7),
    ],
)
def test_a_lora_goes_to_what_was_named(architecture, targets, layers, expected):
    made = attach_lora(base(architecture), rank=2, alpha=4, targets=targets, layers=layers)
    assert len(adapted(made)) == expected
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert pointers(model(architecture)) <= pointers(made)
    assert made.peft_config["default"].base_model_name_or_path == base(architecture).name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"targets": ("q_prj",)},
            r"LoRA\(targets=\.\.\.\): no module is called 'q_prj'; did you mean 'q_proj'.*\? "
            r"The modules are .*down_proj, .*up_proj",
        ),
        (
            {"targets": ("zzz",)},
            r"no module is called 'zzz'\. The modules are down_proj, embed_tokens",
        ),
        (
            {"targets": "q_proj"},
            r"LoRA\(targets='q_proj'\): this regular expression matches no whole module path, such "
            r"as 'model\.embed_tokens'; for module names pass a tuple of them: down_proj, ",
        ),
        ({"layers": (1, 3)}, r"LoRA\(layers=\.\.\.\): there is no layer 3; the model has 0 to 2\."),
        (
            {"rank": 33, "targets": ("q_proj",)},
            r"LoRA\(rank=33\): model\.layers\.0\.self_attn\.q_proj is a 32 x 32 matrix, whose "
            r"updates have rank 32 at most; lower the rank, or leave it out of targets",
        ),
    ],
)
def test_targets_that_are_not_there(options, message):
    with pytest.raises(ValueError, match=message):
        attach_lora(base(), **{"rank": 2, "alpha": 4, **options})


# --------------------------------------------------------------------------------------------- read


def test_an_adapter_shares_the_weights_of_the_live_base(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "a")
    state = torch.get_rng_state()
    loaded = load_student(base(), path)
    # PEFT initialises what it then reads: the caller's draws do not depend on it
    assert torch.equal(torch.get_rng_state(), state)
    parameters = dict(loaded.model.named_parameters())
    inside = {p.data_ptr() for name, p in parameters.items() if "lora_" not in name}
    assert inside == pointers(base().model) == pointers(model())
    more = [p for name, p in parameters.items() if "lora_" in name]
    size = sum(p.numel() for p in model().parameters())
    assert sum(p.numel() for p in more) < 0.05 * size
    held = {p.data_ptr() for d in loaded.deltas.values() for p in (d.a, d.b)}
    assert held == {p.data_ptr() for p in more}


def test_base_embeddings_stored_beside_a_plain_adapter_change_nothing(tmp_path):
    made = student("llama", "lora")
    made.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    loaded = load_student(base(), tmp_path / "a")
    stored = safetensors.torch.load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert any("embed_tokens" in key for key in stored)
    assert loaded.kind == "lora"
    assert loaded.hash == load_student(base(), made).hash


def lose(tensors: dict[str, Tensor]) -> None:
    tensors.pop(next(key for key in tensors if "layers.1" in key))


def test_an_adapter_with_a_tensor_missing(tmp_path):
    file = "adapter_model.safetensors"
    path = broken("lora", tmp_path / "lora", lambda p: edit(p / file, lose))
    message = (
        r"student='.*lora' lacks 1 of the 42 tensors its adapter_config\.json asks for on base='.*"
        r"' \(.*layers\.1\..*, \.\.\.\); copy adapter_model\.safetensors again"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_an_adapter_of_fewer_layers_lacks_the_others(tmp_path):
    smaller = tiny.lora(resized(num_hidden_layers=2), target_modules=["q_proj"])
    path = saved(smaller, tmp_path / "run")
    with pytest.raises(ValueError, match=r"student='.*run' lacks 2 of the 6 tensors"):
        load_student(base(), path)


def test_an_adapter_without_its_config(tmp_path):
    path = broken("lora", tmp_path / "run", lambda p: (p / "adapter_config.json").unlink())
    message = r"student='.*run' has adapter weights but no adapter_config\.json; copy that file"
    with pytest.raises(FileNotFoundError, match=message):
        load_student(base(), path)


def test_an_adapter_config_that_is_not_json(tmp_path):
    path = broken("lora", tmp_path / "run", lambda p: (p / "adapter_config.json").write_text("{"))
    message = r"student='.*run': adapter_config\.json is not JSON \(.*\); copy it again"
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_a_rank_that_was_edited_is_named(tmp_path):
    path = saved(tiny.lora(model()), tmp_path / "run")
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 16}))
    told = r"student='.*run': the rank is r=16 in adapter_config\.json and 4 in adapter_model\."
    with pytest.raises(ValueError, match=told):
        load_student(base(), path)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 40, "head_dim": 10}, {"num_hidden_layers": 5}, {"intermediate_size": 64}],
)
def test_an_adapter_of_a_base_of_another_shape(changes, tmp_path):
    path = saved(tiny.lora(resized(**changes)), tmp_path / "run")
    message = r"(?s)student='.*run' does not fit base='LlamaForCausalLM'.*another model\?"
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_an_adapter_of_another_architecture(tmp_path):
    path = saved(student("gpt2", "lora"), tmp_path / "run")
    fault = r"does not fit base='LlamaForCausalLM' \(an adapter of another model\?\)"
    with pytest.raises(ValueError, match=rf"student='.*run' {fault}"):
        load_student(base(), path)
