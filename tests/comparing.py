"""What models compute, row by row and in the gated forward, and what loading must leave alone."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from sublim_mech.engine.forward import Gates
from sublim_mech.engine.runner import Runner
from sublim_mech.models.students import Student


def rows() -> list[Tensor]:
    """Token ids of three lengths, one longer than the sliding windows of the tiny models."""
    made = torch.Generator().manual_seed(0)
    return [torch.randint(3, tiny.VOCAB, (length,), generator=made) for length in (5, 17, 40)]


@torch.no_grad()
def own_logits(module: Any) -> Tensor:
    """Last-token logits of the model's own forward, row by row, without padding."""
    return torch.stack(
        [module(input_ids=ids[None], use_cache=False).logits[0, -1] for ids in rows()]
    )


@torch.no_grad()
def gated_logits(runner: Runner, of: Student | None) -> Tensor:
    """The same from the gated forward, all rows in one padded batch; None is the runner's model."""
    batch = runner.batch([ids.tolist() for ids in rows()])
    return runner.run(batch, gates=None if of is None else Gates(of)).logits[:, 0]


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference of log-probabilities."""
    return float((a.log_softmax(-1) - b.log_softmax(-1)).abs().max())


def pointers(module: nn.Module) -> set[int]:
    """Where a model's parameters lie in memory."""
    return {p.data_ptr() for p in module.parameters()}


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything about a model that loading must leave alone."""
    modules, state = dict(module.named_modules()), module.state_dict()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "config": copy.deepcopy(module.config.to_dict()),
        "types": {name: type(m) for name, m in modules.items()},
        "training": {name: m.training for name, m in modules.items()},
        "grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "hooks": {name: [len(getattr(m, h)) for h in hooks] for name, m in modules.items()},
        "attributes": {name: sorted(vars(m)) for name, m in modules.items()},
        "pointers": {name: x.data_ptr() for name, x in state.items()},
        "bytes": {
            name: hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
            for name, x in state.items()
        },
    }
