"""How many rows a forward may have: from a memory budget, by a plain upper estimate of what one row
needs.

The default budget is a fraction of the machine's memory, not of what happens to be free, so that
the same call on the same machine always cuts its work alike (and gives the same bytes).
"""

from __future__ import annotations

from typing import Any

import psutil
import torch

from ..models.names import Dimensions
from ..models.placement import input_device

HOST_SHARE = 1 / 8  # of a machine's memory
ACCELERATOR_SHARE = 1 / 3  # of an accelerator's

# more tokens than this bring no speed: a CPU works best while activations fit its caches, an
# accelerator needs many
TOKENS_PER_FORWARD_ON_CPU = 1024
TOKENS_PER_FORWARD = 32768


def default_budget(device: torch.device) -> int:
    """Bytes that the activations of one forward may take by default."""
    if device.type == "cuda":
        return int(ACCELERATOR_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(HOST_SHARE * psutil.virtual_memory().total)


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
    cache = 0 if slots == keys else 4 * sizes.width * keys * sizes.layers
    logits = (6 if gradient else 3) * reads * sizes.vocabulary
    return int(4 * (blocks * slots * per_slot + cache + logits))


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
        ValueError: not even one row fits.
    """
    need = row_bytes(model, slots=slots, keys=keys, reads=reads, gradient=gradient)
    if need > budget:
        with_gradients = " with gradients" if gradient else ""
        raise ValueError(
            f"memory_gb={budget / 2**30:.3g} is too small: one row of {slots} tokens needs about "
            f"{need / 2**30:.3g} GB"
            f"{with_gradients}; pass load_pair(memory_gb=...) at least that much, or shorten the "
            "prompts."
        )
    if tokens is None:
        on_cpu = input_device(model).type == "cpu"
        tokens = TOKENS_PER_FORWARD_ON_CPU if on_cpu else TOKENS_PER_FORWARD
    return max(1, min(budget // need, tokens // slots))
