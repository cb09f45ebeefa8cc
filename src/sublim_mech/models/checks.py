"""What a model must be before anything is computed with it; every message names the argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..hints import kind_of
from ..storage.runs import Run
from .names import length_limit
from .quantised import METHODS, is_projection, is_quantised, plain_tensors

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that run code when they are opened."""


def check_source(source: Any, *, argument: str, kinds: str) -> None:
    """Raise TypeError where a source is neither a text, a path nor a model."""
    if not isinstance(source, (str, os.PathLike, nn.Module)) or source == "":
        run = "; pass its folder, run.path" if isinstance(source, Run) else f"; pass {kinds}"
        raise TypeError(f"{argument}={source!r} is no model{run}.")


def check_plain(model: Any, *, argument: str, name: str) -> None:
    """Raise ValueError where weights are quantised in a way that cannot be analysed.

    A model that transformers dequantised from a GGUF file is plain. A base may have quantised
    projections (`refuse_quantised`).
    """
    config = getattr(model, "config", None)
    refuse_quantised(getattr(config, "quantization_config", None), argument=argument, name=name)
    for path, module in model.named_modules():
        if is_quantised(module) and not (argument == "base" and is_projection(module)):
            key, p = next((key, p) for key, p in module._parameters.items() if p is not None)
            raise ValueError(
                f"{argument}={name!r} is quantised: {f'{path}.{key}'.lstrip('.')} is "
                f"{_type_of(p)}; pass the checkpoint it was made from."
            )


def _type_of(p: torch.Tensor) -> str:
    """What a packed parameter is, in a message."""
    return type(p).__name__ if p.is_floating_point() else str(p.dtype)


def refuse_quantised(mark: Any, *, argument: str, name: str) -> None:
    """Raise ValueError on a `quantization_config`: packed weights cannot be compared exactly.

    A base of `quantised.METHODS` is let pass, since a LoRA over it needs no comparison.
    """
    if not mark:
        return
    fields = mark if isinstance(mark, dict) else vars(mark)
    method = getattr(fields.get("quant_method"), "value", fields.get("quant_method"))
    if method == "gguf" or (argument == "base" and method in METHODS):
        return
    among = f" A base may be quantised by {', '.join(METHODS)}, for LoRA students."
    raise ValueError(
        f"{argument}={name!r} is quantised (quantization_config: {method}): packed weights "
        "cannot be compared exactly; pass the checkpoint it was made from, or dequantise it "
        f"(model.dequantize()) and save that.{among if argument == 'base' else ''}"
    )


def check_safetensors(path: Path, pattern: str, argument: str) -> None:
    """Every file of the pattern opens as safetensors; at least one is there.

    Raises:
        FileNotFoundError: none is there.
        ValueError: a pickle stands in its place, or one is damaged.
    """
    files = sorted(path.glob(pattern))
    if not files:
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{argument}={str(path)!r} holds pickled weights ({', '.join(pickles)}), which are "
                "never opened here; convert them to safetensors "
                "(model.save_pretrained(..., safe_serialization=True))."
            )
        raise FileNotFoundError(
            f"{argument}={str(path)!r} holds no {pattern}; "
            "pass a folder written by save_pretrained."
        )
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{argument}: {file} is truncated or not a safetensors file ({error}); "
                "copy it again."
            ) from error


COVERED = 0.5
"""Part of the embedding's rows below which a tokenizer is another model's: vocabularies are padded,
by a third at most.
"""


def check_tokenizer(tokenizer: Any, model: Any, *, name: str) -> None:
    """The tokenizer's ids must be rows of the model's embedding, and most of them.

    Tokens added to a tokenizer may have no row (Gemma-3's image token in its text models has none):
    `Runner.batch` refuses texts that hold one.

    Raises:
        TypeError: it has no vocabulary.
        ValueError: ids without a row, or far fewer ids than rows.
    """
    if not all(hasattr(tokenizer, needed) for needed in ("get_vocab", "get_added_vocab")):
        raise TypeError(
            f"tokenizer is {kind_of(tokenizer)}; pass the model's own fast tokenizer "
            "(transformers.AutoTokenizer.from_pretrained)."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    added = set(tokenizer.get_added_vocab().values())
    ids = set(tokenizer.get_vocab().values())
    beyond = sorted(i for i in ids - added if i >= rows)
    covered = sum(i < rows for i in ids)
    if beyond:
        told = f"{len(beyond)} of its {len(ids)} ids are beyond them (the largest is {beyond[-1]})"
    elif covered < COVERED * rows:
        told = f"it has {covered} ids for them"
    else:
        return
    raise ValueError(
        f"the tokenizer does not fit base={name!r}: the model's embedding has {rows} rows, {told}; "
        "pass the tokenizer the model was trained with (tokenizer=...)."
    )


def check_length(model: Any, needed: int, what: str) -> None:
    """Raise ValueError where `needed` positions are more than the model has."""
    limit = length_limit(model.config)
    if limit is not None and needed > limit:
        raise ValueError(f"{what} needs {needed} positions, the model has {limit}; shorten it.")


def check_finite(model: nn.Module, *, argument: str, name: str) -> None:
    """Raise ValueError naming the first parameters that hold NaN or infinity."""
    bad = []
    for key, parameter in model.named_parameters():
        for _, values in plain_tensors(key, parameter.detach()):
            if not values.numel() or not values.is_floating_point() or values.itemsize == 1:
                continue
            # the extremes of a tensor with a NaN are NaN; isfinite would copy the tensor
            extremes = torch.stack(values.aminmax())
            if not bool(torch.isfinite(extremes).all()):
                bad.append(key)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(
            f"{argument}={name!r} has NaN or infinite weights in {', '.join(bad[:3])}{more}; "
            "the checkpoint is unusable."
        )
