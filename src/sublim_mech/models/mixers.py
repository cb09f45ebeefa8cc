"""Parts of blocks that are gated as one: layers with state, and others beyond projections.

A short convolution, a decay rate, an attention sink are not functions of one token's input, or are
used without a call of a module of their own; what a student changes there cannot be gated by
itself. The part it stands in (the whole Mamba mixer, linear attention, short convolution) can:
`y = f_base(x) + g * (f_student(x) - f_base(x))`. Where a student changes nothing but projections in
it, as LoRA does, each of them keeps a gate of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from .deltas import Delta, Whole, deltas_hash, module_of
from .experts import is_attention
from .names import block_of


def gather_mixers(base: nn.Module, student: Any, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """A student's differences, those in a mixer put together where they are more than projections.

    Args:
        base: the base's model.
        student: the student's, as Hugging Face's or PEFT's own.
        deltas: the differences by path, module by module.

    Raises:
        ValueError: parameters differ that an attention has beside its projections.
    """
    gathered = dict(deltas)
    for mixer in find_mixers(base):
        inside = {
            path: delta
            for path, delta in deltas.items()
            if path == mixer or path.startswith(f"{mixer}.")
        }
        # (a block of experts has been put together already)
        one = isinstance(inside.get(mixer), Whole)
        if one or all(is_projection(base.get_submodule(path)) for path in inside):
            continue
        if mixer in inside:
            _check_no_attention(base, mixer)
        distance = math.sqrt(sum(delta.norm() ** 2 for delta in inside.values()))
        whole = Whole(module_of(student, mixer), distance, deltas_hash(inside))
        # the mixer takes the place of the first of its modules
        first = next(iter(inside))
        gathered = {
            (mixer if path == first else path): (whole if path == first else delta)
            for path, delta in gathered.items()
            if path == first or path not in inside
        }
    return gathered


def find_mixers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the parts of blocks that have parameters beside their projections: parameters of
    their own, or a convolution.

    Args:
        model: a Hugging Face causal language model without adapters.

    Example:
        >>> from sublim_mech.models.mixers import find_mixers
        >>> find_mixers(pair.model)  # attention and MLP of this one are projections
        ()
    """
    found: list[str] = []
    for path, module in model.named_modules():
        if block_of(path) is None or path.startswith(tuple(f"{known}." for known in found)):
            continue  # outside the blocks, a block itself, or inside one that is known
        below = list(module.children())
        own = bool(module._parameters) and any(True for child in below for _ in child.parameters())
        if own or any(isinstance(child, nn.Conv1d) for child in below):
            found.append(path)
    return tuple(found)


def _check_no_attention(base: nn.Module, path: str) -> None:
    """Raise ValueError where what has changed parameters of its own is an attention without state:
    gated whole, its projections would have no gate per token any more.
    """
    module = base.get_submodule(path)
    # (linear attention with a convolution has state, and is gated whole)
    if is_attention(path) and not any(isinstance(part, nn.Conv1d) for part in module.modules()):
        keys = ", ".join(module._parameters)
        raise ValueError(
            f"the student differs in {path}.{keys}: what an attention has beside its projections "
            "cannot be gated by token; take a student that was trained without it "
            f"(FullFT(freeze={keys!r}))."
        )


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one matrix, with or without a bias."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))
