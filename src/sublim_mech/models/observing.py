"""What one short forward shows of a model's modules."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import compat
from .names import FLAT, Dimensions
from .placement import input_device, is_dispatched
from .weightless import plain_mask


class _Seen(NamedTuple):
    """A tensor that went into or out of a module, and how often it had been written to by then."""

    end: tuple[str, str]
    tensor: Tensor
    version: int


@dataclass(frozen=True)
class Observed:
    """What modules do with tensors.

    Attributes:
        axes: the axis of tokens in each module's output, by path; `FLAT` where rows, tokens and
            what stands behind them are one axis.
        lengths: how many values a module gives, by path; 0 where it gives a tensor by itself.
        written: inputs and outputs, (path, `in` or `out`), that the model writes into afterwards
            (Falcon adds the attention's output to the MLP's in place).
        odd: linear modules whose output is not that of their matrix, by path: they multiply group
            by group (DeepSeek-V4), or give more than a tensor (the router of Llama-4).
    """

    axes: dict[str, int]
    lengths: dict[str, int]
    written: frozenset[tuple[str, str]]
    odd: frozenset[str] = frozenset()


@torch.no_grad()
def observe(model: Any) -> Observed:
    """Run a text of a length that no other axis has, and look at every module."""
    size = Dimensions.of(model.config)
    taken = (size.heads, size.kv_heads, size.d_head, size.width)
    length = next(n for n in range(5, 100) if n not in taken)
    axes: dict[str, int] = {}
    lengths: dict[str, int] = {}
    seen: list[_Seen] = []
    flat: dict[str, Tensor] = {}
    odd: set[str] = set()

    def note(path: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and length in output.shape[1:-1]:
            axes[path] = 1 + output.shape[1:-1].index(length)
        elif isinstance(output, Tensor) and output.dim() == 2 and len(output) % length == 0:
            flat[path] = output
        lengths[path] = len(output) if isinstance(output, (tuple, list)) else 0
        if isinstance(module, nn.Linear):
            width = output.shape[-1] if isinstance(output, Tensor) else None
            odd.update({path} if width != module.out_features else ())
        ends = {"in": args, "out": output if isinstance(output, (tuple, list)) else (output,)}
        for side, tensors in ends.items():
            if tensors and isinstance(tensors[0], Tensor):
                seen.append(_Seen((path, side), tensors[0], tensors[0]._version))

    ids = torch.arange(length, device=_device(model))[None]
    _run(model, ids, note)
    written = frozenset(end for end, tensor, version in seen if tensor._version != version)

    # tokens come first in a flat axis where another last token changes the end of it alone
    if any(len(output) > length for output in flat.values()):
        before = {path: output.clone() for path, output in flat.items()}
        other = ids.clone()
        other[0, -1] = length
        _run(model, other, note)
        for path, output in before.items():
            changed = (flat[path] != output).any(-1).nonzero().flatten()
            if len(changed) and int(changed[0]) >= len(output) - len(output) // length:
                axes[path] = FLAT
    return Observed(axes, lengths, written, frozenset(odd))


def _device(model: Any) -> torch.device:
    """Where token ids go; of a copy on shapes alone, where it is."""
    if is_dispatched(model):
        return input_device(model)
    return next(model.get_input_embeddings().parameters()).device


def _run(model: Any, ids: Tensor, note: Any) -> None:
    """One forward whose modules are shown to `note`."""
    handles = [
        module.register_forward_hook(functools.partial(note, path))
        for path, module in model.named_modules()
    ]
    try:
        positions = ids if ids.is_meta else None
        mask = plain_mask(ids, next(model.parameters()).dtype)
        compat.call_model(model, ids=ids, mask=mask, positions=positions)
    finally:
        for handle in handles:
            handle.remove()
