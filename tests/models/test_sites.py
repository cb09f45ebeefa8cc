"""The map of a model: every module has its name, and every activation its place."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from transformers import HeliumConfig, HeliumForCausalLM

from sublim_mech.models import compat
from sublim_mech.models.names import Module
from sublim_mech.models.sites import Site, Sites, find_sites, holds_transposed, spread_gate

QKV = ["attn.q", "attn.k", "attn.v", "attn.o"]
GATED = ["mlp.gate", "mlp.in", "mlp.out"]
NORMS = ["ln1", "ln2"]
BLOCK = {  # TransformerLens' names, with Hugging Face's tail where it has none
    "llama": [*QKV, *GATED, *NORMS],
    "qwen2": [*QKV, *GATED, *NORMS],
    "qwen3": [*QKV, "attn.q_norm", "attn.k_norm", *GATED, *NORMS],
    "gemma2": [*QKV, *GATED, "ln1", "ln1_post", "ln2", "ln2_post"],
    "gemma3": [
        *QKV, "attn.q_norm", "attn.k_norm", *GATED, "ln1", "ln1_post", "ln2", "ln2_post",
    ],
    "mistral": [*QKV, *GATED, *NORMS],
    "neox": [*NORMS, "attn.qkv", "attn.o", "mlp.in", "mlp.out"],
    "phi3": ["attn.o", "attn.qkv", "mlp.gate_up_proj", "mlp.out", *NORMS],
    "opt": ["attn.k", "attn.v", "attn.q", "attn.o", "ln1", "mlp.in", "mlp.out", "ln2"],
    "gpt2": ["ln1", "attn.qkv", "attn.o", "ln2", "mlp.in", "mlp.out"],
}  # fmt: skip


@functools.cache
def model(architecture: str) -> Any:
    return tiny.model(architecture)


@functools.cache
def sites(architecture: str) -> Sites:
    return find_sites(model(architecture))


# ------------------------------------------------------------------------------------------ modules


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_module_has_its_layer_and_name(architecture):
    where = sites(architecture)
    assert where.n_layers == tiny.LAYERS
    parameters = set(model(architecture).parameters())
    held = {
        p
        for path in where.modules
        for p in model(architecture).get_submodule(path).parameters(recurse=False)
    }
    assert held == parameters
    for layer in range(tiny.LAYERS):
        names = [m.name for m in where.modules.values() if m.layer == layer]
        assert sorted(names) == sorted(BLOCK[architecture])
        assert all(
            path.startswith(where.blocks[layer])
            for path, m in where.modules.items()
            if m.layer == layer
        )
    before = [m.name for m in where.modules.values() if m.layer == -1]
    after = [m.name for m in where.modules.values() if m.layer == tiny.LAYERS]
    positions = ["pos_embed"] if architecture in ("gpt2", "opt") else []
    assert before == ["embed", *positions]
    assert sorted(after) == ["ln_final", "unembed"]
    assert where.modules[where.embed].name == "embed"
    assert where.modules[where.head].name == "unembed"


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_tokens_are_on_the_axis_the_map_says(architecture):
    where, network = sites(architecture), model(architecture)
    shapes: dict[str, torch.Size] = {}

    def note(path: str) -> Any:
        return lambda module, args, output: shapes.update({path: output.shape})

    handles = [network.get_submodule(p).register_forward_hook(note(p)) for p in where.modules]
    ids = torch.arange(11)[None]
    with torch.no_grad():
        compat.call_model(network, ids=ids)
    for handle in handles:
        handle.remove()
    for path, module in where.modules.items():
        # OPT hands its MLP rows and tokens in one axis
        if len(shapes[path]) > 2:
            assert shapes[path][module.axis] == 11, path
    transposed = {m.name for m in where.modules.values() if m.axis == 2}
    assert transposed == ({"attn.q_norm", "attn.k_norm"} if architecture == "gemma3" else set())


def test_a_module_by_layer_and_name():
    assert sites("llama").module(1, "mlp.out").path == "model.layers.1.mlp.down_proj"
    assert sites("gpt2").module(-1, "pos_embed").path == "transformer.wpe"
    assert sites("gpt2").module(tiny.LAYERS, "ln_final").path == "transformer.ln_f"
    message = r"layer 1 has no module 'mlp\.outt'; did you mean 'mlp\.out'.*Its modules are attn\.q"
    with pytest.raises(ValueError, match=message):
        sites("llama").module(1, "mlp.outt")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_which_weights_are_transposed(architecture):
    shapes = {
        holds_transposed(m): tuple(m.weight.shape)
        for path, m in model(architecture).named_modules()
        if path.endswith(("mlp.down_proj", "mlp.c_proj"))
    }
    assert shapes == ({True: (128, 32)} if architecture == "gpt2" else {False: (32, 48)})


# -------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_sites_and_heads_of_every_architecture(architecture):
    where = sites(architecture)
    streams = ["resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"]
    if architecture == "neox":  # attention and MLP beside each other
        streams.remove("resid_mid")
    assert list(where.sites) == [*streams, "z", "q", "k", "v"]
    grouped = architecture not in ("gpt2", "neox", "opt")
    heads = {"z": 4, "q": 4, "k": 2 if grouped else 4, "v": 2 if grouped else 4}
    assert where.heads == heads
    assert where.n_heads("attn.hook_k") == heads["k"]
    assert where.n_heads("resid_pre") == 0


def test_a_full_hook_name_is_a_site_at_its_layer():
    where = sites("llama")
    assert where.place("blocks.2.hook_resid_pre") == ("resid_pre", [2])
    assert where.place("blocks.2.attn.hook_z", [2]) == ("z", [2])
    assert where.place("hook_resid_pre") == ("resid_pre", None)
    assert where.place("z", [0, 1]) == ("z", [0, 1])
    for layer in range(tiny.LAYERS):
        for short in where.sites:
            assert where.place(where.hook_name(short, layer)) == (short, [layer])


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("blocks.3.hook_resid_pre", None, "there is no layer 3; the model has 0 to 2"),
        ("blocks.1.hook_resid_pro", None, "site='hook_resid_pro' is not known here; did you mean"),
        ("blocks.1.hook_z", [0], r"is at layer 1, layers=\[0\] are others; .* pass site='z'"),
        ("blocks.1.hook_z", [0, 1], r"is at layer 1, layers=\[0, 1\] are others"),
        ("blocks.1.hook_z", [], r"is at layer 1, layers=\[\] are others"),
    ],
)
def test_a_full_hook_name_that_does_not_fit(name, layers, message):
    with pytest.raises(ValueError, match=message):
        sites("llama").place(name, layers)


@pytest.mark.parametrize("name", [3, None, ["z"]])
def test_a_site_that_is_no_text(name):
    with pytest.raises(TypeError, match=r"place\(name=.*\): pass a text"):
        sites("llama").place(name)


def test_a_site_by_its_names():
    where = sites("llama")
    assert {where.site_name(n) for n in ("z", "attn.hook_z", "hook_z")} == {"z"}
    assert {where.site_name(n) for n in ("resid_pre", "hook_resid_pre")} == {"resid_pre"}
    assert where.hook_name("resid_mid", 2) == "blocks.2.hook_resid_mid"
    assert where.hook_name("q", 0) == "blocks.0.attn.hook_q"
    for name in ("resid_mud", "hook_resid_mud"):
        message = rf"site='{name}' is not known here; did you mean 'resid_mid'"
        with pytest.raises(ValueError, match=message):
            where.site(name)
    message = r"site='###' is not known here\. Choose one of resid_pre, resid_mid, attn_out, "
    with pytest.raises(ValueError, match=message):
        where.site("###")
    with pytest.raises(ValueError, match="site='resid_mid' is not known here"):
        sites("neox").site("resid_mid")


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "phi3"])
def test_columns_of_a_fused_projection_are_what_attention_takes_from_it(architecture):
    """Against attention itself: changed values leave queries and keys, so its weights, alone."""
    where = sites(architecture)
    columns = [where.sites[name].columns for name in "qkv"]
    fused = model(architecture).get_submodule(f"{where.blocks[0]}.{where.sites['q'].path}")
    width = fused.weight.shape[1 if holds_transposed(fused) else 0]
    assert torch.cat(columns).sort().values.tolist() == list(range(width))
    assert [len(part) for part in columns] == [where.n_heads(name) * 8 for name in "qkv"]

    network = copy.deepcopy(model(architecture))
    network.set_attn_implementation("eager")
    fused = network.get_submodule(f"{where.blocks[0]}.{where.sites['q'].path}")
    ids = torch.arange(5, 15)[None]

    def patterns(name: str) -> torch.Tensor:
        def change(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            site = where.sites[name]
            return site.put(output, site.get(output) * torch.linspace(-3, 3, 10)[:, None, None])

        handle = fused.register_forward_hook(change)
        with torch.no_grad():
            found = network(input_ids=ids, output_attentions=True, use_cache=False).attentions[0]
        handle.remove()
        return found

    with torch.no_grad():
        plain = network(input_ids=ids, output_attentions=True, use_cache=False).attentions[0]
    assert torch.equal(patterns("v"), plain)
    assert not torch.allclose(patterns("q"), plain, atol=1e-4)
    assert not torch.allclose(patterns("k"), plain, atol=1e-4)


@pytest.mark.parametrize(
    "site",
    [
        Site("", "out", "hook"),
        Site("", "out", "hook", heads=3),
        Site("", "out", "hook", heads=2, columns=torch.tensor([8, 9, 10, 11, 0, 1, 2, 3])),
    ],
    ids=["stream", "heads", "fused"],
)
@pytest.mark.parametrize("flat", [False, True])
def test_what_is_put_is_what_is_got(site, flat):
    tensor = torch.arange(2.0 * 3 * 12).reshape(2, 3, 12)
    given = tensor.reshape(6, 12) if flat else tensor
    value = site.get(given, (2, 3))
    if not flat:
        assert torch.equal(site.get(given), value)
    heads = (12 if site.columns is None else 8) // 4
    assert value.shape == ((2, 3, heads, 4) if site.heads else (2, 3, 12))
    assert torch.equal(site.put(given, value), given)
    changed = site.put(given, value + 100)
    assert changed.shape == given.shape
    assert torch.equal(site.get(changed, (2, 3)), value + 100)
    touched = (changed != given).reshape(6, 12).all(0).nonzero().flatten().tolist()
    expected = list(range(12)) if site.columns is None else sorted(site.columns.tolist())
    assert touched == expected


# -------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("axis", "shape"),
    [(1, (2, 3, 5)), (1, (2, 3, 4, 5)), (2, (2, 4, 3, 5)), (1, (6, 5))],
    ids=["plain", "heads behind", "heads before", "flat"],
)
def test_a_gate_meets_its_token(axis, shape):
    gate = torch.arange(6.0).reshape(2, 3)
    output = torch.ones(shape, dtype=torch.float64)
    product = spread_gate(Module("m", 0, "mlp.in", axis), gate, output) * output
    assert product.dtype == output.dtype
    if axis == 2:
        product = product.transpose(1, 2)
    per_token = product.reshape(2, 3, -1)
    assert torch.equal(per_token, gate.double()[..., None].expand_as(per_token))


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 4, 5)), (2, (2, 3, 5)), (2, (2, 3))])
def test_an_output_without_tokens_cannot_be_gated(axis, shape):
    message = r"module m does not keep a token axis in its output \(2, .*\); it cannot be gated"
    with pytest.raises(ValueError, match=message):
        spread_gate(Module("m", 0, "mlp.in", axis), torch.zeros(2, 3), torch.zeros(shape))


# ------------------------------------------------------------------------------------------ unknown


def test_an_architecture_without_a_map():
    config = HeliumConfig(
        vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    message = (
        r"architecture HeliumForCausalLM has no map of its modules in TransformerLens .*; "
        r"supported: .*GPT2LMHeadModel.*LlamaForCausalLM"
    )
    with pytest.raises(ValueError, match=message):
        find_sites(HeliumForCausalLM(config))
