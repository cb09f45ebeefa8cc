"""Quantised modules: packed weights that are never unpacked, only run.

A base may hold them (bitsandbytes 4 and 8 bit, torchao, HQQ), because a LoRA over one adds a
low-rank branch to whatever it computes: the branch alone is gated, and both ends are exact. What
else could differ is not told by packed weights, and is refused (`deltas`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

METHODS = ("bitsandbytes", "torchao", "hqq")
"""What transformers calls the quantisations whose models may be a base."""

PROBES = 64
"""Random inputs from which the norm of a packed weight is estimated, to a few per cent."""

HALF = (torch.float16, torch.bfloat16)
"""Types of half precision."""


def is_quantised(module: nn.Module) -> bool:
    """Whether one of a module's own parameters is packed: no floating-point tensor of its own."""
    return any(
        not p.is_floating_point() or is_traceable_wrapper_subclass(p)
        for p in module._parameters.values()
        if p is not None
    )


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """A model's quantised modules by path."""
    return {path: module for path, module in model.named_modules() if is_quantised(module)}


def is_projection(module: Any) -> bool:
    """Whether a quantised module is a linear layer that can run on what it packs.

    A plain linear layer with whole numbers for a weight cannot.
    """
    widths = (getattr(module, key, None) for key in ("in_features", "out_features"))
    if not all(isinstance(width, int) for width in widths):
        return False
    weight = module._parameters.get("weight")
    return type(module) is not nn.Linear or type(weight) is not nn.Parameter


def plain_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors a tensor is made of: itself, or what a torchao tensor packs."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    packed: Any = tensor
    for key in packed.__tensor_flatten__()[0]:
        yield from plain_tensors(f"{name}.{key}", getattr(packed, key))


def packed_state(module: nn.Module) -> dict[str, Tensor]:
    """All plain tensors that a quantised module computes with, scales and codes among them."""
    state: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        if isinstance(value, Tensor):
            state |= dict(plain_tensors(key, value.detach()))
    return state


def same_packed(one: nn.Module, other: nn.Module) -> bool:
    """Whether two quantised modules compute with equal tensors."""
    first, second = packed_state(one), packed_state(other)
    if first.keys() != second.keys():
        return False
    return all(_equal(tensor, second[key]) for key, tensor in first.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.data_ptr() == other.data_ptr() != 0 or torch.equal(one, other.to(one.device))


def view_of(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter object over the same storage, with the attributes of its class.

    bitsandbytes keeps its scales on the parameter object and moves them elsewhere when it first
    runs, so two modules cannot share one.
    """
    if type(parameter) is nn.Parameter or is_traceable_wrapper_subclass(parameter):
        return nn.Parameter(parameter.detach(), requires_grad=False)
    made = torch.Tensor._make_subclass(type(parameter), parameter.data, False)
    for key, value in vars(parameter).items():
        kept = isinstance(value, Tensor | nn.Module)
        setattr(made, key, value if kept else copy.copy(value))
    return made


def keep_order(model: nn.Module) -> None:
    """Keep bitsandbytes from reordering 4-bit weights when a model of our own runs on a CPU: its
    gradients are wrong on the reordered ones.
    """
    for module in packed_modules(model).values():
        flagged: Any = module
        if getattr(flagged, "support_avx512bf16_for_cpu", False) and (
            next(module.parameters()).device.type == "cpu"
        ):
            flagged.support_avx512bf16_for_cpu = False
            module.state_dict()  # puts them back, where they were reordered already


def kept_tensors(module: nn.Module) -> list[Tensor]:
    """Tensors a quantised module keeps beside its parameters and buffers (bitsandbytes 8 bit)."""
    state = getattr(module, "state", None)
    return [value for value in vars(state).values() if isinstance(value, Tensor)] if state else []


@torch.no_grad()
def square_norm(module: Any, dtype: torch.dtype) -> float:
    """The squared Frobenius norm of the weight a quantised projection stands for, from its outputs
    on `PROBES` random inputs: E |W x|^2 = |W|^2.
    """
    device = next(module.parameters()).device
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(PROBES, module.in_features, generator=rng).to(device, dtype)
    y = module(x)
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        y = y - bias
    return float(y.double().square().sum()) / PROBES


def precision(model: nn.Module) -> torch.dtype:
    """The lowest floating-point type that a model's products are computed in: that of its weights,
    or of a quantised module that casts its input (bitsandbytes 8 bit always does).
    """
    own = next(model.parameters()).dtype
    for module in packed_modules(model).values():
        if type(module).__name__ == "Linear8bitLt":
            return torch.float16
        computes = getattr(module, "compute_dtype", None)
        if computes in HALF:
            return computes
    return own
