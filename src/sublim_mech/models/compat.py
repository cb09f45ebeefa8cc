"""The one room for what is private or passing in other people's libraries.

Everything here was seen in transformers 5.24.0, PEFT 0.21.2 and TransformerLens 4.3.0. Each name
has a test in `tests/models/test_compat.py` that fails with a sentence saying what moved, so that an
upgrade that breaks something breaks it there first, and is mended here alone.

Methods that a subclass of theirs must override stay with the subclass: `making.training.loop.Loop`
overrides `_get_train_sampler`, `_get_grad_norm`, `_save_checkpoint`, `_load_from_checkpoint`,
`_load_optimizer_and_scheduler`, `_load_rng_state` and `_load_scaler` of transformers' `Trainer`.
They are tested in the same place.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .names import BUILT_LIKE
from .peft_layers import Invocations, LoraPair, adds_bias, low_rank_pairs, tuned_copy

# -------------------------------------------------------------------- transformers: keys and values


class KeysValues(NamedTuple):
    """What a block's attention keeps of the slots it has seen.

    Attributes:
        keys: `(row, kv_head, slot, d_head)`.
        values: `(row, kv_head, slot, d_head)`.
    """

    keys: Tensor
    values: Tensor


Cache = tuple[KeysValues, ...]  # one per block


def make_cache(past: Sequence[tuple[Tensor, Tensor]], rows: int) -> Any:
    """A transformers cache of keys and values per block; no block forgets what leaves its window.

    transformers' own classes for sliding windows would, and would then count the slots otherwise
    than our masks do; so the cache is put together from plain layers.

    Args:
        past: per block the keys and values, of one row (then seen by all rows, as views) or of as
            many as there are rows.
        rows: number of rows of the forward that will use it.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def read_cache(cache: Any) -> Cache:
    """Keys and values per block of a transformers cache, as they stand in it."""
    return tuple(KeysValues(layer.keys, layer.values) for layer in cache.layers)


def call_model(
    model: Any,
    *,
    ids: Tensor,
    mask: Any = None,
    positions: Tensor | None = None,
    cache: Any = None,
    **options: Any,
) -> Any:
    """Call a causal language model of transformers or PEFT; what it gives has `logits`.

    The cache goes under the name that the installed transformers has for it: `cache`, in older
    versions `past_key_values`, of which 5.24 warns and which 5.40 takes no more. A model that is
    given none keeps none.

    Args:
        model: a transformers model, or a PEFT one around it.
        ids: `(row, slot)` token ids.
        mask: `(row, slot)` of ones and zeros, an additive mask `(row, 1, slot, key)`, or one per
            type of layer; None for plain causal attention.
        positions: `(row, slot)` position ids.
        cache: what `make_cache` gave; the forward appends its own keys and values to it.
        **options: handed on (`logits_to_keep`, ...).

    Raises:
        TypeError: a cache for a model that takes none.
    """
    if mask is not None:
        options["attention_mask"] = mask
    inner: Any = type(inside_peft(model))
    if positions is not None and _takes(inner.forward, "position_ids"):
        options["position_ids"] = positions
    if cache is not None:
        options[_cache_argument(inner.forward)] = cache
    return model(input_ids=ids, use_cache=cache is not None, **options)


@functools.cache
def _takes(forward: Any, name: str) -> bool:
    """Whether a model's forward knows an argument, by name or by taking all."""
    known = inspect.signature(forward).parameters
    return name in known or any(p.kind is p.VAR_KEYWORD for p in known.values())


@functools.cache
def _cache_argument(forward: Any) -> str:
    """What a model's forward calls its key-value cache."""
    known = inspect.signature(forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    raise TypeError(f"{forward.__qualname__} takes no cache of keys and values.")


# -------------------------------------------------------------------- transformers: what models are


def attention_kernel(model: Any) -> str:
    """The kernel a model's attention runs on: `eager`, `sdpa`, `flash_attention_2`, ..."""
    return getattr(model.config, "_attn_implementation", None) or "eager"


def auto_class(source: str) -> Any:
    """The `AutoModel...` class that reads a checkpoint: of causal language models, or of models
    that wrap one.

    Args:
        source: a folder or a hub id.

    Raises:
        OSError, ValueError: it has no configuration that transformers can read.
    """
    import transformers

    kind = type(transformers.AutoConfig.from_pretrained(source, trust_remote_code=False))
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        wrapping = getattr(transformers, name, None)
        causal = transformers.AutoModelForCausalLM._model_mapping
        if wrapping is not None and kind not in causal and kind in wrapping._model_mapping:
            return wrapping
    return transformers.AutoModelForCausalLM


def is_stateful(model: Any) -> bool:
    """Whether a model keeps more of the past than keys and values (Mamba and its like)."""
    return bool(getattr(model, "_is_stateful", False))


def forget_quantisation(model: Any) -> None:
    """Take the marks of quantisation off a model that transformers has dequantised from a GGUF.

    Its tensors are plain then, but a model that calls itself quantised cannot be saved.
    """
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def checkpoint_activations(model: Any) -> None:
    """Compute activations again in the backward pass; transformers gave the method a new name."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def use_one_device(arguments: Any) -> None:
    """Keep a `TrainingArguments` from spreading a batch over several GPUs by DataParallel."""
    _ = arguments.n_gpu  # settles the device, which would set the number again
    arguments._n_gpu = min(arguments.n_gpu, 1)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No weight-loading bars: they are noise beside our own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft and transformers about each other
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


# ----------------------------------------------------------------------------------- PEFT: wrappers


def inside_peft(model: Any) -> Any:
    """The transformers model in a `PeftModel`, its layers still wrapped; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def adapter_configs(model: Any) -> dict[str, Any]:
    """The configurations of a PEFT model's active adapters, by adapter; none of any other model."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return {}
    return {name: model.peft_config[name] for name in model.active_adapters}


def forget_adapters(model: Any) -> None:
    """Take the mark off that transformers puts on a model into which PEFT has put adapters."""
    model._hf_peft_config_loaded = False


def wrapped_module(module: Any) -> Any:
    """What PEFT has put a wrapper of whatever kind around; None where a module is no wrapper."""
    if not hasattr(module, "active_adapters"):
        return None
    return getattr(module, "original_module", None) or getattr(module, "base_layer", None)


def innermost(module: Any) -> Any:
    """The module inside all of PEFT's wrappers; a module without any as it is."""
    from peft.utils import TrainableTokensWrapper

    if isinstance(module, TrainableTokensWrapper):
        module = module.token_adapter
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def computing_module(module: nn.Module) -> nn.Module:
    """The active copy where PEFT trains copies of a whole module (`modules_to_save`, LayerNorm
    tuning).
    """
    from peft.utils import ModulesToSaveWrapper

    tuned = tuned_copy(module)
    if tuned is not None:
        return tuned
    if not isinstance(module, ModulesToSaveWrapper):
        return module
    active = [name for name in module.active_adapters if name in module.modules_to_save]
    return module.modules_to_save[active[0]] if active else module.original_module


def is_adapter(module: nn.Module) -> bool:
    """Whether a module is PEFT's wrapper around one whose computation it changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import TrainableTokensWrapper

    return isinstance(module, (BaseTunerLayer, TrainableTokensWrapper))


def switched_off(model: nn.Module) -> str | None:
    """The path of an adapter layer that is switched off, where there is one."""
    for path, module in model.named_modules():
        if getattr(module, "disable_adapters", False) is True:
            return path
    return None


def lora_pairs(module: Any, invoked: Invocations | None = None) -> list[LoraPair] | None:
    """The active updates of a layer; None where it is no plain sum of low-rank products
    (`peft_layers.low_rank_pairs`).
    """
    return low_rank_pairs(module, invoked or {})


def ready_bias(wrapper: Any) -> None:
    """Give the module inside PEFT's wrapper a bias of zeros where adapters bring one: PEFT adds a
    bias to a bias only.
    """
    inside: Any = innermost(wrapper)
    if adds_bias(wrapper) and inside.bias is None:
        kind = {"dtype": inside.weight.dtype, "device": inside.weight.device}
        inside.bias = nn.Parameter(torch.zeros(wrapper.out_features, **kind), requires_grad=False)


def merged_copy(wrapper: Any) -> nn.Module:
    """A copy of the module inside PEFT's wrapper, the adapters merged into it in fp32.

    Raises:
        NotImplementedError, RuntimeError, ValueError: PEFT cannot merge this adapter.
    """
    layer = copy.deepcopy(wrapper).float()
    inside: Any = innermost(layer)
    ready_bias(layer)
    layer = getattr(layer, "token_adapter", layer)
    while layer is not inside:  # wrappers may lie in wrappers
        layer.merge()
        layer = layer.base_layer
    return inside


def base_name(key: str) -> str:
    """The base model's name of a tensor in an adapter file, where the base has it."""
    return key.removeprefix("base_model.model.").replace(".base_layer.", ".")


# ---------------------------------------------------------------------------------- TransformerLens


def lens_components(model: nn.Module) -> dict[str, Any]:
    """TransformerLens' tree of an architecture's components, by its names.

    A component has `name` (its path below its parent; None where it is no module), `submodules`
    (components below it, by name or None) and `hook_aliases` (hook name -> component and end); an
    attention with a fused projection has `split_qkv_matrix`.

    Raises:
        ValueError: TransformerLens has no adapter for the architecture.
    """
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    architecture = BUILT_LIKE.get(type(model).__name__, type(model).__name__)
    config: Any = copy.deepcopy(model.config)
    try:
        bridge = build_bridge_config_from_hf(config, architecture, "sublim_mech", torch.float32)
        ArchitectureAdapterFactory.discover_entry_points()
        adapter = ArchitectureAdapterFactory._adapters[architecture]
        # the map is wanted, not the libraries that read images
        bare = type(adapter.__name__, (adapter,), {"required_libraries": []})
        return bare(bridge).component_mapping or {}
    except (
        ValueError, KeyError, AttributeError, NotImplementedError, ImportError,
    ) as error:  # fmt: skip
        decoders = ("ForCausalLM", "LMHeadModel")
        known = ", ".join(name for name in SUPPORTED_ARCHITECTURES if name.endswith(decoders))
        raise ValueError(
            f"architecture {architecture} has no map of its modules in TransformerLens ({error}); "
            f"supported: {known}."
        ) from error


@contextmanager
def lens_tokenizer(tokenizer: Any) -> Iterator[Any]:
    """A tokenizer that TransformerLens takes as it is while the context lasts.

    It takes one that was made with `add_bos_token`; any other it reads again from where it came,
    with calls to the hub, and without what was changed since.
    """
    made_with = dict(tokenizer.init_kwargs)
    tokenizer.init_kwargs = {"name_or_path": "", **made_with, "add_bos_token": True}
    try:
        yield tokenizer
    finally:
        tokenizer.init_kwargs = made_with
