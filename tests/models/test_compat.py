"""Other people's private names: each test says what moved when an upgrade moves it.

A name that is gone fails first, with the sentence; what it does is tested behind it.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from types import SimpleNamespace
from typing import Any

import architectures
import pytest
import tiny
import torch
from loading import adapter
from loading import model as shared_model
from peft.tuners import lora as peft_lora
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM, Trainer, TrainingArguments
from transformers.utils import logging

from sublim_mech.making.training.loop import Loop
from sublim_mech.models import compat

IDS = torch.linspace(3, tiny.VOCAB - 7, 40).long()[None]  # longer than the tiny sliding windows
SLOT = 25
# whatever our calls are warned of fails a test; PEFT warns of tied weights
pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


def moved(what: str) -> str:
    """The sentence of a failure."""
    return f"{what} has moved: look for it in the installed version and mend models/compat.py"


def quietly(make: Any, *args: Any, **options: Any) -> Any:
    """Call PEFT where it uses names that transformers warns of."""
    with compat.quiet_transformers():
        return make(*args, **options)


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny.model(request.param)


def causal(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """An additive mask `(1, 1, query, key)`: what stands before, no further back than a window."""
    distance = queries[:, None] - keys[None, :]
    sees = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]


def mask_of(model: Any, first: int) -> Tensor | dict[str, Tensor]:
    """The mask of the slots from `first` on, as the architecture takes it."""
    keys = torch.arange(IDS.shape[1])
    window = getattr(model.config, "sliding_window", None)
    kinds = set(getattr(model.config, "layer_types", None) or ())
    if not kinds:
        return causal(keys[first:], keys, window)
    windows = {"full_attention": None, "sliding_attention": window}
    masks = {kind: causal(keys[first:], keys, windows[kind]) for kind in kinds}
    # Gemma takes one mask per type of layer; Qwen, which also names types, has one type here
    return masks if len(kinds) > 1 else masks.popitem()[1]


def test_a_forward_in_two_pieces_is_the_forward_in_one(model):
    """`make_cache`, `read_cache` and `call_model` fit the installed transformers, unwarned."""
    everywhere = torch.arange(IDS.shape[1])[None]
    with torch.no_grad():
        plain = model(input_ids=IDS, use_cache=False).logits
        whole = compat.call_model(model, ids=IDS)
        cache = compat.make_cache((), 1)
        compat.call_model(model, ids=IDS, mask=mask_of(model, 0), positions=everywhere, cache=cache)
        full = compat.read_cache(cache)
        past = [(keys[:, :, :SLOT], values[:, :, :SLOT]) for keys, values in full]
        two = compat.make_cache(past, 2)
        mask = mask_of(model, SLOT)
        rest = compat.call_model(
            model,
            ids=IDS[:, SLOT:].expand(2, -1),
            mask=mask,
            positions=everywhere[:, SLOT:].expand(2, -1),
            cache=two,
        )
    gone = moved("transformers' DynamicCache, or how a model takes it,")
    assert torch.equal(whole.logits, plain), gone
    assert len(full) == tiny.LAYERS, gone
    for layer in full:
        assert layer.keys.shape == layer.values.shape == (1, layer.keys.shape[1], 40, 8), gone
    for row in rest.logits:
        torch.testing.assert_close(row, plain[0, SLOT:], atol=1e-5, rtol=0, msg=gone)
    for whole_layer, layer in zip(full, compat.read_cache(two), strict=True):
        for row in layer.keys:
            torch.testing.assert_close(row, whole_layer.keys[0], atol=1e-5, rtol=0, msg=gone)


def test_gradients_flow_through_a_cache(model):
    """To what is behind the cache, and to the keys and values in it."""
    cache = compat.make_cache((), 1)
    with torch.no_grad():
        compat.call_model(model, ids=IDS[:, :SLOT], cache=cache)
    past = [
        (layer.keys.requires_grad_(True), layer.values.requires_grad_(True))
        for layer in compat.read_cache(cache)
    ]
    leaves = [tensor for layer in past for tensor in layer]
    out = compat.call_model(
        model,
        ids=IDS[:, SLOT:],
        mask=mask_of(model, SLOT),
        positions=torch.arange(SLOT, IDS.shape[1])[None],
        cache=compat.make_cache(past, 1),
    )
    weight = model.get_input_embeddings().weight
    gradients = torch.autograd.grad(out.logits[0, -1, 5], [*leaves, weight])
    # the last block's keys of the first slots may lie outside its window: some, not all, are zero
    assert all(bool(g.isfinite().all()) and float(g.abs().max()) > 0 for g in gradients)


def test_a_peft_model_takes_a_cache_as_the_model_inside_it_does():
    student = quietly(tiny.lora, shared_model())
    cache = compat.make_cache((), 1)
    with torch.no_grad():
        compat.call_model(student, ids=IDS[:, :SLOT], cache=cache)
        rest = compat.call_model(student, ids=IDS[:, SLOT:], cache=cache, logits_to_keep=1)
        plain = student(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(rest.logits[0, -1], plain[0, -1], atol=1e-5, rtol=0)


def test_no_cache_for_a_model_that_takes_none():
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            return input_ids

    assert compat.call_model(Plain(), ids=IDS) is IDS
    with pytest.raises(TypeError, match=r"Plain\.forward takes no cache of keys and values"):
        compat.call_model(Plain(), ids=IDS, cache=compat.make_cache((), 1))


# -------------------------------------------------------------------- transformers: what models are


def test_the_attention_kernel_is_the_one_that_runs():
    model = copy.deepcopy(shared_model())
    assert compat.attention_kernel(model) == "sdpa", moved("config._attn_implementation")
    model.set_attn_implementation("eager")
    assert compat.attention_kernel(model) == "eager", moved("config._attn_implementation")


def test_models_that_keep_more_than_keys_and_values():
    config = MambaConfig(vocab_size=9, hidden_size=8, state_size=2, num_hidden_layers=1)
    mamba = quietly(MambaForCausalLM, config)
    assert compat.is_stateful(mamba), moved("PreTrainedModel._is_stateful")
    assert not compat.is_stateful(shared_model())


def test_a_model_from_a_gguf_can_be_saved_once_its_marks_are_gone(tmp_path):
    model = copy.deepcopy(shared_model())
    model.config.quantization_config = {"quant_method": "gguf"}
    marks = SimpleNamespace(quant_method="gguf")
    model.hf_quantizer, model.is_quantized = SimpleNamespace(quantization_config=marks), True
    with pytest.raises(ValueError, match="serializable"):  # else nothing is needed
        model.save_pretrained(tmp_path / "marked")
    compat.forget_quantisation(model)
    model.save_pretrained(tmp_path / "plain")
    text = (tmp_path / "plain" / "config.json").read_text()
    assert "quantization_config" not in text, moved("the mark that transformers leaves on GGUFs")


def test_activations_are_checkpointed():
    model = copy.deepcopy(shared_model())
    compat.checkpoint_activations(model)
    assert model.is_activation_checkpointing, moved("activation_checkpointing_enable")


def test_a_batch_stays_on_one_device(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    _ = arguments.n_gpu
    assert hasattr(arguments, "_n_gpu"), moved("TrainingArguments._n_gpu")
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4, moved("TrainingArguments._n_gpu")
    compat.use_one_device(arguments)
    assert arguments.n_gpu == 1
    arguments._n_gpu = 0
    compat.use_one_device(arguments)
    assert arguments.n_gpu == 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_get_train_sampler", ["train_dataset"]),
        ("_get_grad_norm", ["model", "grad_norm"]),
        ("_save_checkpoint", ["model", "trial"]),
        ("_load_from_checkpoint", ["resume_from_checkpoint", "model"]),
        ("_load_optimizer_and_scheduler", ["checkpoint"]),
        ("_load_rng_state", ["checkpoint"]),
        ("_load_scaler", ["checkpoint"]),
    ],
)
def test_the_trainer_calls_what_the_loop_overrides(name, parameters):
    assert hasattr(Trainer, name), moved(f"Trainer.{name}, which Loop overrides,")
    called = list(inspect.signature(getattr(Trainer, name)).parameters)
    assert called == ["self", *parameters], moved(f"the call of Trainer.{name}")
    assert getattr(Loop, name) is not getattr(Trainer, name)
    assert name in str(compat.__doc__)


def test_what_loading_says_is_kept_quiet(capfd):
    logging.enable_progress_bar()
    level = logging.get_verbosity()
    with compat.quiet_transformers():
        warnings.warn("peft about transformers", FutureWarning, stacklevel=1)
        assert not logging.is_progress_bar_enabled()
        logging.get_logger("transformers").warning("a warning")
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level
    with pytest.raises(FutureWarning):
        warnings.warn("outside", FutureWarning, stacklevel=1)
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------- PEFT: wrappers


@pytest.fixture(scope="module")
def student() -> Any:
    return quietly(tiny.lora, shared_model())


def test_the_model_inside_a_peft_model(student):
    inside = compat.inside_peft(student)
    assert type(inside) is type(shared_model()), moved("PeftModel.get_base_model")
    assert compat.inside_peft(inside) is inside


def test_a_model_without_the_mark_of_adapters_is_plain():
    model = copy.deepcopy(shared_model())
    gone = moved("PreTrainedModel._hf_peft_config_loaded")
    assert type(model)._hf_peft_config_loaded is False, gone
    model._hf_peft_config_loaded = True  # as transformers' add_adapter does
    compat.forget_adapters(model)
    assert model._hf_peft_config_loaded is False


def test_wrappers_and_what_is_inside_them():
    clean = shared_model("gpt2")
    plain = quietly(adapter, "gpt2", "lora_bias")
    layer = plain.get_base_model().transformer.h[0].attn.c_attn
    gone = moved("PEFT's BaseTunerLayer.base_layer")
    assert compat.is_adapter(layer), gone
    assert type(compat.wrapped_module(layer)) is type(clean.transformer.h[0].attn.c_attn), gone
    assert compat.innermost(layer) is layer.base_layer, gone
    assert compat.computing_module(layer) is layer

    saved = quietly(adapter, "gpt2", "modules_to_save").get_base_model().lm_head
    gone = moved("PEFT's ModulesToSaveWrapper")
    assert type(saved) is ModulesToSaveWrapper, gone
    assert type(compat.wrapped_module(saved)) is nn.Linear, gone
    assert compat.computing_module(saved) is saved.modules_to_save["default"], gone
    assert not compat.is_adapter(saved)

    tokens = quietly(adapter, "gpt2", "trained tokens").get_base_model().transformer.wte
    gone = moved("PEFT's TrainableTokensWrapper")
    assert type(tokens) is TrainableTokensWrapper, gone
    assert compat.is_adapter(tokens), gone
    assert type(compat.wrapped_module(tokens)) is nn.Embedding, gone
    assert type(compat.innermost(tokens)) is nn.Embedding, gone

    for module in (clean, clean.transformer.wte):
        assert compat.wrapped_module(module) is None
        assert compat.innermost(module) is compat.computing_module(module) is module
        assert not compat.is_adapter(module)


def test_an_adapter_that_is_switched_off():
    made = quietly(tiny.lora, shared_model())
    assert compat.switched_off(made) is None
    made.base_model.disable_adapter_layers()
    path = compat.switched_off(made)
    assert path is not None, moved("PEFT's BaseTunerLayer.disable_adapters")
    assert made.get_submodule(path).disable_adapters


def test_pairs_of_a_plain_lora_layer(student):
    layer = student.get_base_model().model.layers[0].mlp.up_proj
    gone = moved("what PEFT's lora.Linear holds (lora_A, lora_B, scaling, lora_variant, lora_bias)")
    assert type(layer) is peft_lora.Linear, gone
    (pair,) = compat.lora_pairs(layer)
    assert (pair.a.shape, pair.b.shape, pair.scale) == ((4, 32), (48, 4), 8 / 4), gone
    x = torch.ones(1, 32)
    with torch.no_grad():
        change = pair.scale * (x @ pair.a.T @ pair.b.T)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + change, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["dora", "lora_bias"])
def test_what_is_more_than_a_pair_is_none(name):
    made = quietly(adapter, "llama", name)
    layer = made.get_base_model().model.layers[0].self_attn.v_proj
    assert type(layer) is peft_lora.Linear, moved("PEFT's lora.Linear")
    assert compat.lora_pairs(layer) is None, moved("PEFT's lora.Linear.lora_variant or lora_bias")
    assert compat.lora_pairs(layer.base_layer) is None


def test_a_merged_layer_is_no_pair():
    made = quietly(tiny.lora, shared_model())
    made.merge_adapter()
    layer = made.get_base_model().model.layers[0].self_attn.v_proj
    assert layer.merged, moved("PEFT's BaseTunerLayer.merged")
    assert compat.lora_pairs(layer) is None


@pytest.mark.parametrize("name", ["dora", "embedding adapter", "trained tokens", "lora_bias"])
def test_a_merged_copy_computes_what_the_wrapper_does(name):
    made = quietly(adapter, "llama", name).get_base_model()
    wrappers = [m for m in made.modules() if compat.is_adapter(m)]
    assert wrappers
    for wrapper in wrappers[:3]:
        merged = quietly(compat.merged_copy, wrapper)
        assert type(merged) in (nn.Linear, nn.Embedding)
        if type(merged) is nn.Linear:
            x = torch.linspace(-1, 1, merged.in_features)[None]
        else:
            x = torch.arange(4, 9)[None]
        with torch.no_grad():
            expected, given = wrapper(x), merged(x)
        torch.testing.assert_close(
            given, expected, atol=1e-5, rtol=0, msg=moved("PEFT's merge() of a layer")
        )


def test_names_in_an_adapter_file():
    made = quietly(adapter, "gpt2", "biases")
    names = {compat.base_name(key) for key in get_peft_model_state_dict(made)}
    own = {name for name, _ in shared_model("gpt2").named_parameters()}
    stored = {name for name in own if name.endswith(".bias")}
    assert stored <= names, moved("how PEFT names a base's tensors in an adapter file")


# ---------------------------------------------------------------------------------- TransformerLens


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_the_tree_of_components(architecture):
    """`name`, `submodules`, `hook_aliases` and `split_qkv_matrix` are there (`models.sites`)."""
    model = shared_model(architecture)
    tree = compat.lens_components(model)
    gone = moved("TransformerLens' map of components (_bridge_builder, ArchitectureAdapterFactory)")
    assert {"embed", "blocks", "ln_final", "unembed"} <= set(tree), gone
    block = tree["blocks"]
    assert len(model.get_submodule(block.name)) == tiny.LAYERS, gone
    assert {"attn", "mlp"} <= set(block.submodules), gone
    assert block.hook_aliases["hook_attn_out"] == "attn.hook_out", gone
    assert hasattr(block.submodules["attn"], "split_qkv_matrix") == (architecture != "llama"), gone
    assert model.config.architectures is None  # the configuration is read from a copy


def test_a_tokenizer_that_transformer_lens_takes_as_it_is(smol_tokenizer, monkeypatch):
    from transformer_lens.utilities import tokenize_utils

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(tokenize_utils.AutoTokenizer, "from_pretrained", refuse)
    made_with = dict(smol_tokenizer.init_kwargs)
    with compat.lens_tokenizer(smol_tokenizer) as given:
        assert given is smol_tokenizer
        taken = tokenize_utils.get_tokenizer_with_bos(given)
        assert taken is given, moved("TransformerLens' look at tokenizer.init_kwargs")
    assert smol_tokenizer.init_kwargs == made_with


def test_the_map_of_an_architecture_needs_no_library_that_reads_images():
    """`ArchitectureAdapterFactory._adapters` and `required_libraries` of its classes."""
    model = architectures.model("Qwen3VLForConditionalGeneration")
    components = compat.lens_components(model)
    assert components["blocks"].name == "model.language_model.layers"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("LlamaForCausalLM", "AutoModelForCausalLM"),
        ("Gemma3ForConditionalGeneration", "AutoModelForCausalLM"),
        ("Qwen3VLForConditionalGeneration", "AutoModelForImageTextToText"),
    ],
)
def test_which_class_reads_a_checkpoint(name, kind, tmp_path):
    """`_model_mapping` of transformers' `AutoModel...` classes."""
    architectures.CONFIGS[name]().save_pretrained(tmp_path)
    assert compat.auto_class(str(tmp_path)).__name__ == kind
