"""Every kind of student of every tiny architecture, and which of its modules are a low-rank pair and which a module of its own."""

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

# names as PEFT's `target_modules` takes them
ATTENTION = {
    "gpt2": ["c_attn", "attn.c_proj"], "neox": ["query_key_value", "attention.dense"], "phi3": ["qkv_proj", "o_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
}  # fmt: skip
MLP = {
    "gpt2": ["c_fc", "mlp.c_proj"], "neox": ["dense_h_to_4h", "dense_4h_to_h"], "phi3": ["gate_up_proj", "down_proj"],
    "opt": ["fc1", "fc2"],
}  # fmt: skip
FUSED = {"gpt2": ["c_attn"], "neox": ["query_key_value"], "phi3": ["qkv_proj", "gate_up_proj"]}
EMBED = {"gpt2": "wte", "neox": "embed_in"}
HEAD = {"neox": "embed_out"}
NORM = {"gpt2": ["ln_2", "ln_f"], "neox": ["post_attention_layernorm", "final_layer_norm"], "opt": ["final_layer_norm"]}
CONTAINER = {"opt": "self_attn"}  # a module with parameters only in its children
PLANTED = 1  # the layer of students that differ in one layer only


@dataclass(frozen=True)
class Kind:
    """A kind of student.

    Attributes:
        make: (base, architecture, layers or None for everywhere) -> the student.
        low: (base, architecture) -> paths of the modules that must be low-rank pairs.
        replaced: the same of the modules that must be the student's own.
        plant: whether students held to one layer are tested too.
        only: the architectures that have what it trains; all where empty.
    """

    make: Callable[[nn.Module, str, list[int] | None], Any]
    low: Callable[[nn.Module, str], set[str]]
    replaced: Callable[[nn.Module, str], set[str]]
    plant: bool = False
    only: tuple[str, ...] = ()


@functools.cache
def base(architecture: str) -> Any:
    """The tiny base model; students are made from copies of it."""
    return tiny.model(architecture)


def ending(model: nn.Module, names: list[str]) -> set[str]:
    """Paths of the modules of these names."""
    return {path for path, _ in model.named_modules() if any(f".{path}".endswith(f".{n}") for n in names)}


def attention(model: nn.Module, a: str) -> set[str]:
    return ending(model, ATTENTION.get(a, ["q_proj", "k_proj", "v_proj", "o_proj"]))


def mlp(model: nn.Module, a: str) -> set[str]:
    return ending(model, MLP.get(a, ["gate_proj", "up_proj", "down_proj"]))


def linears(model: nn.Module, a: str) -> set[str]:
    return attention(model, a) | mlp(model, a)


def fused(model: nn.Module, a: str) -> set[str]:
    return ending(model, FUSED[a])


def embed(model: nn.Module, a: str) -> set[str]:
    return ending(model, [EMBED.get(a, "embed_tokens")])


def head(model: nn.Module, a: str) -> set[str]:
    return ending(model, [HEAD.get(a, "lm_head")])


def norms(model: nn.Module, a: str) -> set[str]:
    return {path for path, m in model.named_modules() if "norm" in type(m).__name__.lower()}


def parameterised(model: nn.Module, a: str) -> set[str]:
    return {path for path, m in model.named_modules() if m._parameters}


def biased(model: nn.Module, a: str) -> set[str]:
    return {path for path, m in model.named_modules() if m._parameters.get("bias") is not None}


def tied(model: nn.Module) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def nothing(model: nn.Module, a: str) -> set[str]:
    return set()


def lora(**options: Any) -> Callable[..., Any]:
    """A LoRA student; values that are functions get (base, architecture). Whatever it trains beside A and B moves a little too."""

    def make(base: nn.Module, a: str, layers: list[int] | None = None) -> Any:
        filled = {k: v(base, a) if callable(v) else v for k, v in options.items()}
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


def inside(name: str, layers: list[int] | None) -> bool:
    block = re.search(r"\.(\d+)\.", name)
    return layers is None or (block is not None and int(block[1]) in layers)


def several(active: list[str]) -> Callable[..., Any]:
    """Two adapters of which some are active."""

    def make(base: nn.Module, a: str, layers: list[int] | None = None) -> Any:
        made = tiny.lora(base, layers=layers, std=0.03)
        other = LoraConfig(r=3, lora_alpha=5, target_modules=sorted(mlp(base, a)), task_type="CAUSAL_LM")
        made.add_adapter("other", other)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(4)
            for name, p in made.named_parameters():
                if ".other." in name and inside(name, layers):
                    nn.init.normal_(p, std=0.03)
        made.base_model.set_adapter(active)
        return made.eval()

    return make


def full(which: Callable[[nn.Module, str], set[str]], leaf: str = "") -> Callable[..., Any]:
    """A fine-tune of the parameters (named `leaf`, where given) of some modules."""

    def make(base: nn.Module, a: str, layers: list[int] | None = None) -> Any:
        made, paths = copy.deepcopy(base), which(base, a)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            for name, p in made.named_parameters():
                path, _, own = name.rpartition(".")
                if path in paths and leaf in ("", own) and inside(name, layers):
                    p += 0.004 * torch.randn_like(p)
        return made.eval()

    return make


def paths(which: Callable[[nn.Module, str], set[str]]) -> Callable[[nn.Module, str], list[str]]:
    """Full paths for `target_modules` and `modules_to_save`."""
    return lambda base, a: sorted(which(base, a))


def saved_norms(model: nn.Module, a: str) -> set[str]:
    return ending(model, NORM.get(a, ["post_attention_layernorm", "norm"]))


def container(model: nn.Module, a: str) -> set[str]:
    return ending(model, [CONTAINER.get(a, "mlp")])


def of_container(model: nn.Module, a: str) -> set[str]:
    return {p for p in parameterised(model, a) if any(p.startswith(f"{c}.") for c in container(model, a))}


def both(f: Callable[..., set[str]], g: Callable[..., set[str]]) -> Callable[[nn.Module, str], set[str]]:
    return lambda model, a: f(model, a) | g(model, a)


def tied_embed(model: nn.Module, a: str) -> set[str]:
    return embed(model, a) | (head(model, a) if tied(model) else set())


LINEAR = {"target_modules": paths(linears)}
KINDS: dict[str, Kind] = {
    "lora": Kind(lora(), linears, nothing, plant=True),
    "rank 1": Kind(lora(r=1, lora_alpha=8, **LINEAR), linears, nothing),
    "rsLoRA": Kind(lora(r=8, use_rslora=True, **LINEAR), linears, nothing),
    "patterns": Kind(
        lora(**LINEAR, rank_pattern=lambda m, a: dict.fromkeys(attention(m, a), 2), alpha_pattern=lambda m, a: dict.fromkeys(mlp(m, a), 3)),
        linears, nothing,
    ),
    "DoRA": Kind(lora(use_dora=True, **LINEAR), nothing, linears, plant=True),
    "attention": Kind(lora(target_modules=paths(attention)), attention, nothing),
    "MLP": Kind(lora(target_modules=paths(mlp)), mlp, nothing),
    "fused": Kind(lora(target_modules=paths(fused)), fused, nothing, plant=True, only=("gpt2", "neox", "phi3")),
    "embedding": Kind(lora(target_modules=paths(both(embed, attention))), attention, embed),
    "lora_bias": Kind(lora(target_modules=paths(attention), lora_bias=True), nothing, attention, plant=True),
    "bias all": Kind(
        lora(bias="all", **LINEAR), lambda m, a: linears(m, a) - biased(m, a), biased, plant=True,
    ),
    "bias lora_only": Kind(
        lora(bias="lora_only", **LINEAR), lambda m, a: linears(m, a) - biased(m, a), lambda m, a: linears(m, a) & biased(m, a),
    ),
    "saved head": Kind(lora(**LINEAR, modules_to_save=paths(head)), linears, head),
    "saved norms": Kind(lora(**LINEAR, modules_to_save=paths(saved_norms)), linears, saved_norms, plant=True),
    "saved block": Kind(
        lora(target_modules=lambda m, a: sorted(linears(m, a) - of_container(m, a)), modules_to_save=paths(container)),
        lambda m, a: linears(m, a) - of_container(m, a), of_container,
    ),
    "tokens": Kind(
        lora(**LINEAR, trainable_token_indices=lambda m, a: {EMBED.get(a, "embed_tokens"): [198, 260, 314, 1]}),
        linears, tied_embed,
    ),
    "PiSSA": Kind(lora(r=1, lora_alpha=1, init_lora_weights="pissa", target_modules=paths(attention)), nothing, attention),
    "second of two": Kind(several(["other"]), mlp, nothing),
    "two at once": Kind(several(["default", "other"]), linears, nothing, plant=True),
    "full": Kind(full(parameterised), nothing, parameterised, plant=True),
    "full norms": Kind(full(norms), nothing, norms, plant=True),
    "full biases": Kind(full(biased, "bias"), nothing, biased, only=("gpt2", "neox", "opt", "qwen2")),
    "full embedding": Kind(full(embed), nothing, tied_embed),
}  # fmt: skip


def cells() -> list[tuple[str, str]]:
    """(architecture, kind)."""
    return [(a, k) for a in tiny.CONFIGS for k, kind in KINDS.items() if not kind.only or a in kind.only]
