"""Where things are in a model: TransformerLens' names for Hugging Face's modules.

The map from names to modules is TransformerLens' own (its architecture adapters); the modules stay
Hugging Face's. So a score carries the hook name a TransformerLens user expects, and nothing is
converted, folded or copied.

1. TransformerLens' component tree gives every module that it knows a layer and a name.
2. Other modules take the name of the nearest one above them, and their own tail behind it.
3. One short forward shows which axis of each module's output the tokens are on.
4. TransformerLens' aliases say whose input or output an activation is; a fused projection is
   asked which of its columns are queries, keys and values.

What single architectures do otherwise than the rest stands here and in `names`, nowhere else.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ..arguments import checked
from ..hints import nearest
from . import compat
from .experts import find_experts, inside
from .names import Dimensions, Module
from .placement import input_device, plain

_FULL_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")


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

    def get(self, tensor: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """The activation in a module's tensor.

        Args:
            tensor: `(row, slot, column)`, or `(row slot, column)`: OPT flattens rows and tokens
                into one axis before its MLP.
            shape: numbers of rows and slots, needed where they may be flattened.

        Returns:
            `(row, slot, d)`, or `(row, slot, head, d_head)` where it is per head.
        """
        if shape is not None:
            tensor = tensor.reshape(*shape, -1)
        if self.columns is not None:
            tensor = tensor[..., self.columns.to(tensor.device)]
        if not self.d_head:
            return tensor
        return rearrange(tensor, "... (head d_head) -> ... head d_head", d_head=self.d_head)

    def put(self, tensor: Tensor, value: Tensor) -> Tensor:
        """The module's tensor with the activation replaced; rows and slots stay as it has them."""
        if self.d_head:
            value = rearrange(value, "... head d_head -> ... (head d_head)")
        value = value.reshape(*tensor.shape[:-1], -1).to(tensor.device)
        if self.columns is None:
            return value
        return tensor.index_copy(-1, self.columns.to(tensor.device), value.to(tensor.dtype))


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

    def module(self, layer: int, name: str) -> Module:
        """The module of this name in this layer.

        Raises:
            ValueError: the layer has none of this name.
        """
        for module in self.modules.values():
            if (module.layer, module.name) == (layer, name):
                return module
        known = [m.name for m in self.modules.values() if m.layer == layer]
        raise ValueError(
            f"layer {layer} has no module {name!r}{nearest(name, known) or '.'} "
            f"Its modules are {', '.join(known)}."
        )

    def site(self, name: str) -> Site:
        """The site of this name.

        Raises:
            ValueError: the architecture has none of this name.
        """
        return self.sites[self.site_name(name)]

    @checked
    def site_name(self, name: str) -> str:
        """The short name of a site from that or TransformerLens' (`hook_resid_pre`, `attn.hook_z`).

        Raises:
            TypeError: no text.
            ValueError: the architecture has none of this name.
        """
        for short, site in self.sites.items():
            if name in (short, site.hook, f"hook_{short}"):
                return short
        hint = nearest(name.removeprefix("hook_"), self.sites)
        raise ValueError(
            f"site={name!r} is not known here{hint or '.'} Choose one of {', '.join(self.sites)}."
        )

    @checked
    def place(
        self, name: str, layers: Sequence[int] | None = None
    ) -> tuple[str, Sequence[int] | None]:
        """The short name of a site, and the layers it is asked at.

        A full hook name (`blocks.3.hook_resid_pre`) is a site at one layer; of any other name the
        layers are those given.

        Args:
            name: a name as `site_name` takes it, or a full hook name.
            layers: as given beside the name; None for all.

        Raises:
            ValueError: the architecture has none of this name or layer; layers that are not the
                hook name's.
        """
        hook = _FULL_HOOK.fullmatch(name)
        if hook is None:
            return self.site_name(name), layers
        layer, short = int(hook[1]), self.site_name(hook[2])
        if layer >= self.n_layers:
            raise ValueError(
                f"site={name!r}: there is no layer {layer}; the model has 0 to {self.n_layers - 1}."
            )
        if layers is not None and list(layers) != [layer]:
            raise ValueError(
                f"site={name!r} is at layer {layer}, layers={list(layers)} are others; leave "
                f"layers out, or pass site={short!r}."
            )
        return short, [layer]

    def n_heads(self, site: str) -> int:
        """Number of heads of a per-head site, 0 for others."""
        return self.heads.get(self.site_name(site), 0)

    def hook_name(self, site: str, layer: int) -> str:
        """TransformerLens' full hook name, `blocks.{layer}.hook_...`."""
        return f"blocks.{layer}.{self.site(site).hook}"


def spread_gate(module: Module, gate: Tensor, output: Tensor) -> Tensor:
    """A gate in the shape and type in which it multiplies a module's output.

    Args:
        module: whose output.
        gate: `(row, slot)`.
        output: `(row, slot, column)`; with other axes before the tokens' (`Module.axis`), or rows
            and slots flattened into one axis, as OPT does before its MLP.

    Raises:
        ValueError: the output has no axis of tokens.
    """
    if output.dim() == 2 and output.shape[0] == gate.numel():
        return rearrange(gate, "row slot -> (row slot) 1").to(output)
    if output.dim() <= module.axis or output.shape[module.axis] != gate.shape[1]:
        raise ValueError(
            f"module {module.path} does not keep a token axis in its output "
            f"{tuple(output.shape)}; it cannot be gated."
        )
    between = [1] * (module.axis - 1)
    behind = [1] * (output.dim() - module.axis - 1)
    return gate.reshape(len(gate), *between, gate.shape[1], *behind).to(output)


def holds_transposed(module: nn.Module) -> bool:
    """Whether a projection's weight is `(in, out)`, as in GPT-2's Conv1D, not `(out, in)`."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


# ------------------------------------------------------------------------------------------ finding


class _Place(NamedTuple):
    """Where a module is, and what TransformerLens calls it there."""

    layer: int
    name: str


@checked
def find_sites(model: nn.Module) -> Sites:
    """Map a Hugging Face causal language model.

    Raises:
        ValueError: TransformerLens has no adapter for the architecture.

    Example:
        >>> sites = sm.models.find_sites(pair.model)
        >>> sites.hook_name("z", 1), sites.module(1, "attn.q").path
        ('blocks.1.attn.hook_z', 'model.layers.1.self_attn.q_proj')
    """
    components = compat.lens_components(model)
    if "blocks" not in components:
        raise ValueError(
            f"architecture {type(model).__name__} has no block list in TransformerLens' map; "
            "a decoder is needed."
        )
    block = components["blocks"]
    n_layers = len(model.get_submodule(block.name))  # type: ignore[arg-type]
    blocks = tuple(f"{block.name}.{layer}" for layer in range(n_layers))
    embed = _path_of(model, model.get_input_embeddings())  # type: ignore[operator]
    head = _path_of(model, model.get_output_embeddings())  # type: ignore[operator]

    # what TransformerLens names: outside the blocks, inside them, and always the unembedding
    places: dict[str, _Place] = {}
    for name, component in components.items():
        if name != "blocks" and component.name:
            before = "embed" in name or name.endswith("_in")
            places[component.name] = _Place(-1 if before else n_layers, name)
    below = _component_paths(block)
    for layer, root in enumerate(blocks):
        for name, path in below.items():
            places[f"{root}.{path}"] = _Place(layer, name)
    places[head] = _Place(n_layers, "unembed")

    # every module with parameters stands somewhere, named by TransformerLens or after a parent
    # (a block of experts is one module, whatever is inside)
    axes = _token_axes(model)
    mixtures = find_experts(model)
    modules = {}
    for path, module in model.named_modules():
        has_own = next(module.parameters(recurse=False), None) is not None
        if path in mixtures or (has_own and inside(path, mixtures) is None):
            place = _place_of(path, places, blocks)
            modules[path] = Module(path, place.layer, place.name, axes.get(path, 1))

    # activations are looked for in the first block; all blocks are alike
    size = Dimensions.of(model.config)
    sites = _find_streams(block, below) | _find_heads(
        block, below, plain(model).get_submodule(blocks[0]), size
    )
    counts = {"z": size.heads, "q": size.heads, "k": size.kv_heads, "v": size.kv_heads}
    heads = {name: count for name, count in counts.items() if name in sites}
    return Sites(blocks, modules, sites, heads, embed, head)


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(path for path, module in model.named_modules() if module is wanted)


def _component_paths(component: Any) -> dict[str, str]:
    """TransformerLens name -> path, both relative to the component, for every one below it."""
    paths: dict[str, str] = {}

    def walk(node: Any, name: str, path: str) -> None:
        for key, child in (node.submodules or {}).items():
            name_below = f"{name}.{key}".strip(".")
            path_below = f"{path}.{child.name}".strip(".") if child.name else path
            paths[name_below] = path_below
            walk(child, name_below, path_below)

    walk(component, "", "")
    return paths


def _place_of(path: str, places: Mapping[str, _Place], blocks: Sequence[str]) -> _Place:
    """TransformerLens' place of a module, or that of a parent with Hugging Face's tail behind it.

    So Phi-3's fused projection, which TransformerLens does not name, is `mlp.gate_up_proj`.
    """
    if path in places:
        return places[path]
    parent, _, tail = path.rpartition(".")
    while parent:
        if parent in places:
            return _Place(places[parent].layer, f"{places[parent].name}.{tail}")
        if parent in blocks:
            return _Place(blocks.index(parent), tail)
        parent, _, last = parent.rpartition(".")
        tail = f"{last}.{tail}"
    return _Place(-1, path)


@torch.no_grad()
def _token_axes(model: Any) -> dict[str, int]:
    """The axis of tokens in each module's output, from one forward of a length no axis has."""
    size = Dimensions.of(model.config)
    taken = (size.heads, size.kv_heads, size.d_head, size.width)
    length = next(n for n in range(5, 100) if n not in taken)
    axes: dict[str, int] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and length in output.shape[1:-1]:
                axes[path] = 1 + output.shape[1:-1].index(length)

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in model.named_modules()]
    try:
        ids = torch.arange(length, device=input_device(model))[None]
        compat.call_model(model, ids=ids, mask=torch.ones_like(ids))
    finally:
        for handle in handles:
            handle.remove()
    return axes


def _find_streams(block: Any, paths: Mapping[str, str]) -> dict[str, Site]:
    """Residual stream and what is added to it, by TransformerLens' aliases.

    An alias such as `hook_attn_out` -> `attn.hook_out` says whose output the activation is.
    """
    sites: dict[str, Site] = {}
    for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"):
        target = block.hook_aliases.get(f"hook_{name}")
        if target is None:
            continue
        owner, _, end = target.rpartition(".")
        if end in ("hook_in", "hook_out") and (not owner or owner in paths):
            sites[name] = Site(paths.get(owner, ""), end.removeprefix("hook_"), f"hook_{name}")
    return sites


def _find_heads(
    block: Any, paths: Mapping[str, str], first: nn.Module, size: Dimensions
) -> dict[str, Site]:
    """Per-head activations of the attention.

    z is the input of the output projection; q, k and v are the outputs of theirs, before norm and
    rotation.
    """
    sites: dict[str, Site] = {}
    d_head = size.d_head
    if "attn.o" in paths:
        # values may be of another width than queries (DeepSeek)
        width = _inputs(first.get_submodule(paths["attn.o"]))
        z_width = d_head if width is None or width % size.heads else width // size.heads
        sites["z"] = Site(paths["attn.o"], "in", "attn.hook_z", z_width)
    if "attn.qkv" in paths:
        columns = _split_columns(block.submodules["attn"], first, paths)
        for name, part in zip("qkv", columns, strict=True):
            sites[name] = Site(paths["attn.qkv"], "out", f"attn.hook_{name}", d_head, part)
        return sites
    for name in "qkv":
        if f"attn.{name}" in paths:
            sites[name] = Site(paths[f"attn.{name}"], "out", f"attn.hook_{name}", d_head)
    return sites


def _inputs(module: nn.Module) -> int | None:
    """How many columns a projection takes; None where it has no matrix."""
    weight: Any = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2:
        return None
    return int(weight.shape[0 if holds_transposed(module) else 1])


def _split_columns(adapter: Any, first: nn.Module, paths: Mapping[str, str]) -> list[Tensor]:
    """Which outputs of a fused projection are q, k and v.

    TransformerLens splits one whose weights are their own row numbers.
    """
    attention = copy.deepcopy(first.get_submodule(paths["attn"])).float()
    fused: Any = attention.get_submodule(paths["attn.qkv"].removeprefix(f"{paths['attn']}."))
    if holds_transposed(fused):
        numbers = torch.arange(fused.weight.shape[1], dtype=torch.float32)
    else:
        numbers = torch.arange(fused.weight.shape[0], dtype=torch.float32)[:, None]
    numbered = numbers.expand(fused.weight.shape).clone()
    fused.weight = nn.Parameter(numbered, requires_grad=False)
    parts = adapter.split_qkv_matrix(attention)
    return [part.weight.detach()[:, 0].round().long().cpu() for part in parts]
