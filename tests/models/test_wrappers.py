"""Text models inside wrappers: their text is right, their towers have no part in it."""

import copy
import functools

import architectures
import pytest
import tiny
import torch
import transformers
from architecture_table import QUESTIONS, TRAIT, examine, student_of
from pairs import QUIET, brute_force
from transformers import Gemma3ForCausalLM, MistralForCausalLM, Qwen2ForCausalLM

import sublim_mech as sm
from sublim_mech.arguments import check
from sublim_mech.engine.beginnings import stack_gates
from sublim_mech.models.adapters import attach_lora
from sublim_mech.models.keys import Layout
from sublim_mech.models.names import length_limit
from sublim_mech.models.refusals import refused
from sublim_mech.models.wrappers import asides, text_root

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WRAPPERS = {
    "Gemma3ForConditionalGeneration": Gemma3ForCausalLM,
    "Mistral3ForConditionalGeneration": MistralForCausalLM,
    "Qwen2_5_VLForConditionalGeneration": Qwen2ForCausalLM,
}
SAMPLE = (
    "Gemma3ForConditionalGeneration", "Qwen3VLForConditionalGeneration",
    "FalconForCausalLM, grouped",
)  # fmt: skip
MORE = ("Gemma4ForCausalLM", "FalconForCausalLM", "GraniteForCausalLM")


WHOLE = {
    ("DeepseekV4ForCausalLM", "lora"): r"adapter on model.layers.0.self_attn.o_a_proj, which is m",
    ("Llama4ForCausalLM", "lora"): r"adapter on model.layers.1.feed_forward.router, which is more",
    ("DeepseekV4ForCausalLM", "full"): r"self_attn.sinks: what an attention has beside its projec",
}
"""What is refused for what it is, when the pair is loaded."""


@functools.cache
def wrapper(name):
    return architectures.model(name)


@functools.cache
def text_model(name):
    """The wrapper's text model by itself, as its own class has it."""
    whole = wrapper(name)
    config = copy.deepcopy(whole.config.get_text_config())
    kind = WRAPPERS[name]
    if kind is Qwen2ForCausalLM:
        fields = {k: v for k, v in config.to_dict().items() if k != "model_type"}
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
        config = transformers.Qwen2Config(**fields)
    model = kind(config).eval()
    model.model.load_state_dict(whole.get_submodule(text_root(whole)).state_dict())
    model.lm_head.load_state_dict(whole.get_output_embeddings().state_dict())
    return model


@functools.cache
def tokenizer():
    return architectures.tokenizer()


def is_exact(pair, student):
    prompts = sm.render(pair, QUESTIONS, context=sm.Context(system=sm.Context.NONE))
    found = sm.effect(pair, prompts, TRAIT, **QUIET).data["student"].values[0]
    expected = [brute_force(student, tokenizer(), prompt, TRAIT) for prompt in prompts]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.science) for name in MORE)]
)
def test_an_architecture_is_right_under_every_instrument(name):
    row = examine(name, "lora")
    assert row.status == "right", row.told


def test_a_tower_has_no_gates():
    model = wrapper("Gemma3ForConditionalGeneration")
    pair = sm.load_pair(model, tiny.full(model), tokenizer=tokenizer())
    assert asides(model)
    assert not any("vision" in path or "projector" in path for path in pair.sites.modules)
    assert not any("vision" in path or "projector" in path for path in pair.delta)
    assert any("no text runs through" in note for note in pair.notes())
    assert {p.layer for p in pair.sites.modules.values()} == {-1, 0, 1, 2}


def test_a_student_that_changes_only_the_tower_is_told():
    model = wrapper("Gemma3ForConditionalGeneration")
    student = copy.deepcopy(model)
    student.model.vision_tower.embeddings.patch_embedding.weight.data += 1
    pair = sm.load_pair(model, student, tokenizer=tokenizer())
    assert not pair.delta
    assert any("changes 1 module" in note for note in pair.notes())


def test_the_length_limit_is_the_text_models():
    model = wrapper("Gemma3ForConditionalGeneration")
    assert length_limit(model.config) == 256
    pair = sm.load_pair(model, tiny.lora(model), tokenizer=tokenizer())
    with pytest.raises(ValueError, match="the model has 256"):
        sm.effect(pair, sm.render(pair, ["Name the bird. " * 20]), TRAIT, **QUIET)


def test_lora_is_attached_to_the_text_model_alone():
    base = sm.load_base(wrapper("Gemma3ForConditionalGeneration"), tokenizer=tokenizer())
    for targets in ("all-linear", ["q_proj"]):
        adapted = attach_lora(base, rank=2, alpha=4, targets=targets)
        names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
        assert names
        assert not any("vision" in name or "projector" in name for name in names)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_was_written_for_the_text_model_alone_goes_into_the_wrapper_and_back(
    name, kind, tmp_path
):
    make = tiny.lora if kind == "lora" else tiny.full
    whole, alone = wrapper(name), text_model(name)
    for base, student in ((whole, make(alone)), (alone, make(whole)), (whole, make(whole))):
        folder = tmp_path / type(student).__name__ / type(base).__name__
        student.save_pretrained(folder)
        is_exact(sm.load_pair(base, str(folder), tokenizer=tokenizer()), student)
        if kind == "full":
            is_exact(sm.load_pair(base, student, tokenizer=tokenizer()), student)


def test_a_live_adapter_of_another_layout_is_refused_with_the_way_out():
    name = "Gemma3ForConditionalGeneration"
    with pytest.raises(ValueError, match=r"live adapter on a Gemma3ForCausalLM.*save_pretrained"):
        sm.load_pair(wrapper(name), tiny.lora(text_model(name)), tokenizer=tokenizer())


def test_an_adapter_of_another_model_is_none_of_a_wrapper(tmp_path):
    tiny.lora(architectures.model("GPTNeoXForCausalLM")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter of another model"):
        sm.load_pair(
            wrapper("Gemma3ForConditionalGeneration"), str(tmp_path), tokenizer=tokenizer()
        )


@pytest.mark.parametrize("old", ["model", "language_model.model", "model.language_model"])
def test_the_layouts_of_a_text_model(old):
    layout = Layout.of(wrapper("Gemma3ForConditionalGeneration"))
    here = "model.language_model.layers.1.self_attn.q_proj"
    assert layout.here(f"{old}.layers.1.self_attn.q_proj") == here
    assert layout.split(f"{old}.layers.1.self_attn.q_proj.lora_A.weight") == (here, "lora_A.weight")
    assert layout.pattern(rf"^{old}.layers.0".replace(".", r"\.")) == (
        r"^model\.language_model\.layers\.0"
    )
    assert layout.split("model.vision_tower.no.such.weight") is None


@pytest.mark.parametrize("old", ["model", "language_model.model", "model.language_model"])
@pytest.mark.parametrize("here", ["model", "model.language_model"])
def test_names_in_patterns_are_those_of_the_model(old, here):
    """`model.` begins `model.language_model.` and ends `language_model.`."""
    kind = wrapper if here == "model.language_model" else text_model
    layout = Layout.of(kind("Gemma3ForConditionalGeneration"))
    for before, behind in (("", ".layers.0.mlp"), ("^", r".layers.0.*"), (".*", ".embed_tokens")):
        assert layout.pattern(f"{before}{old}{behind}") == f"{before}{here}{behind}"
    assert layout.pattern("layers.0.mlp") == "layers.0.mlp"


def test_ranks_and_scales_of_an_adapter_hold_in_another_layout(tmp_path):
    name = "Gemma3ForConditionalGeneration"
    whole, alone = wrapper(name), text_model(name)
    place = "model.language_model.layers.0.self_attn.q_proj"
    patterns = {"alpha_pattern": {place: 16}, "rank_pattern": {place: 2}}
    for base, made_on, at in (
        (alone, whole, place),
        (whole, alone, place.replace(".language_model", "")),
    ):
        renamed = {kind: {at: value} for kind, of in patterns.items() for value in of.values()}
        student = tiny.lora(made_on, target_modules=["q_proj"], std=0.02, **renamed)
        folder = tmp_path / type(base).__name__
        student.save_pretrained(folder)
        is_exact(sm.load_pair(base, str(folder), tokenizer=tokenizer()), student)


def test_a_tensor_that_is_written_into_later_is_kept_as_it_was():
    """Falcon adds the attention's output to the MLP's in place."""
    model = architectures.model("FalconForCausalLM")
    pair = sm.load_pair(model, tiny.lora(model), tokenizer=tokenizer())
    written = [name for name, site in pair.sites.sites.items() if site.written]
    assert written == ["mlp_out"]
    prompts = sm.render(pair, ["Hi"])
    at = pair.activations(prompts, ["resid_pre", "attn_out", "mlp_out", "resid_post"], model="base")
    for layer in range(2):
        before, attn, mlp, after = (
            at[f"blocks.{layer}.hook_{name}"]
            for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        torch.testing.assert_close(before + attn + mlp, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("parts", [("FalconForCausalLM, grouped", 2), ("FalconForCausalLM", 1)])
def test_heads_of_a_fused_projection(parts):
    name, kv_heads = parts
    sites = sm.models.find_sites(architectures.model(name))
    assert sites.heads == {"z": 4, "q": 4, "k": kv_heads, "v": kv_heads}


def test_what_fails_inside_another_library_is_refused_in_a_sentence():
    model = architectures.model("LlamaForCausalLM")
    model.model.norm.forward = lambda hidden: hidden.no_such_thing
    with pytest.raises(ValueError, match=r"architecture LlamaForCausalLM cannot be analysed: its"):
        sm.load_pair(model, tiny.lora(model), tokenizer=tokenizer())


def test_blocks_that_share_their_weights_have_no_layer():
    model = architectures.model("LlamaForCausalLM")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ValueError, match="are one weight, so that what a student changes there"):
        sm.models.find_sites(model)


@pytest.mark.parametrize(("name", "kind"), WHOLE)
def test_what_cannot_be_gated_is_refused_for_what_it_is(name, kind):
    base = wrapper(name)
    with pytest.raises(ValueError, match=WHOLE[name, kind]):
        sm.load_pair(base, student_of(base, kind), tokenizer=tokenizer())


def test_a_recurrent_layer_is_gated_whole():
    """Its gates are stacks of matrices, but no experts."""
    row = examine("RecurrentGemmaForCausalLM", "full")
    assert (row.status, row.sites) == ("right", ("resid_pre", "resid_post"))


def test_what_torch_says_of_shapes_in_a_line_of_ours_is_no_reason():
    """What this library raises itself has said why; a failed product has not."""
    fails = r"architecture Linear cannot be analysed: its run fails \(RuntimeError: The expanded"
    with pytest.raises(ValueError, match=fails), refused(torch.nn.Linear(1, 1), "its run"):
        stack_gates([torch.zeros(5)], torch.Size([1, 3]))
    with pytest.raises(TypeError, match="layers=5"), refused(torch.nn.Linear(1, 1), "its run"):
        check("patch", "layers", 5, list[int])
