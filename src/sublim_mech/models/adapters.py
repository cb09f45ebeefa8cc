"""Attaching a fresh, trainable adapter to a base model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from .base import Base
from .compat import quiet_transformers
from .copies import share


def attach_lora(
    base: Base,
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    rslora: bool = False,
    layers: Sequence[int] | None = None,
    dora: bool = False,
) -> Any:
    """A trainable PEFT model over the base's parameters; the base object is not touched.

    Args:
        base: the base model.
        rank: rank of each update.
        alpha: scale, divided by rank, or by its square root with `rslora`.
        targets: `all-linear`, module names (the end of a module's path), or one regular expression over whole paths.
        dropout: dropout on the adapter's input.
        rslora: rank-stabilised scale (arXiv 2312.03732).
        layers: indices of the blocks that get an adapter.
        dora: weight-decomposed adaptation (arXiv 2402.09353).

    Raises:
        ValueError: a target or a layer that matches no module; a rank above what a matrix can have.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    model = share(base.model)
    chosen = _matched(model, targets, layers)
    for path, module in chosen.items():
        rows, columns = module.weight.shape
        if rank > min(rows, columns):
            raise ValueError(
                f"LoRA(rank={rank}): {path} is a {rows} x {columns} matrix, whose updates have rank {min(rows, columns)} at most; "
                "lower the rank, or leave it out of targets."
            )
    names = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, use_dora=dora, task_type="CAUSAL_LM",
        target_modules=names if layers is None else list(chosen),  # PEFT takes no layers beside `all-linear` or an expression
        fan_in_fan_out=all(isinstance(m, Conv1D) for m in chosen.values()),
    )  # fmt: skip
    with quiet_transformers():
        model = get_peft_model(model, config)
    model.peft_config["default"].base_model_name_or_path = base.name  # not the folder it happens to be cached in
    return model


def _matched(model: Any, targets: str | Sequence[str], layers: Sequence[int] | None) -> dict[str, Any]:
    """The modules an adapter goes to, by path."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    known = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D | nn.Embedding)}
    names = sorted({path.rsplit(".", 1)[-1] for path in known})
    if targets == "all-linear":
        chosen = {path: m for path, m in known.items() if m is not head and not isinstance(m, nn.Embedding)}
    elif isinstance(targets, str):
        chosen = {path: m for path, m in known.items() if re.fullmatch(targets, path)}
        if not chosen:
            raise ValueError(
                f"LoRA(targets={targets!r}): this regular expression matches no whole module path, such as {next(iter(known))!r}; "
                f"for module names pass a tuple of them: {', '.join(names)}."
            )
    else:
        chosen = {}
        for target in targets:
            found = {path: m for path, m in known.items() if path == target or path.endswith(f".{target}")}
            if not found:
                near = get_close_matches(target, names, n=3)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "there is no such module."
                raise ValueError(
                    f"LoRA(targets=...): no module is called {target!r}; {hint} The modules are {', '.join(names)}."
                )
            chosen |= found
    if layers is None:
        return chosen
    blocks = {path: int(match[1]) for path in known if (match := re.match(r".*?\.(\d+)\.", path))}
    for layer in layers:
        if layer not in blocks.values():
            raise ValueError(
                f"LoRA(layers=...): there is no layer {layer}; the model has 0 to {max(blocks.values(), default=0)}."
            )
    return {path: m for path, m in chosen.items() if blocks.get(path) in layers}
