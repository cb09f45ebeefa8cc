"""Is a student what a fine-tune makes? What is told, never refused: a change of weights far beyond
any fine-tune's, and one that is the rounding of the type it was stored in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from .base import Base
from .compat import is_adapter
from .deltas import Delta, LowRank, Replaced, square_distance
from .hashing import pieces
from .placement import plain
from .quantised import is_quantised, square_norm

LARGEST_CHANGE = 0.1
"""Relative change of the adapted weights (Frobenius norm of all differences over that of the
weights) above which an adapter is told to be larger than fine-tuning makes one.

The two example students (rank 8, learning rate 1e-3, 60 steps) have 0.0037 and 0.0035, no module of
theirs more than 0.012. A `lora_alpha` typed with two zeros too many makes that 0.37. A factor of
sqrt(r), which is what `use_rslora` is worth, shows from about 0.03 at rank 16 on: this is a net for
slips, and what passes it need not be right.
"""
MOSTLY = 0.5
"""Share of the squared distance from which on it is said to be rounding."""

STORED = (torch.bfloat16, torch.float16)
"""Types that weights are stored in with less precision than they are trained in."""


def module_squares(base: Base, paths: Collection[str] | None = None) -> Iterator[tuple[str, float]]:
    """The squared Frobenius norm of each module's own weights, with its path, one by one.

    A quantised module's is estimated (`quantised.square_norm`). Tied weights count at each of their
    modules.
    """
    dtype = next(base.model.parameters()).dtype
    for path, module in plain(base.model).named_modules():
        if paths is not None and path not in paths:
            continue
        if is_quantised(module):
            yield path, square_norm(module, dtype)
        elif module._parameters:
            yield path, square_distance({}, dict(module.named_parameters(recurse=False)))


def size_note(base: Base, deltas: Mapping[str, Delta]) -> str | None:
    """That an adapter changes its weights by more than fine-tuning does; None where it does not.

    Args:
        base: what they change.
        deltas: the student's differences.
    """
    adapted = {
        path: delta
        for path, delta in deltas.items()
        if isinstance(delta, LowRank) or is_adapter(delta.module)
    }
    size = math.sqrt(sum(square for _, square in module_squares(base, adapted)))
    if not size:
        return None
    change = math.sqrt(sum(delta.norm() ** 2 for delta in adapted.values())) / size
    if change <= LARGEST_CHANGE:
        return None
    lora = all(
        isinstance(delta, LowRank) or hasattr(delta.module, "lora_A") for delta in adapted.values()
    )
    options = "lora_alpha, r and use_rslora" if lora else "the options in adapter_config.json"
    return (
        f"its adapter changes the weights it is on by {change:z.0%} of their norm (fine-tuning: a "
        f"few per cent); check that {options} are those it was trained with"
    )


def rounding_note(base: Base, deltas: Mapping[str, Delta]) -> str | None:
    """That what differs is mostly the rounding of a stored type; None where it is not.

    A full fine-tune written in bfloat16 differs from its fp32 base in nearly every weight, even
    where training changed none. It is one where all its changed weights are values of that type and
    the base, rounded to it, is much nearer.
    """
    own = [delta for delta in deltas.values() if isinstance(delta, Replaced)]
    if len(own) < len(deltas) or not own:
        return None
    modules = dict(base.model.named_modules())
    for dtype in STORED:
        far = near = 0.0
        for path, delta in deltas.items():
            assert isinstance(delta, Replaced)
            squares = _squares(modules[path], delta.module, dtype)
            if squares is None:
                break
            far, near = far + squares[0], near + squares[1]
        else:
            share = 1 - near / far if far else 0.0
            if share >= MOSTLY:
                kind = str(dtype).removeprefix("torch.")
                return (
                    f"what differs is rounding: it was stored in {kind}, and {share:z.1%} of its "
                    f"squared distance from the base is the base's own distance from its rounding "
                    f"to {kind}; load the base with dtype=torch.{kind}, in which both are rounded "
                    "alike"
                )
    return None


def _squares(
    base_module: nn.Module, module: nn.Module, dtype: torch.dtype
) -> tuple[float, float] | None:
    """Squared distance of a module's parameters to the base's, and to the base's rounded to a type;
    None where they are no values of this type, or the two are no like modules.
    """
    olds = dict(base_module.named_parameters(recurse=False))
    far = near = 0.0
    for key, new in module.named_parameters(recurse=False):
        old = olds.get(key)
        if old is None or old.dtype == dtype or old.shape != new.shape:
            return None
        for before, after in zip(pieces(old), pieces(new), strict=True):
            if not torch.equal(rounded(after, dtype), after):
                return None
            far += float((after - before).float().square().sum())
            near += float((after - rounded(before, dtype)).float().square().sum())
    return far, near


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as they are after being stored in a type, in their own."""
    return values.to(dtype).to(values.dtype)
