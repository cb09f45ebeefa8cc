"""Copies of models: module objects of their own over the same parameters, or merged."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from .compat import quiet_transformers


def twin(model: nn.Module, *, copied: Collection[str] = ()) -> nn.Module:
    """A copy of the module objects over the same parameter storage: hooks, modes and adapters of the copy are its own.

    Args:
        model: what to copy.
        copied: names of parameters that get storage of their own.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().clone() if name in copied else p.detach(), requires_grad=False)
        for name, p in model.named_parameters()
    }  # tied parameters are one object and stay tied
    return copy.deepcopy(model, memo)


def share(model: nn.Module) -> Any:
    """A `twin` without the adapter layers that PEFT may have put into the model.

    Raises:
        ValueError: adapters are merged into its weights.
    """
    out: Any = twin(model)
    if hasattr(out, "get_base_model"):
        out = out.get_base_model()
    modules: list[tuple[str, Any]] = list(out.named_modules())
    wrapped: tuple[str, ...] = ()
    for name, module in modules:
        inside = getattr(module, "original_module", None) or getattr(module, "base_layer", None)
        if inside is None or not hasattr(module, "active_adapters") or name.startswith(wrapped):
            continue
        if getattr(module, "merged", False):
            raise ValueError(f"the model has adapters merged into {name}; unmerge them first (model.unmerge_adapter()).")
        out.set_submodule(name, inside)
        wrapped += (f"{name}.",)
    out._hf_peft_config_loaded = False
    return out


@torch.no_grad()
def merge(base: Any, student: Any) -> nn.Module:
    """A copy of the base's or a student's model as a plain Hugging Face model, adapters added to the weights in fp32.

    Tied embeddings of which PEFT adapted one side only come apart, as they do in the student.
    """
    model: Any = copy.deepcopy(base.model if student is None else student.model)
    if hasattr(model, "merge_and_unload"):
        _cast(model, torch.float32)
        _untie(model.get_base_model())
        with quiet_transformers():
            model = model.merge_and_unload()
        _cast(model, next(base.model.parameters()).dtype)
    return model.eval().requires_grad_(True)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Parameters only: the frequencies of rotary embeddings stay as they are."""
    for p in model.parameters():
        p.data = p.data.to(dtype)


def _untie(model: Any) -> None:
    """Give the head a weight of its own where PEFT wraps embedding or head: merging one would change both."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    embed, head = (getattr(end, "base_layer", end) for end in ends)
    if [embed, head] != ends and getattr(embed, "weight", None) is getattr(head, "weight", False):
        head.weight = nn.Parameter(head.weight.clone())
        model.config.tie_word_embeddings = False
