"""Quantised tiny models that run on a CPU: one made here, and torchao's, bitsandbytes' and HQQ's
where they are installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig


class Packed(nn.Linear):
    """A linear layer that keeps whole numbers and a scale per row, as 8-bit quantisation does; PEFT
    wraps it as any other.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        scale = plain.weight.detach().abs().amax(1, keepdim=True) / 127
        whole = (plain.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor) -> Tensor:
        scale: Any = self.scale
        return nn.functional.linear(input, self.weight.to(input.dtype) * scale)


def replaced(model: Any, make: Callable[[nn.Linear], nn.Module]) -> Any:
    """A copy whose blocks' projections are other modules."""
    made = copy.deepcopy(model)
    for path, module in list(made.model.layers.named_modules()):
        if type(module) is nn.Linear:
            made.model.layers.set_submodule(path, make(module))
    return made.eval()


def stand_in(model: Any) -> Any:
    """Quantised by `Packed`."""
    return replaced(model, Packed)


def torchao(model: Any) -> Any:
    """By torchao, weights in 8 bit."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    made = copy.deepcopy(model)
    quantize_(made.model, Int8WeightOnlyConfig())
    return made


def four_bit(model: Any) -> Any:
    """By bitsandbytes, nf4."""
    import bitsandbytes as bnb

    def make(plain: nn.Linear) -> nn.Module:
        sizes = plain.in_features, plain.out_features
        layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        weight = plain.weight.data.clone()
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        return layer.to("cpu")

    made = replaced(model, make)
    made.is_loaded_in_4bit = True
    return made


def eight_bit(model: Any) -> Any:
    """By bitsandbytes, 8 bit without outliers."""
    import bitsandbytes as bnb

    def make(plain: nn.Linear) -> nn.Module:
        sizes = plain.in_features, plain.out_features
        layer = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=0.0)
        weight = plain.weight.data.clone()
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        return layer.to("cpu")

    made = replaced(model, make)
    made.is_loaded_in_8bit = True
    return made


def hqq(model: Any) -> Any:
    """By HQQ, 4 bit."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    how = BaseQuantizeConfig(nbits=4, group_size=32)
    return replaced(
        model, lambda plain: HQQLinear(plain, how, compute_dtype=torch.float32, device="cpu")
    )


PACKED: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "stand-in": (stand_in, None),
    "torchao": (torchao, "torchao"),
    "bitsandbytes 4 bit": (four_bit, "bitsandbytes"),
    "bitsandbytes 8 bit": (eight_bit, "bitsandbytes"),
    "HQQ": (hqq, "hqq"),
}
"""How a model is packed, and which package it needs."""


def plain_model() -> Any:
    """A llama whose widths are whole blocks of all of them."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()
