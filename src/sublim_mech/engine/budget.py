"""How many rows a forward may have: from a memory budget, by a plain upper estimate of what one row needs.

The default budget is a fraction of the machine's memory, not of what happens to be free, so that the same call on the same machine
always cuts its work alike (and gives the same bytes).
"""

from __future__ import annotations

from typing import Any

import psutil
import torch

from ..models.names import Dimensions

HOST_SHARE, ACCELERATOR_SHARE = 1 / 8, 1 / 3
# more rows than this bring no speed: a CPU works best while activations fit its caches, an accelerator needs many tokens
TOKENS = {"cpu": 1024}
TOKENS_ELSEWHERE = 32768


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
    size = Dimensions.of(model.config)
    per_slot = 16 * size.width + 6 * size.inner + 3 * size.heads * keys
    blocks = size.layers if gradient else 1
    cache = 0 if slots == keys else 4 * size.width * keys * size.layers
    logits = (6 if gradient else 3) * reads * size.vocabulary
    return int(4 * (blocks * slots * per_slot + cache + logits))


def rows_per_forward(
    model: Any, budget: int, *, slots: int, keys: int, reads: int, gradient: bool = False, tokens: int | None = None
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
        raise ValueError(
            f"memory_gb={budget / 2**30:.3g} is too small: one row of {slots} tokens needs about {need / 2**30:.3g} GB"
            f"{' with gradients' if gradient else ''}; pass load_pair(memory_gb=...) at least that much, or shorten the prompts."
        )
    kind = next(model.parameters()).device.type
    most = tokens or TOKENS.get(kind, TOKENS_ELSEWHERE)
    return max(1, min(budget // need, most // slots))
