"""What shapes alone show of a model, without its weights.

A forward of a model of 7B parameters reads 15 GB to say how many axes an output has. On the meta
device, where tensors have shapes and no values, the same forward takes a second for any size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .placement import is_dispatched

Seen = TypeVar("Seen")


def on_shapes(look: Callable[[Any], Seen], model: nn.Module) -> Seen:
    """What `look` sees in a forward of a model's weightless copy; of the model itself where some
    module asks for values (experts that are chosen by them).

    Args:
        look: runs the model it is given, and looks at shapes only; modules have their own paths.
        model: the model, which keeps its modules as they are.
    """
    if is_dispatched(model):  # accelerate's hooks want values
        return look(model)
    try:
        return look(weightless(model))
    except Exception:  # whatever a module raises that finds no values
        return look(model)


def plain_mask(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """The attention mask of a text without padding, in a form whose values nobody asks for where
    there are none.

    Args:
        ids: `(1, slot)` token ids.
        dtype: of the model.
    """
    if not ids.is_meta:
        return torch.ones_like(ids)
    slots = ids.shape[1]
    return torch.zeros(1, 1, slots, slots, dtype=dtype, device=ids.device)


def weightless(model: nn.Module) -> nn.Module:
    """A copy of the module objects whose parameters and buffers are on the meta device."""
    # what deepcopy finds in its memo it takes from there and does not copy
    memo: dict[int, Any] = {}
    for parameter in model.parameters():  # tied ones are one object, and stay tied
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
