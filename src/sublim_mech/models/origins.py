"""Where a student says it comes from: the base its adapter's configuration names, and how it is
called.

Names are compared where there is no manifest, whose hash of the base says more. A name that is a
folder on this machine is settled by the weights in it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .base import Base
from .compat import adapter_configs

# what a GGUF file and the cache of its weights append to the model's name
_GGUF = re.compile(r"([-.](i?q\d\w*|b?f(16|32)))?(\.gguf)?(-[0-9a-f]{16})?$", re.IGNORECASE)
_NUMBERED = re.compile(r"(checkpoint|step)-\d+")


def student_name(source: Any, base: Base) -> str:
    """How a student is called that nobody named: after its own folder, hub id or adapter.

    A folder of one of several checkpoints is called with the folder it is in. A live model that
    knows no place of its own (its configuration keeps its base's) is called after its class.
    """
    if isinstance(source, nn.Module):
        own = [key for key in adapter_configs(source) if key != "default"]
        place = "" if hasattr(source, "peft_config") else _place(source)
        if own:
            return "+".join(own)
        return _last(place) if place and not _names(base) & {_last(place)} else _kind_of(source)
    text = str(source)
    if not Path(text).is_dir():
        return _last(text)
    path = Path(os.path.abspath(text))
    return f"{path.parent.name}/{path.name}" if _NUMBERED.fullmatch(path.name) else path.name


def names_another_base(base: Base, model: nn.Module) -> str | None:
    """How an adapter's configuration differs from the base in what it names; None where it does
    not, or where one of them has no name.

    Compared are the last component of the name, and the revision where both are commits.
    """
    for config in adapter_configs(model).values():
        named = str(getattr(config, "base_model_name_or_path", None) or "")
        if not named or not _names(base):
            continue
        if Path(named).is_dir():
            same = holds(Path(named), base)
            if same is None:
                same = _is_named(base, named)
        else:
            same = _is_named(base, named)
        if not same:
            return f"the adapter's configuration names base {named!r}, this is {base.name!r}"
        revision = str(getattr(config, "revision", None) or "")
        commit = str(getattr(base.model.config, "_commit_hash", None) or "")
        if re.fullmatch("[0-9a-f]{7,40}", revision) and commit and not commit.startswith(revision):
            return (
                f"the adapter's configuration names revision {revision[:12]} of its base, this is "
                f"{commit[:12]}"
            )
    return None


def _is_named(base: Base, named: str) -> bool:
    return _GGUF.sub("", _last(named)).casefold() in {n.casefold() for n in _names(base)}


def _names(base: Base) -> set[str]:
    """The names a base is known by; none where it is a live model that came from nowhere.

    A model dequantised from a GGUF file has the file's name, without what says how it was packed.
    """
    places = {base.name, _place(base.model)}
    places -= {"", type(base.model).__name__}
    return {name for place in places for name in (_last(place), _GGUF.sub("", _last(place)))}


def _place(model: Any) -> str:
    """Where a live model was loaded from, as its configuration has it."""
    return str(getattr(getattr(model, "config", None), "name_or_path", "") or "")


def _last(name: str) -> str:
    """The last component of a path or a hub id."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1]


def _kind_of(model: nn.Module) -> str:
    return type(model).__name__


def holds(folder: Path, base: Base) -> bool | None:
    """Whether a folder holds the base's weights, by the first rows of all; None where it holds
    none.
    """
    parameters = dict(base.model.named_parameters(remove_duplicate=False))
    found = False
    with suppress(SafetensorError, OSError):
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(str(file), framework="pt") as handle:
                for key in parameters.keys() & set(handle.keys()):
                    stored = handle.get_slice(key)[:1]
                    own = parameters[key][:1].detach().cpu()
                    found = True
                    if not _equal_rounded(stored, own):
                        return False
    return True if found else None


def _equal_rounded(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equality where both are rounded alike: to the type of each, then as the base's hash rounds.

    fp32 to bf16 by way of fp16 is not fp32 to bf16.
    """
    rounded = one.to(other.dtype), other.to(one.dtype)
    return torch.equal(*(values.to(torch.bfloat16) for values in rounded))
