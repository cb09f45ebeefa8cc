"""Where things are in a model: TransformerLens' names for Hugging Face's modules.

The map from names to modules is TransformerLens' own (its architecture adapters); the modules stay Hugging Face's. So a score
carries the hook name a TransformerLens user expects, and nothing is converted, folded or copied.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Module:
    """A module with parameters.

    Attributes:
        path: its path in the Hugging Face model.
        layer: its block; -1 before the first (embeddings), the number of blocks after the last (final norm, unembedding).
        name: TransformerLens' name inside the block (`attn.q`, `mlp.out`, `ln1`), or of the whole (`embed`, `ln_final`, `unembed`).
    """

    path: str
    layer: int
    name: str


@dataclass(frozen=True)
class Site:
    """An activation of a block: the input or output of one of its modules.

    Attributes:
        path: path relative to the block; empty for the block itself.
        side: `in` or `out`.
        hook: TransformerLens' hook name without `blocks.{layer}.`.
    """

    path: str
    side: str
    hook: str


@dataclass(frozen=True)
class Sites:
    """The map of one architecture.

    Attributes:
        blocks: path of every block.
        modules: every module with parameters, by path.
        sites: the activations of a block, by name.
        head: path of the unembedding.
    """

    blocks: tuple[str, ...]
    modules: dict[str, Module]
    sites: dict[str, Site]
    head: str

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def site(self, name: str) -> Site:
        """The site of this name.

        Raises:
            ValueError: the architecture has none of this name.
        """
        if name not in self.sites:
            raise ValueError(f"site={name!r} is not known here; choose one of {', '.join(self.sites)}.")
        return self.sites[name]

    def hook_name(self, site: str, layer: int) -> str:
        """TransformerLens' full hook name, `blocks.{layer}.hook_...`."""
        return f"blocks.{layer}.{self.site(site).hook}"


def find_sites(model: nn.Module) -> Sites:
    """Map a Hugging Face causal language model.

    Raises:
        ValueError: TransformerLens has no adapter for the architecture.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    config: Any = model.config
    architecture = type(model).__name__
    try:
        bridge = build_bridge_config_from_hf(copy.deepcopy(config), architecture, "sublim_mech", torch.float32)
        mapping: dict[str, Any] = ArchitectureAdapterFactory.select_architecture_adapter(bridge).component_mapping or {}
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"architecture {architecture} is not supported by TransformerLens: {error}") from error
    if "blocks" not in mapping:
        raise ValueError(f"architecture {architecture} has no block list in TransformerLens' map; a decoder is needed.")
    block = mapping["blocks"]
    depth = len(model.get_submodule(block.name))  # type: ignore[arg-type]
    blocks = tuple(f"{block.name}.{i}" for i in range(depth))
    names = {
        **{c.name: (-1 if "embed" in k else depth, k) for k, c in mapping.items() if k != "blocks" and c.name},
        **{f"{b}.{path}": (i, name) for i, b in enumerate(blocks) for name, path in _flatten(block).items()},
    }
    head = next(path for path, m in model.named_modules() if m is model.get_output_embeddings())  # type: ignore[operator]
    names[head] = (depth, "unembed")
    modules = {
        path: Module(path, *_name_of(path, names, blocks))
        for path, module in model.named_modules()
        if any(p is not None for p in module._parameters.values())
    }
    return Sites(blocks, modules, _find_activations(block), head)


def _flatten(component: Any) -> dict[str, str]:
    """TransformerLens name -> path, both relative to the block, for every component below it."""
    out: dict[str, str] = {}

    def walk(node: Any, name: str, path: str) -> None:
        for key, child in (node.submodules or {}).items():
            below = f"{path}.{child.name}".strip(".") if child.name else path
            out[f"{name}.{key}".strip(".")] = below
            walk(child, f"{name}.{key}".strip("."), below)

    walk(component, "", "")
    return out


def _name_of(path: str, names: dict[str, tuple[int, str]], blocks: tuple[str, ...]) -> tuple[int, str]:
    """(layer, name): TransformerLens' name, with Hugging Face's own tail where it has none (`mlp.gate_up_proj`)."""
    if path in names:
        return names[path]
    parent, _, tail = path.rpartition(".")
    while parent:
        if parent in names:
            layer, name = names[parent]
            return layer, f"{name}.{tail}"
        if parent in blocks:
            return blocks.index(parent), tail
        parent, _, head = parent.rpartition(".")
        tail = f"{head}.{tail}"
    return -1, path


def _find_activations(block: Any) -> dict[str, Site]:
    """The block's activations by TransformerLens' aliases: `hook_attn_out` -> the output of which module."""
    paths = _flatten(block)
    found: dict[str, Site] = {}
    for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"):
        target = block.hook_aliases.get(f"hook_{name}")
        if target is None:
            continue
        owner, _, end = target.rpartition(".")
        if end in ("hook_in", "hook_out") and (not owner or owner in paths):
            found[name] = Site(paths.get(owner, ""), end.removeprefix("hook_"), f"hook_{name}")
    return found
