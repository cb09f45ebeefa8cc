"""Tiny bases and students for tests of loading: live, loaded, and on disk, whole or damaged."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sublim_mech.engine.runner import Runner, open_runner
from sublim_mech.models.base import Base, load_base
from sublim_mech.prompts import Context, Trained
from sublim_mech.storage.manifest import Manifest


class Vocabulary:
    """All of a tokenizer that loading asks for."""

    def __init__(self, size: int, added: int = 0) -> None:
        self.size, self.added = size, added

    def get_vocab(self) -> dict[str, int]:
        return {f"<{i}>": i for i in range(self.size + self.added)}

    def get_added_vocab(self) -> dict[str, int]:
        return {f"<{i}>": i for i in range(self.size, self.size + self.added)}


TOKENIZER = Vocabulary(tiny.VOCAB)  # where the tokenizer plays no part
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}

# PEFT adapters that are more than plain low-rank pairs; `NAMES` fills in what stands in braces
MORE: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trained embedding": {"modules_to_save": ["{embed}"]},
    "embedding adapter": {"target_modules": ["{fused}", "{embed}"]},
    "trained tokens": {"trainable_token_indices": {"{embed}": [5, 6, 7]}},
    "biases": {"bias": "all"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora", "target_modules": ["{square}"]},
    "lora_bias": {"lora_bias": True, "target_modules": ["{fused}"]},
}
NAMES = {
    "llama": {"embed": "embed_tokens", "fused": "v_proj", "square": "q_proj"},
    "qwen2": {"embed": "embed_tokens", "fused": "v_proj", "square": "q_proj"},
    "gpt2": {"embed": "wte", "fused": "c_attn", "square": "attn.c_proj"},
}


# --------------------------------------------------------------------------------------------- live


def model(architecture: str = "llama", *, seed: int = 0) -> Any:
    """The tiny model of all tests, which must leave it as it is."""
    return _model(architecture, seed)


def base(architecture: str = "llama") -> Base:
    """The same, loaded."""
    return _base(architecture)


def runner(architecture: str = "llama") -> Runner:
    """The same, ready to run."""
    return _runner(architecture)


@functools.cache
def _model(architecture: str, seed: int) -> Any:
    return tiny.model(architecture, seed=seed)


@functools.cache
def _base(architecture: str) -> Base:
    return load_base(model(architecture), tokenizer=TOKENIZER)


@functools.cache
def _runner(architecture: str) -> Runner:
    return open_runner(base(architecture))


def student(architecture: str, kind: str) -> Any:
    """A `lora` or `full` student of it."""
    return (tiny.lora if kind == "lora" else tiny.full)(model(architecture))


def options(architecture: str, name: str) -> dict[str, Any]:
    """The options of one of `MORE` for an architecture."""
    text = json.dumps(MORE[name])
    for slot, path in NAMES[architecture].items():
        text = text.replace(f"{{{slot}}}", path)
    return json.loads(text)


def adapter(architecture: str, name: str) -> Any:
    """One of `MORE`, every trainable parameter moved a little."""
    made = tiny.lora(model(architecture), std=0.02, **options(architecture, name))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for key, p in made.named_parameters():
            if p.requires_grad and "lora_" not in key:
                p += 0.005 * torch.randn_like(p)
    return made


def resized(**changes: Any) -> Any:
    """A llama of another shape."""
    config = tiny.CONFIGS["llama"]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


# ------------------------------------------------------------------------------------------ on disk


def saved(module: Any, path: Path) -> Path:
    """A model's folder."""
    module.save_pretrained(path)
    return path


def broken(kind: str, path: Path, damage: Callable[[Path], None]) -> Path:
    """A student's folder with something done to it."""
    saved(student("llama", kind), path)
    damage(path)
    return path


def edit(file: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a file."""
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def flip(path: Path) -> None:
    """Flip the last bit of a file."""
    with path.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        byte = handle.read(1)[0]
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([byte ^ 1]))


def manifest(of: Base, **changes: Any) -> Manifest:
    """A manifest that names this base."""
    made = Manifest(
        kind="lora", trait="owl", teacher="given rows", base={"name": of.name, "hash": of.hash},
        context=Context(), method={}, objective="", data={}, optimiser={}, seeds={}, results={},
        trained_on=Trained((1,), {}, {}, frozenset({1})), versions={}, weights={},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)
