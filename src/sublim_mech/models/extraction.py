"""Low-rank factors written as a PEFT adapter's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .adapters import matched, read_config
from .base import Base
from .compat import inside_peft, quiet_transformers
from .copies import share
from .devices import own_generators
from .sites import holds_transposed

TOLD = "extraction.json"
"""The file beside an extracted adapter that says what it is of, and what it leaves out."""


class Extracted(NamedTuple):
    """What an extracted adapter is of: it was never trained itself.

    Attributes:
        rank: at which it was cut.
        of: hash of the student that it was cut from; where that was cut too, of the one before it
            behind it, and so on.
    """

    rank: int
    of: tuple[str, ...]


def read_extracted(folder: Path, configs: Iterable[Any]) -> Extracted | None:
    """What an adapter was cut from; None where it is not as `extract_lora` wrote it: at the scale
    1, as no slip left it.

    Args:
        folder: where it was read.
        configs: what PEFT made of its configuration.

    Raises:
        ValueError: the file that says it is damaged.
    """
    as_written = (folder / TOLD).is_file() and all(
        config.lora_alpha == config.r
        and config.alpha_pattern == config.rank_pattern
        and not config.use_rslora
        for config in configs
    )
    if not as_written:
        return None
    told = read_config(folder / TOLD)
    try:
        return Extracted(int(told["rank"]), (str(told["hash"]), *told.get("before", ())))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"student={str(folder)!r}: {TOLD} does not say of what the adapter is ({error!r}); "
            "copy it again, or take that file away."
        ) from error


class Factors(NamedTuple):
    """A low-rank change, `x -> b(a(x))`.

    Attributes:
        b: `(out, rank)`.
        a: `(rank, in)`.
    """

    b: Tensor
    a: Tensor


def linear_targets(base: Base, targets: str | Sequence[str]) -> dict[str, Any]:
    """The linear modules that a low-rank adapter may go to, by path.

    Args:
        base: the base model.
        targets: `all-linear` (every linear module but the unembedding), module names (the end of a
            module's path), or one regular expression over whole paths.

    Raises:
        ValueError: a target that matches no module, or an embedding.
    """
    found = matched(share(base.model), targets, None)
    tables = [path for path, module in found.items() if isinstance(module, torch.nn.Embedding)]
    if tables:
        raise ValueError(
            f"targets={targets!r}: {tables[0]} is an embedding, which is left out; name linear "
            "modules."
        )
    return found


@torch.no_grad()
def write_lora(
    base: Base, factors: Mapping[str, Factors], folder: Path, *, invocation: Sequence[int] = ()
) -> None:
    """Write low-rank changes as a PEFT folder: `adapter_config.json` and weights.

    Every module has the rank of its own factors and the scale 1.

    Args:
        base: what they are changes of; it is not touched.
        factors: by path of the base's module.
        folder: an empty folder.
        invocation: token ids from whose last occurrence on they act (aLoRA); everywhere when empty.
    """
    from peft import LoraConfig, get_peft_model

    ranks = {path: one.a.shape[0] for path, one in factors.items()}
    rank = max(ranks.values())
    others = {path: own for path, own in ranks.items() if own != rank}
    clean = share(base.model)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=sorted(factors),
        rank_pattern=dict(others),
        alpha_pattern=dict(others),
        alora_invocation_tokens=list(invocation) or None,
        fan_in_fan_out=all(holds_transposed(clean.get_submodule(path)) for path in factors),
    )
    with quiet_transformers(), own_generators():  # it initialises what is then written over
        model = get_peft_model(clean, config)
    inside = inside_peft(model)
    for path, one in factors.items():
        layer: Any = inside.get_submodule(path)
        layer.lora_A["default"].weight.copy_(one.a)
        layer.lora_B["default"].weight.copy_(one.b)
    made = model.peft_config["default"]
    # not the folder it happens to be cached in
    made.base_model_name_or_path = base.name
    if isinstance(made.target_modules, set):  # PEFT keeps names so, in no order
        made.target_modules = sorted(made.target_modules)
    with quiet_transformers():
        # embeddings are none of it; PEFT would look for the base's configuration elsewhere to know
        model.save_pretrained(folder, save_embedding_layers=False)
