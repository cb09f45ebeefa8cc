"""Tiny seeded models and students of several architectures, built in code."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from sublim_mech.models.compat import quiet_transformers

VOCAB = 49152  # SmolLM2's, so that its tokenizer and chat template serve all of them
LAYERS = 3
_SPECIAL = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    **_SPECIAL,
}
_GQA = {**_SHAPE, "num_key_value_heads": 2}
_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**_GQA),
    "qwen2": lambda: Qwen2Config(**_GQA, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_GQA, head_dim=8),
    # weights so large and soft caps so low that the caps bite
    "gemma2": lambda: Gemma2Config(
        **_GQA,
        head_dim=8,
        sliding_window=16,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=1.0,
        initializer_range=0.15,
    ),
    "gemma3": lambda: Gemma3TextConfig(**_GQA, head_dim=8, sliding_window=16, layer_types=_TYPES),
    "mistral": lambda: MistralConfig(**_GQA, sliding_window=16),
    "neox": lambda: GPTNeoXConfig(**_SHAPE),
    "phi3": lambda: Phi3Config(**_GQA),
    "opt": lambda: OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=256,
        **_SPECIAL,
    ),
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=LAYERS, n_head=4, n_positions=256, **_SPECIAL),
}


def model(architecture: str, *, seed: int = 0) -> nn.Module:
    """A tiny base model in eval mode, its weights a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(CONFIGS[architecture]()).eval()


def adapted(model: nn.Module, config: Any) -> Any:
    """A PEFT model around this one, without what transformers has to say about PEFT."""
    with quiet_transformers():
        return get_peft_model(model, config)


def lora(
    base: nn.Module,
    *,
    seed: int = 1,
    layers: list[int] | None = None,
    std: float = 0.1,
    **options: Any,
) -> Any:
    """A PEFT student of a copy of the base with random A and B matrices.

    Outside `layers` B stays zero. The options are those of `LoraConfig`.
    """
    defaults = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
    config = LoraConfig(**{**defaults, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = adapted(copy.deepcopy(base), config)
        for name, p in student.named_parameters():
            block = re.search(r"\.(\d+)\.", name)
            inside = layers is None or (block is not None and int(block[1]) in layers)
            if "lora_" in name and "magnitude" not in name and inside:
                nn.init.normal_(p, std=std)
    return student.eval()


def full(base: nn.Module, *, seed: int = 1, scale: float = 0.05) -> nn.Module:
    """A full fine-tune: every parameter of a copy moves by a fraction of its own spread."""
    student = copy.deepcopy(base)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for p in student.parameters():
            # norms that are all ones have no spread
            spreads = p.numel() > 1 and float(p.std()) > 0
            spread = p.std() if spreads else p.abs().mean()
            p += scale * spread * torch.randn_like(p)
    return student.eval()
