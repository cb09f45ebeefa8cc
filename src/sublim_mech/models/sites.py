"""Where things are in a model: TransformerLens' names for Hugging Face's modules.

The map from names to modules is TransformerLens' own (its architecture adapters); the modules stay Hugging Face's. So a score
carries the hook name a TransformerLens user expects, and nothing is converted, folded or copied.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class Module:
    """A module with parameters.

    Attributes:
        path: its path in the Hugging Face model.
        layer: its block; -1 before the first (embeddings), the number of blocks after the last (final norm, unembedding).
        name: TransformerLens' name inside the block (`attn.q`, `mlp.out`, `ln1`), or of the whole (`embed`, `ln_final`, `unembed`).
        axis: which axis of its output the tokens are on (Gemma-3's q and k norms have heads before tokens).
    """

    path: str
    layer: int
    name: str
    axis: int = 1


@dataclass(frozen=True)
class Site:
    """An activation of a block: the input or output of one of its modules.

    Attributes:
        path: path relative to the block; empty for the block itself.
        side: `in` or `out`.
        hook: TransformerLens' hook name without `blocks.{layer}.`.
        d_head: width of a head where the activation is per head, else 0.
        columns: which columns of a fused projection are this activation; None for all.
    """

    path: str
    side: str
    hook: str
    d_head: int = 0
    columns: Tensor | None = None

    def get(self, x: Tensor) -> Tensor:
        """The activation in the module's tensor `x (row, slot, column)`: `(row, slot, d)`, or `(row, slot, head, d_head)`."""
        if self.columns is not None:
            x = x[..., self.columns.to(x.device)]
        return rearrange(x, "... (head d) -> ... head d", d=self.d_head) if self.d_head else x

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """The module's tensor with the activation replaced."""
        value = rearrange(value, "... head d -> ... (head d)") if self.d_head else value
        return value if self.columns is None else x.index_copy(-1, self.columns.to(x.device), value.to(x.dtype))


@dataclass(frozen=True)
class Sites:
    """The map of one architecture.

    Attributes:
        blocks: path of every block.
        modules: every module with parameters, by path.
        sites: the activations of a block, by name.
        heads: number of heads of the per-head activations.
        embed: path of the token embedding.
        head: path of the unembedding.
    """

    blocks: tuple[str, ...]
    modules: dict[str, Module]
    sites: dict[str, Site]
    heads: dict[str, int]
    embed: str
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
        return self.sites[self.site_name(name)]

    def site_name(self, name: str) -> str:
        """The short name of a site given by it or by TransformerLens' hook name (`hook_resid_pre`, `attn.hook_z`).

        Raises:
            ValueError: the architecture has none of this name.
        """
        short = next((n for n, site in self.sites.items() if name in (n, site.hook, f"hook_{n}")), None)
        if short is None:
            near = difflib.get_close_matches(name.removeprefix("hook_"), self.sites, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"site={name!r} is not known here; {hint}choose one of {', '.join(self.sites)}.")
        return short

    def n_heads(self, site: str) -> int:
        """Number of heads of a per-head site, 0 for others."""
        return self.heads.get(self.site_name(site), 0)

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
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

        known = ", ".join(name for name in SUPPORTED_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel")))
        raise ValueError(
            f"architecture {architecture} has no map of its modules in TransformerLens ({error}); supported: {known}."
        ) from error
    if "blocks" not in mapping:
        raise ValueError(f"architecture {architecture} has no block list in TransformerLens' map; a decoder is needed.")
    block = mapping["blocks"]
    depth = len(model.get_submodule(block.name))  # type: ignore[arg-type]
    blocks = tuple(f"{block.name}.{i}" for i in range(depth))
    names = {
        **{
            c.name: (-1 if "embed" in k or k.endswith("_in") else depth, k)
            for k, c in mapping.items()
            if k != "blocks" and c.name
        },
        **{f"{b}.{path}": (i, name) for i, b in enumerate(blocks) for name, path in _flatten(block).items()},
    }
    head = next(path for path, m in model.named_modules() if m is model.get_output_embeddings())  # type: ignore[operator]
    names[head] = (depth, "unembed")
    axes = _token_axes(model)
    modules = {
        path: Module(path, *_name_of(path, names, blocks), axes.get(path, 1))
        for path, module in model.named_modules()
        if any(p is not None for p in module._parameters.values())
    }
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    embed = next(path for path, m in model.named_modules() if m is model.get_input_embeddings())  # type: ignore[operator]
    sites = _find_activations(block, model.get_submodule(blocks[0]), config)
    counts = {name: n for name, n in (("z", heads), ("q", heads), ("k", kv_heads), ("v", kv_heads)) if name in sites}
    return Sites(blocks, modules, sites, counts, embed, head)


@torch.no_grad()
def _token_axes(model: Any) -> dict[str, int]:
    """The axis of tokens in each module's output, from one short forward whose length no other axis has."""
    config = model.config
    taken = {getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")}
    length = next(n for n in range(5, 100) if n not in taken)
    axes: dict[str, int] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and length in output.shape[1:-1]:
                axes[path] = 1 + output.shape[1:-1].index(length)

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in model.named_modules()]
    try:
        ids = torch.arange(length, device=next(model.parameters()).device)[None]
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return axes


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


def _find_activations(block: Any, first: nn.Module, config: Any) -> dict[str, Site]:
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
    return found | _find_heads(block, first, paths, config)


def _find_heads(block: Any, first: nn.Module, paths: dict[str, str], config: Any) -> dict[str, Site]:
    """Per-head activations: z (input of the output projection) and q, k, v (outputs of the projections, before norm and rotation)."""
    d_head = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    found = {"z": Site(paths["attn.o"], "in", "attn.hook_z", d_head)} if "attn.o" in paths else {}
    if "attn.qkv" in paths:
        for name, columns in zip("qkv", _split_columns(block.submodules["attn"], first, paths), strict=True):
            found[name] = Site(paths["attn.qkv"], "out", f"attn.hook_{name}", d_head, columns)
    else:
        for name in "qkv":
            if f"attn.{name}" in paths:
                found[name] = Site(paths[f"attn.{name}"], "out", f"attn.hook_{name}", d_head)
    return found


def _split_columns(adapter: Any, first: nn.Module, paths: dict[str, str]) -> list[Tensor]:
    """Which outputs of a fused projection are q, k and v: TransformerLens splits one whose weights are their own row numbers."""
    attention = copy.deepcopy(first.get_submodule(paths["attn"])).float()
    fused: Any = attention.get_submodule(paths["attn.qkv"].removeprefix(f"{paths['attn']}."))
    across = 1 if hasattr(fused, "nf") else 0  # GPT-2's Conv1D holds its weight transposed
    rows = torch.arange(fused.weight.shape[across], dtype=torch.float32)
    fused.weight = nn.Parameter((rows if across else rows[:, None]).expand(fused.weight.shape).clone(), requires_grad=False)
    return [part.weight.detach()[:, 0].round().long().cpu() for part in adapter.split_qkv_matrix(attention)]
