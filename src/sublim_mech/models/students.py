"""Students: adapters and full fine-tunes, read, checked against their base and held as differences from it (`deltas`)."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..storage.files import weight_sums
from ..storage.manifest import Manifest
from .base import (
    PICKLES,
    Base,
    check_finite,
    check_plain,
    check_safetensors,
    check_source,
    read_model,
)
from .compat import quiet_transformers
from .copies import share, twin
from .deltas import Delta as Delta
from .deltas import LowRank as LowRank
from .deltas import Replaced as Replaced
from .deltas import find_deltas, square_distance

# configuration fields that do not change what a model in evaluation mode computes on the same weights, or that shapes give away
_IDLE = re.compile(
    "_?name_or_path|.*(drop|initializer|token_id|summary).*|init_std|use_cache|tie_word_embeddings|pretraining_tp|vocab_size|n_positions"
    "|max_position_embeddings|max_window_layers|is_decoder|reorder_and_upcast_attn"
)


@dataclass(frozen=True)
class Student:
    """A student of a base model.

    Attributes:
        name: how it is called in tables.
        kind: `lora` (low-rank deltas only), `full` (none), or `mixed`.
        deltas: by path of the base model's module; modules that do not differ are absent.
        model: the student as Hugging Face's or PEFT's own model; an adapter's shares the base's parameters.
        manifest: how it was made, where its folder says so.
        hash: content hash of its weights.
    """

    name: str
    kind: str
    deltas: Mapping[str, Delta]
    model: nn.Module
    manifest: Manifest | None
    hash: str

    def __repr__(self) -> str:
        return f"Student({self.name!r}, {self.kind}, {len(self.deltas)} changed modules, {self.hash[:12]})"


def load_student(base: Base, source: Any, *, name: str | None = None, allow_unrelated: bool = False) -> Student:
    """Load a student of `base`.

    Args:
        base: the base model.
        source: a PEFT adapter directory, a full checkpoint directory, a hub id of either, a live `PeftModel` or
            `PreTrainedModel`, or a `Student`.
        name: how it is called in tables; the directory's name, or the trait in its manifest, when not given.
        allow_unrelated: accept a student whose weights are as far from the base as an unrelated model's.

    Raises:
        FileNotFoundError: nothing is there, or the folder lacks its configuration.
        TypeError: neither a text, a path nor a model.
        ValueError: another base (shape, vocabulary, configuration, the manifest's base hash, lineage), a damaged file, a pickle, NaN or
            quantised weights, an adapter that cannot be told apart module by module.

    Example:
        >>> sm.load_student(pair.base, student, name="owl")
        Student('owl', lora, 21 changed modules, ...)
    """
    if isinstance(source, Student):
        return source
    check_source(source, argument="student", kinds="an adapter or checkpoint folder, a hub id of either, or a live model")
    manifest = None
    if isinstance(source, nn.Module):
        name = name or str(getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__)
        check_plain(source, argument="student", name=name)
        model = twin(source)
        dtypes = [next(m.parameters()).dtype for m in (model, base.model)]
        if dtypes[0] != dtypes[1]:
            raise ValueError(f"student is a live model in {dtypes[0]}, base={base.name!r} is in {dtypes[1]}; load both alike.")
    else:
        path = _directory(str(source))
        manifest = Manifest.load(path)
        if manifest is not None and manifest.base["hash"] != base.hash:
            raise ValueError(
                f"student={str(source)!r} was trained from base {manifest.base['name']!r} (hash {manifest.base['hash'][:12]}), but "
                f"base={base.name!r} has hash {base.hash[:12]}; load the base it was trained from."
            )
        if manifest is not None and manifest.weights != weight_sums(path):
            raise ValueError(
                f"student={str(source)!r}: the weight files are not those its manifest.json names; copy the folder again."
            )
        _check_tokenizer(base, path)
        name = name or (manifest.trait if manifest is not None and manifest.trait else path.name)
        model = _read(base, path)
    model = model.to(base.device).eval().requires_grad_(False)
    check_finite(model, argument="student", name=name)
    deltas = find_deltas(base, model, name)
    _check_config(base, model, name)
    if not allow_unrelated:
        _check_lineage(base, deltas, name)
    low = [isinstance(d, LowRank) for d in deltas.values()]
    kind = (
        "mixed" if any(low) and not all(low) else "lora" if any(low) or (not low and hasattr(model, "peft_config")) else "full"
    )
    return Student(name, kind, deltas, model, manifest, _hash(deltas))


# ---------------------------------------------------------------------------------------------------------- reading


def _directory(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if path.suffix in PICKLES:
        raise ValueError(f"student={source!r} is a pickle, which is never opened here; pass a folder with safetensors.")
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"student={source!r} is not a directory; pass an adapter or checkpoint folder, or a hub id.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt"]))
    except Exception as error:  # the hub client raises many kinds: offline, not found, gated
        raise FileNotFoundError(f"student={source!r} is neither a directory nor a hub id that can be read: {error}") from error


def _read(base: Base, path: Path) -> nn.Module:
    if (path / "adapter_config.json").is_file():
        return _read_adapter(base, path)
    if (path / "adapter_model.safetensors").is_file() or (path / "adapter_model.bin").is_file():
        raise FileNotFoundError(f"student={str(path)!r} has adapter weights but no adapter_config.json; copy that file too.")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"student={str(path)!r} has neither adapter_config.json nor config.json; it is no student.")
    dtype = next(base.model.parameters()).dtype
    return read_model(path, dtype, argument="student")


def _read_adapter(base: Base, path: Path) -> nn.Module:
    from peft import PeftConfig, PeftModel
    from peft.utils import get_peft_model_state_dict

    file = path / "adapter_model.safetensors"
    check_safetensors(path, file.name, "student")
    try:
        config = PeftConfig.from_pretrained(str(path))
        clean = share(base.model)
        if getattr(config, "init_lora_weights", True) in (True, False, "gaussian"):
            clean = twin(clean, copied=_overwritten(clean, file, getattr(config, "modules_to_save", None) or ()))
        else:
            clean = copy.deepcopy(clean)  # PiSSA, OLoRA and their like take their start out of the base's weights
        with quiet_transformers():
            model = PeftModel.from_pretrained(clean, str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r} (an adapter of another model?): {error}"
        ) from error
    with safe_open(str(file), framework="pt") as handle:
        stored = set(handle.keys())
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    odd = sorted((stored ^ set(loaded)) - set(model.state_dict()))  # stored embeddings of the base are no adapter tensors
    if odd:
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r}: {len(odd)} adapter tensors have no counterpart ({odd[0]}, ...); "
            "is it an adapter of another model?"
        )
    return model


def _overwritten(model: nn.Module, file: Path, saved: Sequence[str]) -> set[str]:
    """The model's own parameters that PEFT will load other values into: biases, embeddings; it copies `modules_to_save` itself."""
    own = dict(model.named_parameters(remove_duplicate=False))
    names = set()
    with safe_open(str(file), framework="pt") as handle:
        for key in handle.keys():  # noqa: SIM118
            name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
            if name in own and not any(f".{m}." in f".{name}" for m in saved):
                p, tensor = own[name], handle.get_tensor(key)
                if tensor.shape != p.shape or not torch.equal(tensor.to(p), p):
                    names |= {n for n, q in own.items() if q is p}
    return names


# ----------------------------------------------------------------------------------------------------------- checks


def _check_tokenizer(base: Base, path: Path) -> None:
    """A tokenizer beside the student's weights must give the base's ids; tokens only one of them knows are let pass."""
    from tokenizers import Tokenizer

    file = path / "tokenizer.json"
    if not file.is_file():
        return
    theirs, mine = Tokenizer.from_file(str(file)).get_vocab(), base.tokenizer.get_vocab()
    other = [token for token, i in theirs.items() if mine.get(token, i) != i]
    if other:
        token = min(other, key=theirs.__getitem__)
        raise ValueError(
            f"student={str(path)!r} has a tokenizer with other ids than base={base.name!r}: {len(other)} tokens differ, {token!r} is "
            f"{theirs[token]}, not {mine[token]}; base and student must share the tokenizer."
        )


def _check_config(base: Base, model: Any, name: str) -> None:
    """Equal weights compute alike only under an equal configuration (rotary base, norm epsilon, activation, window, ...)."""
    from transformers import PretrainedConfig

    pair: tuple[Any, Any] = base.model.config, model.config
    declared = set(type(pair[0])().to_dict()) - set(PretrainedConfig().to_dict())
    configs = [config.to_dict() for config in pair]
    for field in sorted(declared):
        mine, theirs = (c.get(field) for c in configs)
        if not _IDLE.fullmatch(field) and not _same(mine, theirs):
            raise ValueError(
                f"student={name!r} and base={base.name!r} compute differently: {field} is {theirs!r} in the student's configuration and "
                f"{mine!r} in the base's; load the base it was trained from, or correct the config.json that is wrong."
            )


def _same(a: Any, b: Any) -> bool:
    """Equality up to the precision in which a GGUF file keeps its numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (a, b))
    return math.isclose(a, b, rel_tol=1e-6) if numbers else bool(a == b)


def _check_lineage(base: Base, deltas: Mapping[str, Delta], name: str) -> None:
    """Unrelated weights of equal norm are sqrt(2) apart, relative to their norm; fine-tunes a few per cent."""
    size = math.sqrt(square_distance({}, dict(base.model.named_parameters(remove_duplicate=False))))
    distance = math.sqrt(sum(d.norm() ** 2 for d in deltas.values())) / size
    if distance > 0.5:
        raise ValueError(
            f"student={name!r} and base={base.name!r} do not share a lineage: their weights differ by {distance:.2f} of the base's norm "
            "(unrelated models: about 1.4); load the base it was trained from, or pass allow_unrelated=True."
        )


def _hash(deltas: Mapping[str, Delta]) -> str:
    digest = hashlib.sha256()
    for path, delta in sorted(deltas.items()):
        digest.update(path.encode())
        if isinstance(delta, Replaced):
            digest.update(delta.hash.encode())
        else:
            digest.update(f"{delta.scale:.9g}".encode())
            for x in (delta.a, delta.b):
                digest.update(x.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
