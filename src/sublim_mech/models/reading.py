"""Reading a transformers checkpoint and its tokenizer: safetensors only, whole, nothing made up."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hints import counted, outside
from .checks import check_plain, check_safetensors, refuse_quantised
from .compat import auto_class, quiet_transformers

_IDLE = re.compile(
    r"inv_freq$|attn\.(masked_)?bias$|position_ids$"
    r"|(^|\.)(vision|visual|vqmodel|audio|multi_modal|image|embed_(vision|audio)|connector|mtp)"
)
"""Tensors of a file that a language model has no use for: buffers that older versions wrote, towers
of other senses, heads for several tokens at once."""


def read_model(source: str | Path, dtype: torch.dtype, *, argument: str) -> nn.Module:
    """Read a transformers checkpoint.

    Args:
        source: a folder, or a hub id.
        dtype: floating-point type of the weights.
        argument: what messages call it.

    Raises:
        FileNotFoundError: nothing is there, or it cannot be reached.
        ValueError: pickles only, a damaged file, missing or quantised weights.
    """
    name = str(source)
    path = Path(source)
    if path.is_dir():
        check_safetensors(path, "model*.safetensors", argument)
        # transformers says better what is wrong with a configuration
        with suppress(OSError, json.JSONDecodeError):
            config = json.loads((path / "config.json").read_text())
            refuse_quantised(config.get("quantization_config"), argument=argument, name=name)
    with quiet_transformers():
        try:
            model, info = auto_class(name).from_pretrained(
                name,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except OSError as error:
            raise FileNotFoundError(f"{argument}={name!r} cannot be loaded: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{argument}={name!r}: the weights do not fit its config.json: {error}"
            ) from error
        except ImportError as error:  # a hub checkpoint that needs a quantisation library
            raise ValueError(
                f"{argument}={name!r} cannot be loaded: {error}; install what it names, or pass "
                "the checkpoint it was made from."
            ) from error
    check_plain(model, argument=argument, name=name)
    missing = sorted(info["missing_keys"])  # transformers would go on with random ones
    if missing:
        raise ValueError(
            f"{argument}={name!r} lacks {counted(len(missing), 'weight')} ({missing[0]}, ...); "
            "copy it again."
        )
    placeless = sorted(key for key in info["unexpected_keys"] if not _IDLE.search(key))
    if placeless:
        warnings.warn(
            f"{argument}={name!r}: {counted(len(placeless), 'tensor')} of its files "
            f"({placeless[0]}, ...) {'has' if len(placeless) == 1 else 'have'} no place in the "
            f"model that its config.json describes, and {'is' if len(placeless) == 1 else 'are'} "
            "left out; check that the two belong together.",
            stacklevel=outside(),
        )
    return model


def read_tokenizer(source: str) -> Any:
    """Read the fast tokenizer beside a base model's weights, or of a hub id.

    Raises:
        FileNotFoundError: there is none.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"base={source!r} has no tokenizer ({error}); pass tokenizer=..."
            ) from error
