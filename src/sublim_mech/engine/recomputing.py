"""Gradients of long prompts: each block's activations are computed again in the backward pass.

A backward pass needs what every block computed. Here a block keeps its input only; when its turn
comes it is run once more, under the same hooks, and then differentiated (Chen et al., arXiv
1604.06174). The same operations on the same numbers: gradients differ by float noise at most.

What blocks took is given back to the system when they are done. Otherwise glibc keeps it, cut up
by the small parts of the graph that stay: at 2,048 tokens 1.4 GB resident for 0.2 GB in use. Pages
that were given back have to be asked for again, so small blocks are done several at a time.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.placement import forward_replaced

OFTEN = 2**22
"""Bytes of residual stream that blocks are given until their memory is given back: a block takes
some 30 times as much (of SmolLM2-135M a block at 1,900 tokens, three at 742)."""


@contextmanager
def recomputed(
    model: nn.Module,
    blocks: Sequence[str],
    hooked: Callable[[str], AbstractContextManager[None]],
) -> Iterator[None]:
    """Blocks keep their input only, while the context lasts.

    Args:
        model: whose blocks.
        blocks: their paths.
        hooked: given a path, the context in which the modules below it compute as they do now: the
            pass is over, and its hooks gone, when its blocks are run again.
    """
    freed = _Freed()
    with ExitStack() as stack:
        for path in blocks:
            block = model.get_submodule(path)
            twice = _twice(block.forward, partial(hooked, path), freed)
            stack.enter_context(forward_replaced(block, twice))
        yield


def _twice(
    forward: Callable[..., Any], hooked: Callable[[], AbstractContextManager[None]], freed: _Freed
) -> Callable[..., Any]:
    """A block's forward that is run again when its gradients are asked for."""

    def run(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # models are in eval mode: nothing is drawn
            context_fn=lambda: (nullcontext(), _again(hooked(), freed, hidden)),
            **kwargs,
        )
        freed.by_block(hidden)
        return output

    return run


@contextmanager
def _again(hooked: AbstractContextManager[None], freed: _Freed, hidden: Tensor) -> Iterator[None]:
    """A block is run again, when the one after it has been differentiated."""
    freed.by_block(hidden)
    with hooked:
        yield


class _Freed:
    """What blocks have freed since memory was given back, counted by what they were given."""

    def __init__(self) -> None:
        self.bytes = 0

    def by_block(self, hidden: Tensor) -> None:
        """A block is done; its memory is given back with that of the blocks before it.

        Args:
            hidden: the residual stream before it.
        """
        if hidden.device.type != "cpu":
            return
        self.bytes += hidden.nbytes
        if self.bytes >= OFTEN:
            self.bytes = 0
            _give_back()


def _give_back() -> None:
    """Give freed memory of the host back, where the C library can (glibc)."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """The `malloc_trim` of glibc; None elsewhere."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
