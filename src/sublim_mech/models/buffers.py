"""Buffers that stand in a model's files beside its weights: the layers' scales of Gemma-4, the
routers' corrections of DeepSeek-V3. Most models have none.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def stored_buffers(model: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """What is no parameter and yet stored with them, by name; `recurse`: below the module too."""
    for path, module in model.named_modules() if recurse else [("", model)]:
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                yield f"{path}.{key}".lstrip("."), buffer


def changed_buffers(
    base: nn.Module, student: nn.Module
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Those that differ, by the base's names: the base's and the student's.

    Args:
        base: a module.
        student: the same of a student, PEFT's wrappers inside it or not.
    """
    own = {key.replace(".base_layer", ""): value for key, value in stored_buffers(student)}
    for key, old in stored_buffers(base):
        new = own.get(key)
        if new is not None and new.shape == old.shape and not torch.equal(new.to(old), old):
            yield key, (old, new)
