"""Copies of models: module objects of their own over the same parameters, or merged."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from .compat import (
    forget_adapters,
    inside_peft,
    quiet_transformers,
    ready_bias,
    wrapped_module,
)
from .devices import without_autocast
from .placement import drop_own_methods, plain, shared_with_hooks
from .quantised import keep_order, kept_tensors, packed_modules, view_of


def twin(model: nn.Module, *, copied: Collection[str] = ()) -> nn.Module:
    """A copy of the module objects over the same parameter storage.

    Hooks, modes and adapters of the copy are its own.

    Args:
        model: what to copy.
        copied: names of parameters that get storage of their own.
    """
    # what deepcopy finds in its memo it takes from there and does not copy
    memo: dict[int, Any] = shared_with_hooks(model)
    for name, parameter in model.named_parameters():  # tied ones are one object, and stay tied
        if name in copied:
            memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        else:
            memo[id(parameter)] = view_of(parameter)
    for module in packed_modules(model).values():
        memo |= {id(tensor): tensor for tensor in kept_tensors(module)}
    made = copy.deepcopy(model, memo)
    drop_own_methods(made)
    keep_order(made)
    return made


def share(model: nn.Module) -> Any:
    """A `twin` without the adapter layers that PEFT may have put into the model.

    Raises:
        ValueError: adapters are merged into its weights.
    """
    clean: Any = inside_peft(twin(model))
    modules: list[tuple[str, Any]] = list(clean.named_modules())
    taken_out: tuple[str, ...] = ()  # what stood inside a layer went with it
    for name, module in modules:
        inside = wrapped_module(module)
        if inside is None or name.startswith(taken_out):
            continue
        if getattr(module, "merged", False):
            raise ValueError(
                f"the model has adapters merged into {name}; "
                "unmerge them first (model.unmerge_adapter())."
            )
        clean.set_submodule(name, inside)
        taken_out += (f"{name}.",)
    forget_adapters(clean)
    return clean


@torch.no_grad()
@without_autocast()
def merge(base: Any, student: Any) -> nn.Module:
    """A copy of the base's or a student's model as a plain Hugging Face model.

    Adapters are added to the weights in fp32, and the sum is rounded once. Tied embeddings of
    which PEFT adapted one side only come apart, as they do in the student.

    Args:
        base: a `Base`.
        student: a `Student` of it; None for the base itself.

    Raises:
        ValueError: the base is quantised, or the adapter acts from a token on: there are no weights
            that compute as the student does.
    """
    _check_mergeable(base, student)
    model: Any = copy.deepcopy(plain(base.model) if student is None else student.model)
    if hasattr(model, "merge_and_unload"):
        _cast(model, {}, torch.float32)
        _untie(model.get_base_model())
        for module in list(model.modules()):
            if wrapped_module(module) is not None:
                ready_bias(module)
        with quiet_transformers():
            model = model.merge_and_unload()
        _cast(model, {name: p.dtype for name, p in base.model.named_parameters()})
    return model.eval().requires_grad_(True)


def _check_mergeable(base: Any, student: Any) -> None:
    """Raise ValueError where no plain weights compute as a model does."""
    packed = next(iter(packed_modules(base.model)), None)
    if packed is not None:
        raise ValueError(
            f"base={base.name!r} is quantised ({packed}), so it has no plain copy: merged weights "
            "would be rounded anew; load the checkpoint it was quantised from."
        )
    if student is not None and student.gates is not None:
        raise ValueError(
            f"student={student.name!r} was loaded with gates ({student.gates}): no merged weights "
            "compute so. Loaded without (gates=None) it is another model, one that works "
            "everywhere, which has such a copy."
        )
    deltas = {} if student is None else student.deltas
    if student is not None and student.split_by == "student":
        raise ValueError(
            f"student={student.name!r} is several students as one, which has no model of its own; "
            "merge one of them."
        )
    if any(getattr(delta, "invocation", ()) for delta in deltas.values()):
        raise ValueError(
            f"student={student.name!r} is an aLoRA, which acts from its invocation tokens on: no "
            "merged weights compute so. Use the pair itself: pair.logits(...), "
            "pair.activations(...)."
        )


def _cast(
    model: nn.Module, types: Mapping[str, torch.dtype], otherwise: torch.dtype | None = None
) -> None:
    """Cast parameters, each to its own type; the frequencies of rotary embeddings stay as they are.

    Args:
        model: whose.
        types: by name.
        otherwise: of those that are not named: the type of their module's other parameters, or of
            the first one of all, when not given.
    """
    first = next(iter(types.values()), None)
    for name, parameter in model.named_parameters():
        beside = (kept for key, kept in types.items() if _parent(key) == _parent(name))
        dtype = types.get(name) or otherwise or next(beside, first)
        parameter.data = parameter.data.to(dtype)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _untie(model: Any) -> None:
    """Give the head a weight of its own where PEFT wraps embedding or head.

    Merging one would change both.
    """
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    embed, head = (getattr(end, "base_layer", end) for end in ends)
    wrapped = [embed, head] != ends
    # two that have no weight are not tied: None is not False
    tied = getattr(embed, "weight", None) is getattr(head, "weight", False)
    if wrapped and tied:
        head.weight = nn.Parameter(head.weight.clone())
        model.config.tie_word_embeddings = False
