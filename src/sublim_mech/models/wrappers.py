"""Text models inside wrappers: a model that also sees or hears, used for its text alone.

A wrapper (`Gemma3ForConditionalGeneration`) holds a text model, the unembedding, and what stands
aside of them: vision towers, projectors. No text runs through those, so that they have no gates, no
cells and no part in a text student.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from .names import is_wrapper

Value = TypeVar("Value")


def text_root(model: Any) -> str:
    """The path of the text model that embeds the tokens: `model`, `model.language_model`, ..."""
    from transformers import PreTrainedModel

    embed = model.get_input_embeddings()
    where = next(path for path, module in model.named_modules() if module is embed)
    roots = [
        path
        for path, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and f"{where}.".startswith(f"{path}.")
    ]
    return max(roots, key=len, default="")


def asides(model: Any) -> frozenset[str]:
    """The modules with parameters that no text runs through, by path; none of a model of text."""
    if not is_wrapper(model.config):
        return frozenset()
    root, head = text_root(model), model.get_output_embeddings()
    return frozenset(
        path
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and module is not head
        and not f"{path}.".startswith(f"{root}.")
    )


def without_asides(
    model: nn.Module, changes: Mapping[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """What a student changes of the text model, and the paths of what it changes beside it."""
    aside = asides(model)
    text = {path: change for path, change in changes.items() if path not in aside}
    return text, [path for path in changes if path in aside]


def told(left_out: Iterable[str]) -> str | None:
    """What a reader of a student's scores has to know of what was left out; None where nothing."""
    paths = list(left_out)
    if not paths:
        return None
    several = f"s, {paths[0]} and others" if len(paths) > 1 else f" {paths[0]}"
    return (
        f"it changes {len(paths)} module{several} that no text runs through (a vision tower or a "
        "projector): left out, its text does not depend on them"
    )
