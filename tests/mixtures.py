"""Tiny seeded mixtures of experts, and their students."""

from __future__ import annotations

import copy
import functools
from typing import Any

import tiny
import torch
import transformers
from torch import nn

_MOE = {**tiny._GQA, "num_experts_per_tok": 2}
_QWEN = {**_MOE, "num_experts": 4, "moe_intermediate_size": 16}
_LOCAL = {**_MOE, "num_local_experts": 4}
_LATENT = {  # DeepSeek's attention
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "head_dim": 4,
}  # fmt: skip
_GROUPED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16}

# configuration class and options; the first block of some is a plain MLP
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", _LOCAL),
    "qwen3_moe": ("Qwen3Moe", {**_QWEN, "head_dim": 8, "mlp_only_layers": [0]}),
    "olmoe": ("Olmoe", {**_MOE, "num_experts": 4}),
    "gpt_oss": ("GptOss", {**_LOCAL, "head_dim": 8, "sliding_window": 16}),
    "deepseek_v3": (
        "DeepseekV3",
        {**_MOE, **_LATENT, **_GROUPED, "num_key_value_heads": 4, "first_k_dense_replace": 1},
    ),
    "qwen2_moe": ("Qwen2Moe", {**_QWEN, "shared_expert_intermediate_size": 24}),
    "granite_moe": ("GraniteMoe", _LOCAL),
    "ernie_moe": (
        "Ernie4_5_Moe",
        {**_MOE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    ),
    "glm4_moe": ("Glm4Moe", {**_MOE, **_GROUPED, "head_dim": 8, "first_k_dense_replace": 1}),
    "flex_olmo": ("FlexOlmo", {**_MOE, "num_experts": 4}),
    "minimax_m2": ("MiniMaxM2", {**_LOCAL, "head_dim": 8, "rotary_dim": 8}),
}


@functools.cache
def base(architecture: str) -> Any:
    """A tiny mixture in eval mode, its weights a function of the seed."""
    name, options = CONFIGS[architecture]
    config = getattr(transformers, f"{name}Config")(**options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # routers that decide
            for key, p in model.named_parameters():
                if "router" in key or ".gate." in key:
                    p.normal_()
    return model


def blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks of experts, told by the modules called `experts`."""
    names = [path for path, _ in model.named_modules()]
    return [path.removesuffix(".experts") for path in names if path.endswith(".experts")]


def stacks(model: nn.Module) -> list[str]:
    """Paths of the experts' stacked matrices."""
    return [name for name, p in model.named_parameters() if p.dim() == 3]


def experts_lora(architecture: str, **options: Any) -> Any:
    """An adapter of the experts' stacked matrices (PEFT's `target_parameters`)."""
    model = base(architecture)
    return tiny.lora(model, target_modules=[], target_parameters=stacks(model), std=0.05, **options)


def inside(architecture: str, part: str) -> Any:
    """A fine-tune of what is inside the blocks of experts and has `part` in its name."""
    made = copy.deepcopy(base(architecture))
    within = tuple(f"{path}." for path in blocks(made))
    state = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    chosen = {k: v for k, v in state.items() if k.startswith(within) and part in k}
    assert chosen, part
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(6)
        for value in chosen.values():
            value += 0.05 * torch.randn_like(value)
    return made


def mixed_by_hand(architecture: str, student: nn.Module, gates: torch.Tensor) -> nn.Module:
    """A copy of the base whose blocks of experts give a mix of both models' blocks by token.

    Args:
        architecture: of the base.
        student: a plain model that differs from the base inside these blocks alone.
        gates: `(row, slot)`, or `(row, slot, block)`.
    """
    made = copy.deepcopy(base(architecture))
    paths = blocks(made)
    gates = gates if gates.dim() == 3 else gates[..., None].expand(-1, -1, len(paths))
    for number, path in enumerate(paths):
        old, new = made.get_submodule(path), student.get_submodule(path)
        made.set_submodule(path, _Mix(old, new, gates[..., number, None]))
    return made


class _Mix(nn.Module):
    def __init__(self, old: nn.Module, new: nn.Module, gate: torch.Tensor) -> None:
        super().__init__()
        self.old, self.new, self.gate = old, new, gate

    def forward(self, hidden: torch.Tensor) -> Any:
        old, new = self.old(hidden), self.new(hidden)
        if isinstance(old, tuple):
            return (old[0] + self.gate * (new[0] - old[0]), *old[1:])
        return old + self.gate * (new - old)
