"""The one room for what is private or passing in other people's libraries.

Everything here was seen in transformers 5.24.0, PEFT 0.21.2 and TransformerLens 4.3.0. Each name has
a test in `tests/models/test_compat.py` that fails with a sentence saying what moved, so that an
upgrade that breaks something breaks it there first, and is mended here alone.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

# ---------------------------------------------------------------------------- keys and values


class KeysValues(NamedTuple):
    """What a block's attention keeps of the slots it has seen.

    Attributes:
        keys: `(row, kv_head, slot, d_head)`.
        values: `(row, kv_head, slot, d_head)`.
    """

    keys: Tensor
    values: Tensor


Cache = tuple[KeysValues, ...]  # one per block


def make_cache(past: Sequence[tuple[Tensor, Tensor]], rows: int) -> Any:
    """A transformers cache of keys and values per block; no block forgets what leaves its window.

    transformers' own classes for sliding windows would, and would then count the slots otherwise
    than our masks do; so the cache is put together from plain layers.

    Args:
        past: per block the keys and values, of one row (then seen by all rows, as views) or of as
            many as there are rows.
        rows: number of rows of the forward that will use it.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def read_cache(cache: Any) -> Cache:
    """Keys and values per block of a transformers cache, as they stand in it."""
    return tuple(KeysValues(layer.keys, layer.values) for layer in cache.layers)


def call_model(
    model: Any,
    *,
    ids: Tensor,
    mask: Any = None,
    positions: Tensor | None = None,
    cache: Any = None,
    **options: Any,
) -> Any:
    """Call a causal language model of transformers or PEFT; what it gives has `logits`.

    The cache goes under the name that the installed transformers has for it: it was
    `past_key_values`, is `cache` since 5.24 and only `cache` from 5.40 on. A model that is given
    none keeps none.

    Args:
        model: a transformers model, or a PEFT one around it.
        ids: `(row, slot)` token ids.
        mask: `(row, slot)` of ones and zeros, an additive mask `(row, 1, slot, key)`, or one per
            type of layer; None for plain causal attention.
        positions: `(row, slot)` position ids.
        cache: what `make_cache` gave; the forward appends its own keys and values to it.
        **options: handed on (`logits_to_keep`, ...).

    Raises:
        TypeError: a cache for a model that takes none.
    """
    if mask is not None:
        options["attention_mask"] = mask
    if positions is not None:
        options["position_ids"] = positions
    if cache is not None:
        inner: Any = type(_inside_peft(model))
        options[_cache_argument(inner.forward)] = cache
    return model(input_ids=ids, use_cache=cache is not None, **options)


@functools.cache
def _cache_argument(forward: Any) -> str:
    """What a model's forward calls its key-value cache."""
    known = inspect.signature(forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    raise TypeError(f"{forward.__qualname__} takes no cache of keys and values.")


def _inside_peft(model: Any) -> Any:
    """The transformers model; PEFT's own forward takes whatever it is given and hands it on."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# ----------------------------------------------------------------------------------- messages


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No weight-loading bars: they are noise beside our own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft and transformers about each other
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
