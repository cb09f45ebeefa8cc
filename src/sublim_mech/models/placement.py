"""Where a model's weights are: on one device, on several, or kept elsewhere by accelerate.

A model that accelerate has dispatched (`device_map`, several GPUs, CPU or disk offload) has hooks
on its modules: an instance's own `forward` that brings inputs, and offloaded weights, to the device
a module computes on. Offloaded parameters are empty ("meta") between passes; their values are in
the hook's map, in memory or in files.

1. A runner's model keeps these hooks, so that it runs as accelerate has arranged it.
2. What reads weights (hash, comparison, watch, merging) reads a `plain` twin of an offloaded model:
   module objects over the very memory, or the mapped files, that the hooks take their values from.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OWN_METHODS = ("to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa", "neuron")
"""What accelerate puts on a dispatched model itself: methods that warn, of the model it was."""


# ------------------------------------------------------------------------------------ what is where


def is_offloaded(model: nn.Module) -> bool:
    """Whether parameters are kept elsewhere between passes."""
    return any(p.is_meta for p in model.parameters())


def is_spread(model: nn.Module) -> bool:
    """Whether a model is on several devices, or offloaded."""
    return is_offloaded(model) or len({p.device for p in model.parameters()}) > 1


def is_dispatched(model: nn.Module) -> bool:
    """Whether accelerate has put its hooks on a model."""
    return any(_hooks(module) for module in model.modules())


def device_of(module: nn.Module) -> torch.device:
    """The device that a module computes on: its hook's, else its parameters'."""
    for hook in _hooks(module):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    for part in module.modules():  # accelerate puts an offload's hooks where the parameters are
        if part is not module and _hooks(part):
            return device_of(part)
        for p in part._parameters.values():
            if p is not None and not p.is_meta:
                return p.device
    return torch.device("cpu")


def input_device(model: Any) -> torch.device:
    """The device that token ids go to: the embedding's."""
    return device_of(model.get_input_embeddings())


def check_placed(model: nn.Module, name: str) -> None:
    """Every parameter must have values somewhere, and a hook where devices change.

    Raises:
        ValueError: a parameter is nowhere; several devices without accelerate's hooks.
    """
    nowhere = [
        key for key, p in model.named_parameters() if p.is_meta and _kept(model, key) is None
    ]
    if nowhere:
        block = nowhere[0].rpartition(".")[0]
        raise ValueError(
            f"base={name!r}: its device map leaves {block} nowhere: {nowhere[0]} has no values "
            f"(device 'meta', {len(nowhere)} such parameters) and none of accelerate's hooks keeps "
            "any; give every block a device, 'cpu' or 'disk' in device_map."
        )
    devices = sorted({str(p.device) for p in model.parameters() if not p.is_meta})
    if len(devices) > 1 and not is_dispatched(model):
        raise ValueError(
            f"base={name!r} is on {' and '.join(devices)} without accelerate's hooks, which bring "
            "activations from one to the other; load it with device_map=..., or call "
            "accelerate.dispatch_model(model, device_map)."
        )


def check_whole(model: nn.Module, name: str) -> None:
    """Raise ValueError where a model is spread: what is trained is trained on one device."""
    if is_spread(model):
        raise ValueError(
            f"base={name!r} is spread over devices (device_map) or offloaded; a student is trained "
            "from a base on one device: load it without device_map."
        )


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """The hooks that accelerate has put on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        return ()
    return tuple(getattr(hook, "hooks", (hook,)))


def _kept(model: nn.Module, name: str) -> tuple[Any, str] | None:
    """Where the values of an offloaded parameter are: the map of a hook on its module, or on one
    above that loads all that is below it, and the key in it.
    """
    path, _, key = name.rpartition(".")
    while True:
        for hook in _hooks(model.get_submodule(path)):
            weights = getattr(hook, "weights_map", None)
            if getattr(hook, "offload", False) and weights is not None:
                inner, whole = _unprefixed(weights, key)
                if whole in inner:
                    return inner, whole
        if not path:
            return None
        path, _, last = path.rpartition(".")
        key = f"{last}.{key}"


def _unprefixed(weights: Any, key: str) -> tuple[Any, str]:
    """The map behind accelerate's views of it by prefix, and the whole key."""
    while hasattr(weights, "dataset") and hasattr(weights, "prefix"):
        weights, key = weights.dataset, f"{weights.prefix}{key}"
    return weights, key


# --------------------------------------------------------------------------------- copies of models


def shared_with_hooks(model: nn.Module) -> dict[int, Any]:
    """What a copy of a dispatched model must not copy: the maps of offloaded values, by `id`.

    They go into `copy.deepcopy`'s memo.
    """
    shared: dict[int, Any] = {}
    for module in model.modules():
        for hook in _hooks(module):
            for held in (
                getattr(hook, "weights_map", None),
                getattr(hook, "tied_params_map", None),
            ):
                if held is not None:
                    shared[id(held)] = held
    return shared


def drop_own_methods(model: nn.Module) -> None:
    """Take the methods off a copy that accelerate had bound to the model it was copied from."""
    for name in _OWN_METHODS:
        vars(model).pop(name, None)


def plain(model: Any) -> Any:
    """A model whose parameters all have values; an offloaded one as a twin without hooks, on the
    CPU, over the same memory and files. Any other is given back as it is.
    """
    if not is_offloaded(model):
        return model
    memo = shared_with_hooks(model)
    empty = dict(model.named_parameters(remove_duplicate=False))
    values = {name: p if not p.is_meta else _value(model, name) for name, p in empty.items()}
    known: dict[Any, nn.Parameter] = {}  # tied ones are one tensor in memory, and stay one object
    for name, p in empty.items():
        value = values[name].detach().to("cpu")
        identity = (value.data_ptr(), tuple(value.shape))
        known.setdefault(identity, nn.Parameter(value, requires_grad=False))
        memo[id(p)] = known[identity]
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        drop_own_methods(module)
        for name in ("_hf_hook", "_old_forward", "forward"):
            vars(module).pop(name, None)
    vars(twin).pop("hf_device_map", None)
    config = getattr(twin, "config", None)
    if getattr(config, "tie_word_embeddings", False) and hasattr(twin, "tie_weights"):
        twin.tie_weights()  # a PEFT model has none of its own
    return twin.to("cpu")


def _value(model: nn.Module, name: str) -> Tensor:
    """The values of an offloaded parameter; those in a file are mapped, not read."""
    kept = _kept(model, name)
    if kept is None:
        raise ValueError(
            f"{name} has no values (device 'meta'), and none of accelerate's hooks keeps any; load "
            "the model with a device_map that gives every block a device, 'cpu' or 'disk'."
        )
    weights, key = kept
    if isinstance(weights, dict) or key in getattr(weights, "state_dict", {}):
        return torch.as_tensor(weights[key])
    told = weights.index[key]
    if told.get("safetensors_file") is not None or not math.prod(told["shape"] or [0]):
        return torch.as_tensor(weights[key])
    kind = {"bfloat16": "int16"}.get(told["dtype"], told["dtype"])
    file = Path(weights.save_folder) / f"{key}.dat"
    mapped = np.memmap(file, dtype=kind, shape=tuple(told["shape"]), mode="c")
    tensor = torch.from_numpy(mapped)
    return tensor.view(torch.bfloat16) if told["dtype"] == "bfloat16" else tensor


def place_like(model: Any, base: nn.Module) -> Any:
    """A student's model where its base is.

    One device: moved there. Several: each module on the device of the base's, with accelerate's
    hooks where it has none. Offloaded: on the CPU, from where what differs is taken as it is
    needed.
    """
    if is_offloaded(base):
        return plain(model)
    if not is_spread(base):
        return model.to(next(base.parameters()).device)
    if not is_dispatched(model):
        _spread(model, base)
    return model


def _spread(model: nn.Module, base: nn.Module) -> None:
    from accelerate.hooks import (  # type: ignore[import-untyped]
        AlignDevicesHook,
        add_hook_to_module,
    )

    devices = {path: device_of(module) for path, module in base.named_modules()}
    for path, module in model.named_modules():
        below = {device_of(part) for part in base.get_submodule(path).modules() if part._parameters}
        if path == "" or len(below) == 1:
            hook = AlignDevicesHook(devices[path], io_same_device=path == "")
            add_hook_to_module(module, hook)


def moved(given: Any, device: torch.device) -> Any:
    """Arguments of a module, the tensors among them on a device; a cache stays where it is."""
    if isinstance(given, Tensor):
        return given.to(device)
    if isinstance(given, tuple | list):
        return type(given)(moved(one, device) for one in given)
    if isinstance(given, dict):
        return {key: moved(one, device) for key, one in given.items()}
    return given


# ----------------------------------------------------------------------------------------- forwards


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module computes what is its own: its class's forward, or accelerate's around it."""
    forward = vars(module).get("forward")
    if forward is None or getattr(forward, "__self__", None) is module:
        return True  # accelerate leaves the bound method when it takes its hooks off
    return isinstance(forward, functools.partial) and bool(_hooks(module))


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module computes something else while the context lasts; afterwards it has its own `forward`
    again, the class's or the one that accelerate has put on it.
    """
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
