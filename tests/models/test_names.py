"""Names of modules: groups, order, full names, and what a configuration says; without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

import sublim_mech
from sublim_mech.models.names import (
    FINAL,
    GROUPS,
    Dimensions,
    Module,
    attention_windows,
    block_of,
    cell_name,
    count_blocks,
    module_group,
    module_order,
    modules_named,
)

EMBED, HEAD = Module("e", -1, "embed"), Module("h", 2, "unembed")
NETWORK = [
    EMBED,
    *(
        Module(f"{layer}.{name}", layer, name)
        for layer in range(2)
        for name in ("ln1", "attn.q", "attn.o", "ln2", "mlp.in", "mlp.out")
    ),
    Module("n", 2, "ln_final"),
    HEAD,
]


def test_names_need_no_torch():
    """The module by itself; packages around it import what they like."""
    code = """
import sys, types
for name in ("sublim_mech", "sublim_mech.models"):
    package = types.ModuleType(name)
    package.__path__ = [f"{sys.argv[1]}/{name.replace('.', '/')}"]
    sys.modules[name] = package
import sublim_mech.models.names
assert not {"torch", "numpy", "transformers"} & set(sys.modules)
"""
    source = Path(sublim_mech.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(source)], check=True)


# -------------------------------------------------------------------------------------------- names


def test_full_names():
    expected = ["embed", "blocks.0.ln1", "blocks.0.attn.q"]
    assert [m.full_name(2) for m in NETWORK[:3]] == expected
    assert [m.full_name(2) for m in NETWORK[-3:]] == ["blocks.1.mlp.out", "ln_final", "unembed"]


@pytest.mark.parametrize(
    ("layer", "module", "name"),
    [
        (-1, "", "embed"),
        (-1, "pos_embed", "pos_embed"),
        (1, "", "blocks.1"),
        (1, "attn.q", "blocks.1.attn.q"),
        (2, "", "ln_final+unembed"),
        (2, "project_out", "project_out"),
        *((layer, module, module) for layer in (-1, 0, 2) for module in FINAL),
    ],
)
def test_cells_are_called_by_transformer_lens_names(layer, module, name):
    assert cell_name(layer, module, 2) == name


@pytest.mark.parametrize(
    ("layer", "name", "group"),
    [
        (-1, "embed", "embeddings"),
        (-1, "pos_embed", "embeddings"),
        (-1, "embed_ln", "norms"),
        (0, "ln1", "norms"),
        (0, "ln2_post", "norms"),
        (0, "attn.q_norm", "norms"),
        (0, "attn.q_layernorm.norms.0", "norms"),
        (0, "attn.qkv", "attention"),
        (0, "attn.o", "attention"),
        (0, "mlp.gate_up_proj", "mlp"),
        (0, "router", None),
        (1, "project_in", "embeddings"),
        (1, "project_out", "head"),
        (1, "ln_final", "norms"),
        (1, "unembed", "head"),
    ],
)
def test_groups(layer, name, group):
    assert module_group(Module("path", layer, name)) == group
    assert group is None or group in GROUPS


def test_modules_sort_in_the_order_of_the_computation():
    names = [
        "embed", "pos_embed", "ln1", "attn.q", "ln1_post", "ln2", "mlp.in", "ln2_post", "ln_final",
        "unembed", "router",
    ]  # fmt: skip
    backwards = names[::-1]
    assert sorted(backwards, key=module_order) == names
    assert module_order("attn") == module_order("attn.o") == module_order("attn.q_norm")
    assert module_order("attnx") == module_order("router")


def test_blocks_are_where_attention_and_mlp_are():
    assert count_blocks(NETWORK) == 2
    assert count_blocks([EMBED, HEAD]) == count_blocks([]) == 0


def test_the_block_of_a_path():
    paths = ["model.layers.11.mlp.up_proj", "transformer.h.0.attn.c_attn", "lm_head", "a.b.3"]
    assert [block_of(path) for path in paths] == [11, 0, None, None]
    assert block_of("model.layers.2.experts.7.up") == 2


# ------------------------------------------------------------------------------------------ look-up


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("attn.q", ["0.attn.q", "1.attn.q"]),
        ("q", ["0.attn.q", "1.attn.q"]),
        ("blocks.1.mlp.out", ["1.mlp.out"]),
        ("ln1", ["0.ln1", "1.ln1"]),
        ("embed", ["e"]),
        ("ln_final", ["n"]),
        ("norms", ["0.ln1", "0.ln2", "1.ln1", "1.ln2", "n"]),
        ("head", ["h"]),
        ("mlp", ["0.mlp.in", "0.mlp.out", "1.mlp.in", "1.mlp.out"]),
    ],
)
def test_what_a_name_means(name, paths):
    assert [m.path for m in modules_named(name, NETWORK)] == paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nrms", r"modules\('nrms'\) is no module of this model; did you mean 'norms'\? Groups: "),
        ("attn.p", r"did you mean 'attn\.q' or 'attn\.o'"),
        ("blocks.2.attn.q", r"did you mean 'blocks\.1\.attn\.q'"),
        ("###", r"modules\('###'\) is no module of this model\. Groups: attention, mlp, norms, "),
        ("###", r"embeddings, head; modules: embed, ln1, attn\.q, attn\.o, ln2, mlp\.in, mlp\.out"),
        ("out", r"modules\('out'\) may be any of mlp\.out, attn\.out; give the whole name"),
    ],
)
def test_a_name_that_means_nothing_or_several_things(name, message):
    network = [*NETWORK, Module("x", 0, "attn.out")] if name == "out" else NETWORK
    with pytest.raises(ValueError, match=message):
        modules_named(name, network)


# ------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_dimensions_of_every_architecture(architecture):
    size = Dimensions.of(tiny.CONFIGS[architecture]())
    grouped = architecture not in ("gpt2", "neox", "opt")
    assert size == Dimensions(
        layers=tiny.LAYERS,
        width=32,
        heads=4,
        kv_heads=2 if grouped else 4,
        d_head=8,
        inner=128 if architecture == "gpt2" else 48,
        vocabulary=tiny.VOCAB,
    )


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({}, {None: None}),
        ({"sliding_window": 16}, {None: 16}),
        ({"layer_types": ["full_attention"], "sliding_window": 16}, {None: None}),
        ({"layer_types": ["full_attention", "sliding_attention"]}, {None: None}),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16},
            {"full_attention": None, "sliding_attention": 16},
        ),
        ({"layer_types": None, "sliding_window": 16}, {None: 16}),
    ],
)
def test_how_far_back_attention_sees(fields, windows):
    assert attention_windows(SimpleNamespace(**fields)) == windows
