"""How many rows a forward may have: from a memory budget, by a plain upper estimate of what one row
needs.

1. The default budget is a fraction of the machine's memory, not of what happens to be free, so that
   the same call on the same machine always cuts its work alike (and gives the same bytes).
2. Work is cut by an estimate that counts an array of attention scores (`row_bytes`).
3. One row cannot be cut. Where it does not fit by that estimate it runs alone, the leanest way
   (`least_bytes`): without scores where torch's attention keeps none, and a backward pass that
   computes each block again where the blocks' activations do not fit together. If that is more
   than the budget, it takes what the machine has free, and says so. Only what the machine does not
   have is refused. No number depends on what is free, only whether there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psutil
import torch
from torch.nn import functional as F

from ..models.compat import attention_kernel
from ..models.names import Dimensions
from ..models.placement import input_device
from ..prompts.notices import notice

HOST_SHARE = 1 / 8  # of a machine's memory
CUDA_SHARE = 1 / 3  # of a CUDA device's

# more tokens than this bring no speed: a CPU works best while activations fit its caches, an
# accelerator needs many
TOKENS_PER_FORWARD_ON_CPU = 1024
TOKENS_PER_FORWARD = 32768


def default_budget(device: torch.device) -> int:
    """Bytes that the activations of one forward may take by default."""
    if device.type == "cuda":
        return int(CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(HOST_SHARE * psutil.virtual_memory().total)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left, with what torch holds there and does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def row_bytes(model: Any, *, slots: int, keys: int, reads: int, gradient: bool = False) -> int:
    """Upper estimate of the memory one row needs.

    Args:
        model: a causal language model.
        slots: tokens computed.
        keys: tokens attended to.
        reads: slots whose logits are taken.
        gradient: whether activations are kept for a backward pass.
    """
    sizes = Dimensions.of(model.config)
    # numbers per slot and block: the residual stream and its copies, the MLP, attention scores and
    # what is made of them
    per_slot = 16 * sizes.width + 6 * sizes.inner + 3 * sizes.heads * keys
    blocks = sizes.layers if gradient else 1
    beside = _beside_the_blocks(sizes, slots=slots, keys=keys, reads=reads, gradient=gradient)
    return int(4 * (blocks * slots * per_slot + beside))


def least_bytes(
    model: Any,
    *,
    slots: int,
    keys: int,
    reads: int,
    gradient: bool = False,
    recompute: bool = False,
) -> int:
    """Upper estimate of what one row needs where it does not fit by `row_bytes`.

    Args:
        model: a causal language model.
        slots: tokens computed.
        keys: tokens attended to.
        reads: slots whose logits are taken.
        gradient: whether activations are kept for a backward pass.
        recompute: whether that pass computes each block again, so that the activations of one block
            are kept at a time, and of the others their input.
    """
    sizes = Dimensions.of(model.config)
    scores = 0 if keeps_no_scores(model) else 3 * sizes.heads * keys
    per_slot = 16 * sizes.width + 6 * sizes.inner + scores
    blocks = sizes.layers if gradient and not recompute else 1
    inputs = 2 * sizes.width * slots * sizes.layers if recompute else 0
    mask = 4 * slots * keys  # and what it is made from
    beside = _beside_the_blocks(sizes, slots=slots, keys=keys, reads=reads, gradient=gradient)
    return int(4 * (blocks * slots * per_slot + inputs + mask + beside))


def _beside_the_blocks(
    sizes: Dimensions, *, slots: int, keys: int, reads: int, gradient: bool
) -> int:
    """Numbers of a row's keys and values of earlier slots, and of its logits."""
    cache = 0 if slots == keys else 4 * sizes.width * keys * sizes.layers
    return cache + (6 if gradient else 3) * reads * sizes.vocabulary


def rows_per_forward(
    model: Any,
    budget: int,
    *,
    slots: int,
    keys: int,
    reads: int,
    gradient: bool = False,
    tokens: int | None = None,
) -> int:
    """Rows that fit the budget, at least one.

    Args:
        model: a causal language model.
        budget: bytes.
        slots: tokens computed per row.
        keys: tokens attended to.
        reads: slots whose logits are taken.
        gradient: whether activations are kept for a backward pass.
        tokens: tokens a forward should not exceed; by the kind of device when not given.

    Raises:
        ValueError: not even one row fits what the machine has free.
    """
    device = input_device(model)
    need = row_bytes(model, slots=slots, keys=keys, reads=reads, gradient=gradient)
    if need > budget:
        least = least_bytes(
            model, slots=slots, keys=keys, reads=reads, gradient=gradient, recompute=gradient
        )
        _check_one_row(least, budget, device, slots=slots, gradient=gradient)
        return 1
    if tokens is None:
        tokens = TOKENS_PER_FORWARD_ON_CPU if device.type == "cpu" else TOKENS_PER_FORWARD
    return max(1, min(budget // need, tokens // slots))


def _check_one_row(
    need: int, budget: int, device: torch.device, *, slots: int, gradient: bool
) -> None:
    """A row that is more than the budget takes what is free, and says so.

    Raises:
        ValueError: that is not enough.
    """
    if need <= budget:
        return
    with_gradients = " with gradients" if gradient else ""
    what = f"one row of {slots} tokens needs about {need / 2**30:.3g} GB{with_gradients}"
    free = free_memory(device)
    if need > free:
        raise ValueError(
            f"memory_gb={budget / 2**30:.3g} is too small: {what}, and the machine has "
            f"{free / 2**30:.3g} GB free; shorten the prompts, or free memory."
        )
    told = f"{what}, more than memory_gb={budget / 2**30:.3g}; it runs all the same."
    notice("rows beyond memory_gb", told)


class Shape(NamedTuple):
    """A forward: rows of so many tokens, of which so many are read."""

    rows: int
    slots: int
    reads: int


def recomputes(model: Any, budget: int, forwards: Sequence[Shape]) -> bool:
    """Whether a pass with gradients computes each block again in its backward pass: only where its
    activations do not fit the budget together. It depends on the budget, never on what is free.

    Args:
        model: a causal language model.
        budget: bytes.
        forwards: what the pass computes: one forward, or several, whose activations are all kept
            until the gradients are taken.
    """

    def exceeds(need: Callable[..., int]) -> bool:
        of_all = (
            rows * need(model, slots=slots, keys=slots, reads=reads, gradient=True)
            for rows, slots, reads in forwards
        )
        return sum(of_all) > budget

    return exceeds(row_bytes) and exceeds(least_bytes)


def keeps_no_scores(model: Any) -> bool:
    """Whether a model's attention keeps no array (row, head, query, key) of its own: torch's fused
    kernels take a mask `(row, 1, query, key)` for all heads and work in tiles.
    """
    if attention_kernel(model) != "sdpa":
        return False
    p = next(model.parameters())
    config, size = model.config, Dimensions.of(model.config)
    d_keys = int(getattr(config, "qk_head_dim", None) or size.d_head)
    d_values = int(getattr(config, "v_head_dim", None) or d_keys)
    return _is_fused(p.device, p.dtype, d_keys, d_values)


@functools.cache
def _is_fused(device: torch.device, dtype: torch.dtype, d_keys: int, d_values: int) -> bool:
    """Whether torch has a fused kernel for heads of these widths under a mask: its own name stands
    in the graph, where the plain way leaves a product of matrices.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    with torch.enable_grad():
        queries = torch.zeros(1, 2, 8, d_keys, **options, requires_grad=True)
        values = torch.zeros(1, 2, 8, d_values, **options)
        mask = torch.zeros(1, 1, 8, 8, **options)
        done = F.scaled_dot_product_attention(queries, queries, values, attn_mask=mask)
    name = type(done.grad_fn).__name__
    return name.startswith("ScaledDotProduct") and "Math" not in name
