"""Gradients of long prompts: each block's activations are computed again in the backward pass.

A backward pass needs what every block computed. Here a block keeps its input only; when its turn
comes it is run once more, under the same hooks, and then differentiated (Chen et al., arXiv
1604.06174). The same operations on the same numbers: gradients differ by float noise at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
    replaced, inputs = [], _Inputs(len(blocks))
    for path in blocks:
        block = model.get_submodule(path)
        replaced.append((block, vars(block).get("forward")))
        block.forward = _twice(block.forward, partial(hooked, path), inputs)
    try:
        yield
    finally:
        for block, forward in replaced:
            del block.forward
            if forward is not None:  # somebody else had put one there
                block.forward = forward


class _Inputs:
    """The inputs of all blocks in one piece of memory.

    Kept where they were allocated, each would pin the heap around it, which then cannot give back
    what a block's own activations took: three times as much resident memory at 2,048 tokens.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._free: list[Tensor] = []

    def keep(self, hidden: Tensor) -> Tensor:
        """A copy without history."""
        if not self._free:
            room = torch.empty(
                (self._blocks, *hidden.shape), dtype=hidden.dtype, device=hidden.device
            )
            self._free = list(room)
        if self._free[-1].shape != hidden.shape or self._free[-1].dtype != hidden.dtype:
            return hidden.detach().clone()
        return self._free.pop().copy_(hidden.detach())


def _twice(
    forward: Callable[..., Any],
    hooked: Callable[[], AbstractContextManager[None]],
    inputs: _Inputs,
) -> Callable[..., Any]:
    """A block's forward that is run again when its gradients are asked for."""

    def run(*args: Any, **kwargs: Any) -> Any:
        given = list(args)

        def block() -> Any:
            return forward(*given, **kwargs)

        output = checkpoint(
            block,
            use_reentrant=False,
            preserve_rng_state=False,  # models are in eval mode: nothing is drawn
            context_fn=lambda: (nullcontext(), hooked()),
        )
        if given and isinstance(given[0], Tensor):
            given[0] = inputs.keep(given[0]).requires_grad_(given[0].requires_grad)
        return output

    return run
