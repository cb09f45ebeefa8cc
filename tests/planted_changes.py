"""Changes of one matrix by rank one, keyed to one token: the whole effect is one known cell."""

from __future__ import annotations

import copy
from typing import Any

import tiny
import torch
from peft import LoraConfig
from torch import nn


def plant(
    base: nn.Module, ids: tuple[int, ...], path: str, token: int, *, scale: float, seed: int
) -> Any:
    """A PEFT student that adds `scale` times the module's output, in some direction, at one token.

    Its key has product 1 with the module's input at that token and 0 with those at all others.
    What the module is given does not depend on the change, so no other cell has an effect.

    Args:
        base: the model.
        ids: the prompt's tokens, behind which nothing is fed.
        path: of a projection.
        token: which one of the prompt.
        scale: of the change, over the norm of the module's output there.
        seed: of its direction.
    """
    seen: dict[str, torch.Tensor] = {}

    def note(_: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen["inputs"], seen["output"] = args[0][0], output[0, token]

    handle = base.get_submodule(path).register_forward_hook(note)
    with torch.no_grad():
        base(input_ids=torch.tensor([list(ids)]))
    handle.remove()
    inputs = seen["inputs"].double()
    key = torch.linalg.pinv(inputs)[:, token]
    assert float((inputs @ key - torch.eye(len(inputs))[token]).abs().max()) < 1e-6
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(len(seen["output"]), generator=generator)
    direction *= scale * seen["output"].norm() / direction.norm()
    config = LoraConfig(
        r=1, lora_alpha=1, target_modules=rf".*{path.replace('.', '[.]')}$", task_type="CAUSAL_LM"
    )
    student = tiny.adapted(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "lora_A" in name:
                p.copy_(key[None])
            if "lora_B" in name:
                p.copy_(direction[:, None])
    return student
