"""Kinds of students of the tiny architectures, and what each of their modules must become.

Every kind is made on the three architectures that differ most (`THOROUGH`); the others get the
kinds that ask for something of the architecture itself, and those that only they have.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from peft import LoraConfig
from torch import nn

# llama as most models are; GPT-2 with transposed and fused weights, biases and tied embeddings;
# Gemma-3 with norms before and behind, and heads before tokens in some of them
THOROUGH = ("llama", "gpt2", "gemma3")
PLANTED = 1  # the layer of students that differ in one layer only

Chooser = Callable[[nn.Module, str], set[str]]
"""(base, architecture) -> paths of modules."""


@dataclass(frozen=True)
class Kind:
    """A kind of student.

    Attributes:
        make: (base, architecture, layers or None for everywhere) -> the student.
        low: the modules that must become low-rank pairs.
        replaced: the modules that must become the student's own.
        plant: whether students held to one layer are tested too.
        everywhere: whether it is made on all architectures.
        only: the architectures that have what it trains; all where empty.
        adapter: which adapters are meant, where it has several.
    """

    make: Callable[[nn.Module, str, list[int] | None], Any]
    low: Chooser
    replaced: Chooser
    plant: bool = False
    everywhere: bool = False
    only: tuple[str, ...] = ()
    adapter: tuple[str, ...] | None = None

    def lives_on(self, architecture: str) -> bool:
        """Whether it is tested on an architecture."""
        if self.only:
            return architecture in self.only
        return self.everywhere or architecture in THOROUGH


@functools.cache
def base(architecture: str) -> Any:
    """The tiny base model; students are made from copies of it."""
    return tiny.model(architecture)


# ------------------------------------------------------------------------------------------ modules

# names as PEFT's `target_modules` takes them, where they are not llama's
ATTENTION = {
    "gpt2": ["c_attn", "attn.c_proj"],
    "neox": ["query_key_value", "attention.dense"],
    "phi3": ["qkv_proj", "o_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
MLP = {
    "gpt2": ["c_fc", "mlp.c_proj"],
    "neox": ["dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["gate_up_proj", "down_proj"],
    "opt": ["fc1", "fc2"],
}
FUSED = {
    "gpt2": ["c_attn"],
    "neox": ["query_key_value"],
    "phi3": ["qkv_proj", "gate_up_proj"],
}


def ending(model: nn.Module, names: list[str]) -> set[str]:
    """Paths of the modules of these names."""
    paths = [path for path, _ in model.named_modules()]
    return {path for path in paths if any(f".{path}".endswith(f".{name}") for name in names)}


def attention(model: nn.Module, architecture: str) -> set[str]:
    llama = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return ending(model, ATTENTION.get(architecture, llama))


def mlp(model: nn.Module, architecture: str) -> set[str]:
    return ending(model, MLP.get(architecture, ["gate_proj", "up_proj", "down_proj"]))


def linears(model: nn.Module, architecture: str) -> set[str]:
    return attention(model, architecture) | mlp(model, architecture)


def fused(model: nn.Module, architecture: str) -> set[str]:
    return ending(model, FUSED[architecture])


def embed_name(architecture: str) -> str:
    return "wte" if architecture == "gpt2" else "embed_tokens"


def embed(model: nn.Module, architecture: str) -> set[str]:
    return ending(model, [embed_name(architecture)])


def head(model: nn.Module, architecture: str) -> set[str]:
    return ending(model, ["lm_head"])


def norms(model: nn.Module, architecture: str) -> set[str]:
    return {path for path, m in model.named_modules() if "norm" in type(m).__name__.lower()}


def saved_norms(model: nn.Module, architecture: str) -> set[str]:
    names = ["ln_2", "ln_f"] if architecture == "gpt2" else ["post_attention_layernorm", "norm"]
    return ending(model, names)


def parameterised(model: nn.Module, architecture: str) -> set[str]:
    return {path for path, m in model.named_modules() if m._parameters}


def biased(model: nn.Module, architecture: str) -> set[str]:
    return {path for path, m in model.named_modules() if m._parameters.get("bias") is not None}


def container(model: nn.Module, architecture: str) -> set[str]:
    """Modules with parameters only in their children."""
    return ending(model, ["mlp"])


def of_container(model: nn.Module, architecture: str) -> set[str]:
    above = tuple(f"{path}." for path in container(model, architecture))
    return {path for path in parameterised(model, architecture) if path.startswith(above)}


def tied_embed(model: nn.Module, architecture: str) -> set[str]:
    """The embedding, and the head where it is the same."""
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return embed(model, architecture) | (head(model, architecture) if tied else set())


def nothing(model: nn.Module, architecture: str) -> set[str]:
    return set()


def both(first: Chooser, second: Chooser) -> Chooser:
    return lambda model, architecture: first(model, architecture) | second(model, architecture)


def without(first: Chooser, second: Chooser) -> Chooser:
    return lambda model, architecture: first(model, architecture) - second(model, architecture)


def common(first: Chooser, second: Chooser) -> Chooser:
    return lambda model, architecture: first(model, architecture) & second(model, architecture)


def paths(choose: Chooser) -> Callable[[nn.Module, str], list[str]]:
    """Full paths for `target_modules` and `modules_to_save`."""
    return lambda model, architecture: sorted(choose(model, architecture))


# ----------------------------------------------------------------------------------------- students


def inside(name: str, layers: list[int] | None) -> bool:
    """Whether a parameter stands in one of these layers."""
    block = re.search(r"\.(\d+)\.", name)
    return layers is None or (block is not None and int(block[1]) in layers)


def lora(**options: Any) -> Callable[..., Any]:
    """A LoRA student; values that are functions get (base, architecture).

    Whatever it trains beside A and B moves a little too.
    """

    def make(base: nn.Module, architecture: str, layers: list[int] | None = None) -> Any:
        filled = {
            key: value(base, architecture) if callable(value) else value
            for key, value in options.items()
        }
        made = tiny.lora(base, layers=layers, std=0.03, **filled)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            for name, p in made.named_parameters():
                if "magnitude" in name and inside(name, layers):
                    p *= 1.03
                elif name.endswith("bias") and "lora_B" in name:
                    p *= 0.03  # beside the tiny activations
                elif p.requires_grad and "lora_" not in name and inside(name, layers):
                    p += 0.004 * torch.randn_like(p)
        return made

    return make


def several(active: list[str]) -> Callable[..., Any]:
    """Two adapters of which some are active."""

    def make(base: nn.Module, architecture: str, layers: list[int] | None = None) -> Any:
        made = tiny.lora(base, layers=layers, std=0.03)
        targets = sorted(mlp(base, architecture))
        other = LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM")
        made.add_adapter("other", other)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(4)
            for name, p in made.named_parameters():
                if ".other." in name and inside(name, layers):
                    nn.init.normal_(p, std=0.03)
        made.base_model.set_adapter(active)
        return made.eval()

    return make


def full(choose: Chooser, leaf: str = "") -> Callable[..., Any]:
    """A fine-tune of the parameters (named `leaf`, where given) of some modules."""

    def make(base: nn.Module, architecture: str, layers: list[int] | None = None) -> Any:
        made, chosen = copy.deepcopy(base), choose(base, architecture)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            for name, p in made.named_parameters():
                path, _, last = name.rpartition(".")
                if path in chosen and leaf in ("", last) and inside(name, layers):
                    p += 0.004 * torch.randn_like(p)
        return made.eval()

    return make


LINEAR = {"target_modules": paths(linears)}
RANKS = {
    "rank_pattern": lambda model, a: dict.fromkeys(attention(model, a), 2),
    "alpha_pattern": lambda model, a: dict.fromkeys(mlp(model, a), 3),
}
TOKENS = {"trainable_token_indices": lambda model, a: {embed_name(a): [198, 260, 314, 1]}}
PISSA = {"r": 1, "lora_alpha": 1, "init_lora_weights": "pissa"}
OUTSIDE = without(linears, of_container)
BIASED = ("gpt2", "qwen2")  # all projections, and some

KINDS: dict[str, Kind] = {
    # low-rank pairs
    "lora": Kind(lora(), linears, nothing, plant=True, everywhere=True),
    "rank 1": Kind(lora(r=1, lora_alpha=8, **LINEAR), linears, nothing),
    "rsLoRA": Kind(lora(r=8, use_rslora=True, **LINEAR), linears, nothing),
    "patterns": Kind(lora(**LINEAR, **RANKS), linears, nothing),
    "attention": Kind(lora(target_modules=paths(attention)), attention, nothing),
    "MLP": Kind(lora(target_modules=paths(mlp)), mlp, nothing),
    "fused": Kind(lora(target_modules=paths(fused)), fused, nothing, plant=True, only=tuple(FUSED)),
    "second of two": Kind(several(["other"]), mlp, nothing, adapter=("other",)),
    "two at once": Kind(
        several(["default", "other"]), linears, nothing, plant=True, adapter=("default", "other")
    ),
    # adapters of which some or all modules are more than a pair
    "DoRA": Kind(lora(use_dora=True, **LINEAR), nothing, linears, plant=True, everywhere=True),
    "PiSSA": Kind(lora(**PISSA, target_modules=paths(attention)), nothing, attention),
    "lora_bias": Kind(
        lora(target_modules=paths(attention), lora_bias=True), nothing, attention, plant=True
    ),
    "embedding": Kind(lora(target_modules=paths(both(embed, attention))), attention, embed),
    "tokens": Kind(lora(**LINEAR, **TOKENS), linears, tied_embed),
    "bias all": Kind(
        lora(bias="all", **LINEAR), without(linears, biased), biased, plant=True, only=BIASED
    ),
    "bias lora_only": Kind(
        lora(bias="lora_only", **LINEAR),
        without(linears, biased),
        common(linears, biased),
        only=BIASED,
    ),
    "saved head": Kind(lora(**LINEAR, modules_to_save=paths(head)), linears, head),
    "saved norms": Kind(
        lora(**LINEAR, modules_to_save=paths(saved_norms)), linears, saved_norms, plant=True
    ),
    "saved block": Kind(
        lora(target_modules=paths(OUTSIDE), modules_to_save=paths(container)), OUTSIDE, of_container
    ),
    # full fine-tunes
    "full": Kind(full(parameterised), nothing, parameterised, plant=True, everywhere=True),
    "full norms": Kind(full(norms), nothing, norms, plant=True),
    "full biases": Kind(
        full(biased, "bias"), nothing, biased, only=("gpt2", "neox", "opt", "qwen2")
    ),
    "full embedding": Kind(full(embed), nothing, tied_embed),
}


def cells() -> list[tuple[str, str]]:
    """(architecture, kind)."""
    return [
        (architecture, name)
        for architecture in tiny.CONFIGS
        for name, kind in KINDS.items()
        if kind.lives_on(architecture)
    ]
