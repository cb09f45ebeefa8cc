"""A student's differences from its base are those of its weights, and no weight is copied."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
import zoo
from comparing import distance, gated_logits, own_logits, pointers, snapshot
from loading import adapter, base, model, resized, runner, saved, student
from peft import LoraConfig, PromptTuningConfig
from torch import nn

from sublim_mech.models.deltas import LowRank, Replaced, square_distance
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
UP = ".*(up_proj|c_fc)"
ALONE = ("dora", "pissa", "olora", "lora_bias")  # adapters that leave no module a plain pair
RESTARTED = ("pissa", "olora")  # which take their start out of the base's weights


# ----------------------------------------------------------------------------------------- low-rank


def test_a_norm_has_no_sign():
    matrices = [torch.randn(3, 2), torch.randn(2, 3)]
    one, other = (LowRank(*matrices, scale) for scale in (2.0, -2.0))
    assert one.norm() == other.norm() > 0


@pytest.mark.parametrize(
    "extra",
    [{}, {"use_rslora": True}, {"rank_pattern": {UP: 2}, "alpha_pattern": {UP: 3}}],
    ids=["plain", "rslora", "patterns"],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_low_rank_deltas_are_merged_minus_base(architecture, extra):
    made = tiny.lora(model(architecture), std=0.05, **extra)
    merged = copy.deepcopy(made).merge_and_unload()
    loaded = load_student(base(architecture), made)
    changed = {
        path
        for path, module in model(architecture).named_modules()
        if "weight" in module._parameters
        and not torch.equal(module.weight, merged.get_submodule(path).weight)
    }
    assert loaded.kind == "lora"
    assert set(loaded.deltas) == changed
    assert len(changed) >= 4 * tiny.LAYERS
    generator = torch.Generator().manual_seed(1)
    for path, delta in loaded.deltas.items():
        assert isinstance(delta, LowRank)
        old, new = model(architecture).get_submodule(path), merged.get_submodule(path)
        difference = (new.weight - old.weight).detach()
        product = delta.scale * delta.b @ delta.a  # (out, in); GPT-2's Conv1D holds (in, out)
        oriented = product.T if type(old).__name__ == "Conv1D" else product
        assert torch.allclose(oriented, difference, atol=1e-6, rtol=0)
        assert float(difference.abs().max()) > 1e-3
        assert delta.norm() == pytest.approx(float(product.double().norm()), rel=1e-6)
        x = torch.randn(2, 3, delta.a.shape[1], generator=generator)
        with torch.no_grad():
            assert torch.allclose(delta(old(x), x), new(x) - old(x), atol=1e-5, rtol=0)


def test_two_active_adapters_are_the_sum_of_their_weights():
    made = zoo.several(["default", "other"])(model(), "llama")
    merged = copy.deepcopy(made).merge_and_unload()
    deltas = load_student(base(), made, adapter=["default", "other"]).deltas
    assert {d.a.shape[0] for path, d in deltas.items() if ".mlp." in path} == {4 + 3}
    for path, delta in deltas.items():
        difference = merged.get_submodule(path).weight - model().get_submodule(path).weight
        assert torch.allclose(delta.scale * delta.b @ delta.a, difference, atol=1e-6, rtol=0)
        assert delta.norm() == pytest.approx(float(difference.detach().norm()), rel=1e-4)


def test_the_adapter_that_was_named_is_the_student():
    made = student("llama", "lora")
    alone = load_student(base(), made)
    made.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in made.named_parameters():
            if ".other." in name:
                p.fill_(0.1)
    assert load_student(base(), made, adapter="default").hash == alone.hash
    other = load_student(base(), made, adapter="other")
    assert made.active_adapters == ["default"]  # the caller's own stays as it was
    assert other.kind == "lora"
    assert set(other.deltas) == {
        f"model.layers.{layer}.self_attn.q_proj" for layer in range(tiny.LAYERS)
    }


def test_a_model_with_injected_adapters_is_the_student_that_peft_would_load():
    made = student("llama", "lora")
    injected = load_student(base(), made.get_base_model())
    assert injected.hash == load_student(base(), made).hash


# ----------------------------------------------------------------------------------------- replaced


def keeps_parity(architecture: str, name: str, made: nn.Module, given: object) -> set[int]:
    """Load an adapter; its gated forward is its own. Where the student's weights lie in memory."""
    mine = model(architecture)
    before = snapshot(mine)
    loaded = load_student(base(architecture), given)
    alone = name in ALONE or (architecture, name) == ("gpt2", "biases")
    assert loaded.kind == ("adapter" if alone else "mixed")
    expected = own_logits(made)
    assert distance(own_logits(mine), expected) > 1e-3
    assert distance(gated_logits(runner(architecture), loaded), expected) < 1e-4
    assert distance(gated_logits(runner(architecture), None), own_logits(mine)) < 1e-5
    assert snapshot(mine) == before
    return {
        p.data_ptr()
        for key, p in loaded.model.named_parameters()
        if key.endswith("weight") and ".base_layer." in key
    }


@pytest.mark.parametrize(
    "name",
    [
        "dora",
        "modules_to_save",
        "trained embedding",
        "embedding adapter",
        "trained tokens",
        "biases",
        "pissa",
        "olora",
        "lora_bias",
    ],
)
def test_live_adapters_that_are_more_than_low_rank_keep_parity(name):
    made = adapter("gpt2", name)
    keeps_parity("gpt2", name, made, made)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "dora"),
        ("llama", "modules_to_save"),
        ("llama", "embedding adapter"),
        ("llama", "pissa"),
        ("llama", "lora_bias"),
        ("qwen2", "modules_to_save"),  # on one side of tied embeddings
        ("qwen2", "trained embedding"),
        ("qwen2", "embedding adapter"),
        ("qwen2", "trained tokens"),
        ("qwen2", "biases"),
        ("gpt2", "dora"),
        ("gpt2", "trained tokens"),
        ("gpt2", "biases"),
        ("gpt2", "olora"),
        ("gpt2", "lora_bias"),
    ],
)
def test_stored_adapters_that_are_more_than_low_rank_keep_parity_and_copy_nothing(
    architecture, name, tmp_path
):
    made = adapter(architecture, name)
    inside = keeps_parity(architecture, name, made, saved(made, tmp_path / "student"))
    if name not in RESTARTED:  # every weight it does not train is the base's own
        assert inside
        assert inside <= pointers(model(architecture))


@pytest.mark.parametrize(
    "name", ["dora", "embedding adapter", "trained tokens", "modules_to_save", "lora_bias"]
)
def test_the_norm_of_a_wrapped_module_is_that_of_its_merged_weights(name):
    made = adapter("gpt2", name)
    merged = copy.deepcopy(made)
    head = merged.get_base_model().lm_head
    if "weight" in head._parameters:
        head.weight = nn.Parameter(head.weight.detach().clone())  # wte's no more
    merged = merged.merge_and_unload()
    deltas = load_student(base("gpt2"), made).deltas
    replaced = {path: d for path, d in deltas.items() if isinstance(d, Replaced)}
    assert replaced
    for path, delta in replaced.items():
        new = dict(merged.get_submodule(path).named_parameters())
        old = dict(model("gpt2").get_submodule(path).named_parameters())
        square = sum(float((new[k] - old[k]).detach().double().square().sum()) for k in old)
        assert delta.norm() == pytest.approx(square**0.5, rel=1e-4)


def test_replaced_deltas_are_the_changed_modules_and_their_distance():
    made = copy.deepcopy(model())
    with torch.no_grad():
        made.model.layers[1].mlp.up_proj.weight += 0.01
        made.model.norm.weight[0] += 2.0
    loaded = load_student(base(), made)
    up = "model.layers.1.mlp.up_proj"
    assert loaded.kind == "full"
    assert set(loaded.deltas) == {up, "model.norm"}
    assert loaded.deltas[up].norm() == pytest.approx(0.01 * (32 * 48) ** 0.5, rel=1e-4)
    assert loaded.deltas["model.norm"].norm() == pytest.approx(2.0, rel=1e-5)


def test_a_live_student_shares_its_own_weights():
    made = student("llama", "full")
    loaded = load_student(base(), made)
    assert pointers(loaded.model) == pointers(made)
    held = {
        p.data_ptr() for d in loaded.deltas.values() for p in d.module.parameters(recurse=False)
    }
    assert held == pointers(made)


def test_a_module_that_gives_no_tensor_cannot_be_gated():
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x, x

    x = torch.zeros(1)
    with pytest.raises(ValueError, match="module Two gives a tuple, not a tensor"):
        Replaced(Two(), 0.0, "")(x, x)


def test_a_parameter_that_only_the_student_has_differs_from_zero():
    three, four = torch.full((2,), 3.0), torch.full((2,), 4.0)
    assert square_distance({"a": three}, {"a": four, "b": three}) == 2 * 1 + 2 * 9
    assert square_distance({"a": three}, {"a": three}) == 0


# -------------------------------------------------------------------------------------- none at all


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_student_equal_to_its_base_has_no_deltas(kind):
    same = copy.deepcopy(model())
    if kind == "lora":
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        same = tiny.adapted(same, config)
    loaded = load_student(base(), same)
    assert loaded.deltas == {}
    assert loaded.kind == kind
    assert torch.equal(gated_logits(runner(), loaded), gated_logits(runner(), None))


# ------------------------------------------------------------------------------- not to be compared


def test_a_full_student_of_another_shape():
    fault = r"does not fit base=.*: model\.layers\."
    message = rf"student='LlamaForCausalLM' {fault}3\.self_attn\.q_proj"
    with pytest.raises(ValueError, match=message):
        load_student(base(), resized(num_hidden_layers=4))
    with pytest.raises(ValueError, match=rf"{fault}2\.self_attn\.q_proj has \{{\}}, not"):
        load_student(base(), resized(num_hidden_layers=2))
    message = rf"{fault}0\.mlp\.gate_proj has .*\(64, 32\).*, not .*\(48, 32\)"
    with pytest.raises(ValueError, match=message):
        load_student(base(), resized(intermediate_size=64))
    message = "student='GPT2LMHeadModel' does not fit base='LlamaForCausalLM'"
    with pytest.raises(ValueError, match=message):
        load_student(base(), model("gpt2"))


@pytest.mark.parametrize("where", ["live", "disk"])
def test_a_student_with_another_vocabulary(where, tmp_path):
    other = resized(vocab_size=tiny.VOCAB + 8)
    source = other if where == "live" else saved(other, tmp_path / "run")
    more = tiny.VOCAB + 8
    message = rf"student=.* has a vocabulary of {more} tokens, base=.* one of {tiny.VOCAB};"
    with pytest.raises(ValueError, match=message):
        load_student(base(), source)


def test_adapters_that_cannot_become_weights():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    prompts = tiny.adapted(copy.deepcopy(model()), config)
    message = (
        r"student=.*: its adapter is no change of weights \(PROMPT_TUNING\): it puts virtual "
        "tokens before the text.*; pass a PeftModel with a weight adapter"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), prompts)


def test_switched_off_adapters_are_no_student():
    made = student("llama", "lora")
    made.base_model.disable_adapter_layers()
    message = (
        r"student=.*: its adapters are switched off \(.*q_proj\); call its enable_adapter_layers"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), made)
