"""Mixtures of experts: a block of experts with its router is one module.

A router sends each token to a few of its experts; what an expert's matrix adds to a token is not a
function of that token's input alone, but of which experts the router chose. So no part of such a
block is gated by itself. What is gated is the whole block, `y = f_base(x) + g * (f_student(x) -
f_base(x))`, whatever changed inside: router, stacked parameters of the experts, shared expert.

1. A stack of experts is told by its parameters (one matrix per expert in a tensor of three axes),
   or by its name.
2. Its block is the nearest module above it that holds a router beside it.
3. A student differs at a block where any parameter or stored buffer inside it differs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from . import compat
from .buffers import changed_buffers
from .deltas import Delta, Whole, deltas_hash, module_of, walk
from .placement import plain


def find_experts(model: nn.Module) -> tuple[str, ...]:
    """Paths of a model's blocks of experts, in its own order.

    Args:
        model: a Hugging Face causal language model without adapters.

    Example:
        >>> from sublim_mech.models.experts import find_experts
        >>> find_experts(pair.model)  # none of its blocks is a mixture
        ()
    """
    modules = dict(model.named_modules())
    layers = {name for name, module in modules.items() if _in_list(name, modules)}
    found: dict[str, None] = {}
    for path, module in modules.items():
        if not _is_stack(path, module) or path.startswith(tuple(f"{known}." for known in found)):
            continue
        above = path.rpartition(".")[0]
        while above and above not in layers and not _holds_router(above, path, modules):
            above = above.rpartition(".")[0]
        if above and above not in layers and not is_attention(above):
            found[above] = None
    return tuple(found)


def inside(path: str, blocks: tuple[str, ...]) -> str | None:
    """The block of experts that a module stands in, itself included; None outside of all."""
    return next((block for block in blocks if path == block or path.startswith(f"{block}.")), None)


def gather(base: nn.Module, student: Any, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """A student's differences, those inside a block of experts put together into one.

    Args:
        base: the base's model.
        student: the student's, as Hugging Face's or PEFT's own.
        deltas: the differences by path, module by module.
    """
    blocks = find_experts(base)
    values = plain(base)
    gathered: dict[str, Delta] = {}
    changed: dict[str, dict[str, Delta]] = {block: {} for block in blocks}
    for path, delta in deltas.items():
        block = inside(path, blocks)
        if block is None:
            gathered[path] = delta
        else:
            changed[block][path] = delta
            gathered.setdefault(block, delta)  # its place; it is put in below
    for block in blocks:
        module = module_of(student, block)
        buffers = dict(changed_buffers(values.get_submodule(block), module))
        if changed[block] or buffers:
            gathered[block] = _mixture(module, changed[block], buffers)
    return gathered


def split_targets(
    model: nn.Module, targets: str | Sequence[str]
) -> tuple[str | Sequence[str], dict[str, nn.Parameter]]:
    """What of an adapter's targets names modules, and which stacked parameters the rest names.

    Args:
        model: a Hugging Face model without adapters.
        targets: as `LoRA` takes them; a parameter is named by the end of its path
            (`experts.down_proj`), where no module is called so.

    Returns:
        Targets that name modules (`all-linear` and expressions as they are), and the stacked
        parameters by path.
    """
    if isinstance(targets, str):
        return targets, {}
    modules = dict(model.named_modules())
    stacks = {
        f"{path}.{key}": p
        for path, module in modules.items()
        if _is_stack(path, module)
        for key, p in module.named_parameters(recurse=False)
        if p.dim() == 3
    }
    rest: list[str] = []
    stacked: dict[str, nn.Parameter] = {}
    for name in targets:
        called = {path: p for path, p in stacks.items() if f".{path}".endswith(f".{name}")}
        if called and not any(f".{path}".endswith(f".{name}") for path in modules):
            stacked |= called
        else:
            rest.append(name)
    return rest, stacked


def check_adapted(model: Any, asked: Collection[str]) -> None:
    """PEFT must have adapted the modules that were asked for.

    On mixtures that it knows under an older layout it takes `gate_proj`, `up_proj`, `down_proj` and
    `gate` for the experts and their router, wherever else modules of these names stand.

    Args:
        model: the PEFT model.
        asked: paths of modules, those that hold the asked parameters among them.

    Raises:
        ValueError: it adapted others.
    """
    adapted = {path for path, module in walk(model.get_base_model()) if compat.is_adapter(module)}
    if adapted == set(asked):
        return
    lacking = sorted(set(asked) - adapted) or ["none"]
    added = sorted(adapted - set(asked)) or ["none"]
    raise ValueError(
        f"LoRA(targets=...): PEFT adapts other modules of this mixture than were named (it leaves "
        f"out {lacking[0]}, it adds {added[0]}), because it takes gate_proj, up_proj, down_proj "
        "and gate for the experts; name attention projections and stacked parameters "
        "(experts.gate_up_proj, experts.down_proj)."
    )


def _mixture(
    module: nn.Module, deltas: Mapping[str, Delta], buffers: Mapping[str, tuple[Tensor, Tensor]]
) -> Whole:
    squares = [delta.norm() ** 2 for delta in deltas.values()]
    squares += [
        float((new.to(old.device).double() - old.double()).square().sum())
        for old, new in buffers.values()
    ]
    digest = hashlib.sha256(deltas_hash(deltas).encode())
    for key, (_, new) in sorted(buffers.items()):
        digest.update(key.encode())
        digest.update(new.detach().float().contiguous().cpu().numpy().data)
    return Whole(module, math.sqrt(sum(squares)), digest.hexdigest())


# ------------------------------------------------------------------------------------------ finding


def _is_stack(path: str, module: nn.Module) -> bool:
    """Whether a module holds the matrices of several experts."""
    if path.rpartition(".")[2] == "experts":
        return True
    if isinstance(module, nn.modules.conv._ConvNd):
        return False
    own = module._parameters.values()
    return any(p is not None and p.dim() > 2 and min(p.shape[-3:]) > 1 for p in own)


def _in_list(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module is one of a list, as a model's blocks are; experts may be a list too."""
    above = path.rpartition(".")[0]
    return isinstance(modules.get(above), nn.ModuleList) and not above.endswith("experts")


def _holds_router(above: str, stack: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether something beside a stack decides who computes: a router, called that or `gate`."""
    own = f"{above}.{stack[len(above) + 1 :].partition('.')[0]}"
    for key, child in modules[above].named_children():
        name = f"{key} {type(child).__name__}".lower()
        routes = "router" in name or key == "gate" or "gating" in name
        if routes and f"{above}.{key}" != own:
            return True
    return False


def is_attention(path: str) -> bool:
    """Whether a module is called an attention."""
    return "attn" in path.rpartition(".")[2] or "attention" in path.rpartition(".")[2]


def check_stacks(base: nn.Module, changed: Iterable[str]) -> None:
    """Refuse experts that differ outside of all blocks of experts, and of all that is gated whole.

    Args:
        base: the base's model.
        changed: paths of what is gated.

    Raises:
        ValueError: a stack of experts is to be gated by itself.
    """
    blocks = find_experts(base)
    for path in changed:
        if path not in blocks and _is_stack(path, base.get_submodule(path)):
            raise ValueError(
                f"the experts at {path} stand in no block of their own with their router, so that "
                "what they add cannot be gated by token; train what stands beside them (attention)."
            )
