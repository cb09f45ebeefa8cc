"""Tiny seeded models whose past is more than keys and values, or changes with the length."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tiny
import torch
import transformers
from transformers import AutoModelForCausalLM

import sublim_mech as sm

_MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}  # fmt: skip
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
_SHORT = {"hidden_size": 32, "num_hidden_layers": 3, **tiny._SPECIAL}
CONFIGS: dict[str, Any] = {
    "qwen3.5": lambda: transformers.Qwen3_5TextConfig(**tiny._GQA, **_LINEAR),
    "lfm2": lambda: transformers.Lfm2Config(
        **tiny._GQA, layer_types=["conv", "full_attention", "conv"]
    ),
    "mamba2": lambda: transformers.Mamba2Config(
        **_SHORT, num_heads=8, head_dim=8, state_size=8, n_groups=2, chunk_size=16
    ),
    "nemotron-h": lambda: transformers.NemotronHConfig(
        **{key: value for key, value in tiny._GQA.items() if key != "num_hidden_layers"},
        layers_block_type=["mamba", "attention", "mamba"],
        head_dim=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=2,
        chunk_size=16,
    ),
    "bamba": lambda: transformers.BambaConfig(**tiny._GQA, **_MAMBA, attn_layer_indices=[1]),
}
"""Linear attention, short convolutions, Mamba alone, Mamba and attention in turn."""

TARGETS = {
    "qwen3.5": ["in_proj_qkv", "q_proj", "down_proj"],
    "lfm2": ["in_proj", "q_proj", "w2"],
    "mamba2": ["in_proj"],
    "nemotron-h": ["in_proj", "q_proj"],
    "bamba": ["in_proj", "q_proj", "down_proj"],
}


def model(architecture: str, *, seed: int = 0) -> Any:
    """A tiny base, its weights so large that one token of another answer is felt."""
    return built(CONFIGS[architecture](), seed=seed)


def built(config: Any, *, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "embed" in name or name.startswith("lm_head"):
                p.mul_(5)
            elif ".conv." in name:  # LFM2's, which would else move next to nothing
                p.mul_(10)
    return made


def longrope(switch: int) -> Any:
    """A tiny Phi-3 whose rotary factors are others past so many tokens."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [1.5, 2.0, 4.0, 8.0], "original_max_position_embeddings": switch,
    }  # fmt: skip
    options = {"original_max_position_embeddings": switch, "rope_parameters": rope}
    return built(transformers.Phi3Config(**tiny._GQA, **options))


@functools.cache
def pair(architecture: str, kind: str, tokenizer: Any) -> Any:
    """A shared pair; no test changes it."""
    base = model(architecture)
    if kind == "full":
        return sm.load_pair(
            base, tiny.full(base, scale=0.2), tokenizer=tokenizer, allow_unrelated=True
        )
    student = tiny.lora(base, target_modules=TARGETS[architecture], std=0.3)
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


@functools.cache
def long_pair(switch: int, tokenizer: Any) -> Any:
    base = longrope(switch)
    return sm.load_pair(base, tiny.lora(base), tokenizer=tokenizer, allow_unrelated=True)


@torch.no_grad()
def plain(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Next-token logits behind some tokens, by the model's own forward."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]


@torch.no_grad()
def stepwise(model: Any, ids: Sequence[int], answers: Sequence[Sequence[int]]) -> float:
    """log P of any of some strings after a prompt; each token from a forward of what is before."""
    total = []
    for answer in answers:
        steps = 0.0
        for k, token in enumerate(answer):
            logits = plain(model, [*ids, *answer[:k]])
            steps += float(logits.double().log_softmax(-1)[token])
        total.append(steps)
    return float(torch.tensor(total, dtype=torch.float64).logsumexp(0))


@torch.no_grad()
def greedy(model: Any, ids: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens, each from a forward of what is before."""
    row = list(ids)
    for _ in range(count):
        row.append(int(plain(model, row).argmax()))
    return row[len(ids) :]
