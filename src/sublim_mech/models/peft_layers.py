"""PEFT's layers, adapter by adapter: which are low-rank pairs, which compute from a token on, which
are a copy of a module, and which cannot be told apart by module and token.

The part of `compat` that knows single methods. Everything here was seen in PEFT 0.21.2 and has a
test in `tests/models/test_adapters_named.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Invocations = Mapping[str, tuple[int, ...]]
"""Adapter -> the token ids that switch it on; none where it acts everywhere."""


class LoraPair(NamedTuple):
    """A plain low-rank update, `x -> scale * b(a(x))`.

    Attributes:
        a: `(rank, in)`.
        b: `(out, rank)`.
        scale: what the adapter's configuration makes of alpha and rank.
        invocation: the token ids from whose last occurrence in the prompt on it acts (aLoRA);
            everywhere where empty.
    """

    a: Tensor
    b: Tensor
    scale: float
    invocation: tuple[int, ...] = ()


# -------------------------------------------------------------------------------- whole models


def adapter_names(model: Any) -> tuple[str, ...]:
    """The adapters in a model, active or not: of a `PeftModel`, or of one that PEFT's layers were
    put into.
    """
    configs = getattr(model, "peft_config", None)
    return tuple(configs) if isinstance(configs, dict) else ()


def activate(model: Any, names: Sequence[str]) -> None:
    """Make these adapters of a model the active ones.

    Raises:
        ValueError: PEFT cannot have them active at once.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    if isinstance(model, PeftModel):
        if len(names) == 1:
            model.set_adapter(names[0])
        else:
            model.base_model.set_adapter(list(names))
        return
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            module.set_adapter(list(names) if len(names) > 1 else names[0])


def invocations(model: Any) -> Invocations:
    """The invocation tokens of a model's active adapters.

    Raises:
        ValueError: adapters that wait for tokens where PEFT's own forward does not look for them:
            beside others, or in a model without PEFT's own around it.
    """
    from peft import PeftModel

    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return {}
    found = {
        name: tuple(tokens)
        for name, config in configs.items()
        if (tokens := getattr(config, "alora_invocation_tokens", None))
    }
    if not found:
        return {}
    if not isinstance(model, PeftModel):
        raise ValueError(
            "its aLoRA adapter stands in a plain model, whose own forward never looks for the "
            "invocation tokens; pass the PeftModel around it"
        )
    active = list(model.active_adapters)
    if len(active) > 1 and any(name in found for name in active):
        raise ValueError(
            f"adapters {', '.join(active)} are active together and one of them is an aLoRA, for "
            "which PEFT looks for one adapter's invocation tokens only; name one, adapter=..."
        )
    return found


_REASONS = {
    "prefix": "it puts virtual tokens before the text, so that base and student see other "
    "positions and there is no weight to switch at a token",
    "attention": "it gives attention keys and values of its own, which are no weights of a module",
    "mixture": "how much of it acts is decided anew in every forward, from activations of other "
    "tokens or layers",
    "routed": "which of its parts act on a token is decided by that token's activation",
    "task": "which of its parts act is said by a task id beside the prompt",
}
_NO_WEIGHTS = {
    "PROMPT_TUNING": "prefix",
    "MULTITASK_PROMPT_TUNING": "prefix",
    "P_TUNING": "prefix",
    "PREFIX_TUNING": "prefix",
    "CPT": "prefix",
    "CARTRIDGE": "prefix",
    "ADAPTION_PROMPT": "attention",
    "LILY": "mixture",
    "SHADOW": "mixture",
    "XLORA": "mixture",
    "POLY": "task",
}
"""PEFT's names of methods that are no difference of weights, and why."""


def why_not(config: Any) -> str | None:
    """Why an adapter of this configuration cannot be a student, as the end of a sentence that
    begins with "its adapter"; None where nothing in it forbids it.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    reason = _NO_WEIGHTS.get(kind)
    if getattr(config, "arrow_config", None):
        kind, reason = "Arrow", "routed"
    if reason is not None:
        return (
            f"is no change of weights ({kind}): {_REASONS[reason]}; pass a PeftModel with a weight "
            "adapter (LoRA, DoRA, IA3), or a full fine-tune"
        )
    repeated = getattr(config, "layer_replication", None)
    if repeated:
        ranges = ", ".join(f"{first} to {last - 1}" for first, last in repeated)
        return (
            f"repeats blocks (layer_replication: {ranges}), so that the student has other blocks "
            "than the base, and a layer of one is none of the other; save the base with its blocks "
            "repeated, and load the adapter on that, without layer_replication"
        )
    return None


def not_in_its_folder(config: Any) -> str | None:
    """Why a folder with this configuration does not hold the student that was trained, as the end
    of a sentence that begins with "its adapter"; None where it does.

    PEFT's initialisations of LoRA that take a part out of the base's weights (PiSSA, CorDA,
    LoRA-GA) store what became of the part, and not what was left of the base: loading takes it out
    anew. That gives the trained student only where the part is a function of the weights alone, as
    in exact PiSSA and OLoRA; not where it was found from random numbers or from data.
    """
    begun = getattr(config, "init_lora_weights", True)
    if not isinstance(begun, str):
        return None
    if begun.startswith("pissa_niter"):
        found = "found with random numbers"
    elif begun.startswith(("corda", "lora_ga")):
        found = "found from data"
    else:
        return None
    exact = "; or train with init_lora_weights='pissa'" if begun.startswith("pissa") else ""
    return (
        f"was begun with init_lora_weights={begun!r}: PEFT took a part out of the base's weights, "
        f"{found}, and its folder does not hold which, so that loading it gives another model than "
        "was trained. In the process that trains it, save it merged (merge_and_unload()) or as a "
        f"LoRA (save_pretrained(path_initial_model_for_weight_conversion=...)){exact}"
    )


# ------------------------------------------------------------------------------------ single layers

_LORA_LAYERS = ("Linear", "Linear4bit", "Linear8bitLt", "HqqLoraLinear", "TorchaoLoraLinear")
"""PEFT's LoRA layers that add `scale * b(a(x))` to what is inside them, whatever that is."""


def low_rank_pairs(module: Any, invoked: Invocations) -> list[LoraPair] | None:
    """The active updates of a layer; None where it is no plain sum of low-rank products.

    It is none where it is merged, where it has a variant (DoRA), or a bias of its own. OSF's layer
    is one: what it subtracts from the weight and what it puts there are both of its rank.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.variants import ALoraLinearVariant
    from peft.tuners.osf.layer import OSFLayer

    if getattr(module, "merged", False):
        return None
    if isinstance(module, OSFLayer):
        return _osf_pairs(module)
    if not isinstance(module, LoraLayer) or type(module).__name__ not in _LORA_LAYERS:
        return None
    if not type(module).__module__.startswith("peft.tuners.lora."):
        return None
    layer: Any = module
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    for name in active:
        variant = dict(layer.lora_variant.items()).get(name)
        waits = isinstance(variant, ALoraLinearVariant)
        if (variant is not None and not waits) or waits != bool(invoked.get(name)):
            return None
        if layer.lora_bias.get(name):
            return None
    return [
        LoraPair(
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            float(layer.scaling[name]),
            tuple(invoked.get(name, ())),
        )
        for name in active
    ]


def _osf_pairs(layer: Any) -> list[LoraPair]:
    """OSF replaces the small singular triplets of a weight: `u s v - u0 s0 v0`.

    Of several active adapters PEFT computes the first.
    """
    name = next(iter(layer.active_adapters), None)
    if name not in layer.osf_svd_params:
        return []
    now = layer.osf_svd_params[name]
    names = {key: getattr(layer, f"_osf_{key}_init")[name] for key in ("U_low", "S_low", "V_low")}
    if all(torch.equal(now[key], start) for key, start in names.items()):
        return []  # not trained yet
    b = torch.cat([now["U_low"] * now["S_low"], -names["U_low"] * names["S_low"]], 1)
    return [LoraPair(torch.cat([now["V_low"], names["V_low"]]), b, 1.0)]


def tuned_copy(module: nn.Module) -> nn.Module | None:
    """The copy of a whole module that LayerNorm tuning trains, where it is active; what is inside
    where none is; None where the module is no such layer.

    Merging such a layer swaps the two, so a merged one holds its own copy where the base's was.
    """
    from peft.tuners.ln_tuning.layer import LNTuningLayer

    if not isinstance(module, LNTuningLayer):
        return None
    if module.merged:
        return module.base_layer
    active = [name for name in module.active_adapters if name in module.ln_tuning_layers]
    return module.ln_tuning_layers[active[0]] if active else module.base_layer


def adds_bias(layer: Any) -> bool:
    """Whether a layer trains a bias, which PEFT merges into a bias only."""
    return any(getattr(layer, "lora_bias", {}).values()) or hasattr(layer, "beft_bias")
