"""Masks of blocks and modules, against the modules themselves."""

import re

import numpy as np
import pytest
import stateful
import tiny
from mask_cases import DEPTH, assert_same, marked_prompts, model, network

from sublim_mech import masks
from sublim_mech.models.names import Module
from sublim_mech.models.sites import find_sites

GROUPS = ("attention", "mlp", "norms", "embeddings", "head")


@pytest.fixture(scope="module")
def owl(smol_tokenizer):
    return marked_prompts(smol_tokenizer)[0]


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_every_module_is_in_exactly_one_group(owl, architecture):
    modules = network(architecture)
    member = np.stack([masks.modules(group)(owl, modules)[0] for group in GROUPS])
    wrong = [m for m, groups in zip(modules, member.sum(0), strict=True) if groups != 1]
    assert not wrong
    assert member.any(1).all(), "no group is empty"


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_groups_are_what_the_modules_are(owl, architecture):
    """Against the modules themselves: their class, and the output they lead to."""
    modules = network(architecture)
    group_of = {}
    for group in GROUPS:
        inside = masks.modules(group)(owl, modules)[0]
        group_of |= {m.path: group for m, on in zip(modules, inside, strict=True) if on}
    head = model(architecture).get_output_embeddings()
    for path, group in group_of.items():
        module = model(architecture).get_submodule(path)
        kind = type(module).__name__
        assert (group == "embeddings") == ("Embedding" in kind), path
        assert (group == "norms") == ("Norm" in kind), path
        assert (group == "head") == (module is head), path
        projection_of_attention = kind in ("Linear", "Conv1D") and "att" in path
        assert (group == "attention") == projection_of_attention, path


def test_names_by_hand(owl):
    def chosen(architecture, *names):
        modules = network(architecture)
        inside = masks.modules(*names)(owl, modules)[0]
        return [(m.layer, m.name) for m, on in zip(modules, inside, strict=True) if on]

    every = range(DEPTH)
    assert chosen("llama", "attn.q") == chosen("llama", "q") == [(i, "attn.q") for i in every]
    assert chosen("llama", "out") == chosen("llama", "mlp.out") == [(i, "mlp.out") for i in every]
    gpt2 = chosen("gpt2", "blocks.1.attn.qkv", "ln_final")
    assert gpt2 == [(1, "attn.qkv"), (DEPTH, "ln_final")]
    assert chosen("phi3", "gate_up_proj") == [(i, "mlp.gate_up_proj") for i in every]
    norms = ("attn.q_norm", "attn.k_norm", "ln1", "ln1_post", "ln2", "ln2_post")
    assert chosen("gemma3", "norms")[:6] == [(0, name) for name in norms]
    assert chosen("opt", "embeddings") == [(-1, "embed"), (-1, "pos_embed")]
    assert chosen("neox", "head", "embed") == [(-1, "embed"), (DEPTH, "unembed")]
    ln1 = [(i, "ln1") for i in every]
    assert chosen("neox", "ln1") == ln1, "not blocks.{i}.ln1 of one block only"


def test_norms_embeddings_and_projections_of_other_families(owl):
    """Names that TransformerLens gives in Bloom, StableLM and OPT-350m."""
    group_of = {
        Module("a", -1, "embed"): "embeddings",
        Module("b", -1, "embed_ln"): "norms",
        Module("c", 0, "attn.q_layernorm.norms.0"): "norms",
        Module("d", 0, "attn.o"): "attention",
        Module("e", 0, "mlp.gate"): "mlp",
        Module("f", 1, "project_in"): "embeddings",
        Module("g", 1, "project_out"): "head",
        Module("h", 1, "unembed"): "head",
    }
    modules = list(group_of)
    for group in GROUPS:
        inside = masks.modules(group)(owl, modules)[0]
        chosen = [module for module, on in zip(modules, inside, strict=True) if on]
        assert chosen == [module for module in modules if group_of[module] == group]


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_layers_are_the_blocks_and_nothing_else(owl, architecture):
    modules = network(architecture)
    for k in range(DEPTH):
        inside = masks.layers(k)(owl, modules)[0]
        for module, on in zip(modules, inside, strict=True):
            assert on == bool(re.search(rf"\.{k}\.", module.path)), module.path
    outside = ~masks.layers(range(DEPTH))(owl, modules)[0]
    names = {m.name for m, on in zip(modules, outside, strict=True) if on}
    assert names <= {"embed", "pos_embed", "ln_final", "unembed"}
    both = masks.layers(0) | masks.layers(np.int64(1))
    assert_same(masks.layers([1, 0, 1]), both, owl, modules)
    message = rf"layers\(range\(0, {DEPTH + 1}\)\): the model has the blocks 0 to {DEPTH - 1}"
    with pytest.raises(ValueError, match=message):
        masks.layers(range(DEPTH + 1))(owl, modules)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "atention",
            "modules('atention') is no module of this model; did you mean 'attention'? Groups:",
        ),
        ("attn.qq", "; did you mean 'attn.q' or "),
        ("blocks.1.attn.qw", "; did you mean 'blocks.1.attn.q' or "),
        ("blocks.9.attn.q", "modules('blocks.9.attn.q') is no module of this model; did you mean"),
        (
            "attn.qkv",
            "Groups: attention, mlp, norms, embeddings, head; modules: embed, attn.q, attn.k, "
            "attn.v, attn.o, mlp.gate",
        ),
        ("blocks.3.unembed", "modules('blocks.3.unembed') is no module of this model; did you"),
        ("#", "modules('#') is no module of this model. Groups: attention"),
    ],
)
def test_an_unknown_module_is_an_error_with_its_neighbours(owl, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        masks.modules("mlp", name)(owl, network("llama"))


@pytest.mark.parametrize("blocks", [{2, 0}, np.array([2, 0]), iter([2, 0]), (2, 0, 2)])
def test_blocks_in_whatever_they_are_kept(owl, blocks):
    assert_same(masks.layers(blocks), masks.layers([0, 2]), owl, network("llama"))
    with pytest.raises(TypeError, match=r"0\.5 is not a whole number"):
        masks.layers(iter([0.5]))


def test_a_last_part_of_several_names_is_refused(owl):
    modules = [Module("a", 0, "attn.out"), Module("b", 0, "mlp.out")]
    message = r"modules\('out'\) may be any of attn.out, mlp.out; give the whole name"
    with pytest.raises(ValueError, match=message):
        masks.modules("out")(owl, modules)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masks.layers([]), ValueError, "layers([]) is empty"),
        (
            lambda: masks.layers(-1),
            ValueError,
            "layers(-1): blocks count from 0; what lies outside them is modules('embeddings')",
        ),
        (
            lambda: masks.layers("3"),
            TypeError,
            "a list of whole numbers; without quotes: blocks=3.",
        ),
        (
            lambda: masks.modules(),
            ValueError,
            "modules() is empty; give at least one of attention, mlp, norms, embeddings, head",
        ),
        (lambda: masks.modules(["mlp"]), TypeError, "pass a text; unpack it: *['mlp']."),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_blocks_without_attention_and_mlp_are_blocks_too(smol_tokenizer):
    """Mamba's hold a mixer, and are counted by their paths."""
    modules = list(find_sites(stateful.model("mamba2")).modules.values())
    prompt = marked_prompts(smol_tokenizer)[0]
    inside = masks.layers([2])(prompt, modules)[0]
    assert {m.layer for m, on in zip(modules, inside, strict=True) if on} == {2}
    with pytest.raises(ValueError, match="the model has the blocks 0 to 2"):
        masks.layers([3])(prompt, modules)
