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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..arguments import checked
from ..hints import nearest, ranges
from . import compat
from .devices import own_generators
from .experts import find_experts, inside
from .mixers import find_mixers
from .names import FLAT, Dimensions, Module
from .observing import Observed, observe
from .placement import plain
from .quantised import is_quantised
from .refusals import refused
from .weightless import on_shapes
from .wrappers import asides

STREAMS = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post")
"""Sites of the residual stream's width that a model may have."""

PER_HEAD = ("z", "q", "k", "v")
"""Sites of single heads that a model may have."""

_FULL_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Site:
    """An activation of a block: the input or output of one of its modules.

    Attributes:
        path: path relative to the block; empty for the block itself.
        side: `in` or `out`.
        hook: TransformerLens' hook name without `blocks.{layer}.`.
        heads: number of heads where the activation is per head, else 0.
        columns: which columns of a fused projection are this activation; None for all.
        written: whether the model writes into this tensor afterwards; then it is copied.
    """

    path: str
    side: str
    hook: str
    heads: int = 0
    columns: Tensor | None = None
    written: bool = False

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
        if self.written:
            tensor = tensor.clone()
        if not self.heads:
            return tensor
        return rearrange(tensor, "... (head d_head) -> ... head d_head", head=self.heads)

    def put(self, tensor: Tensor, value: Tensor) -> Tensor:
        """The module's tensor with the activation replaced; rows and slots stay as it has them."""
        if self.heads:
            value = rearrange(value, "... head d_head -> ... (head d_head)")
        value = value.reshape(*tensor.shape[:-1], -1).to(tensor.device)
        if self.columns is None:
            return value.clone() if self.written else value
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
        given: how many values a block gives; 0 where it gives its residual stream by itself.
        idle: modules whose weights the model uses without running them, by path.
        only: of activations that not every block has (a layer with state has no heads), the blocks
            that have them.
        odd: linear modules that are more than their matrix, by path (`observing`).
    """

    blocks: tuple[str, ...]
    modules: dict[str, Module]
    sites: dict[str, Site]
    heads: dict[str, int]
    embed: str
    head: str
    given: int = 0
    idle: frozenset[str] = frozenset()
    only: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    odd: frozenset[str] = frozenset()

    def check_gated(self, name: str, changed: Iterable[str]) -> None:
        """Refuse a student whose differences cannot be gated.

        Raises:
            ValueError: it changes a module that never runs by itself.
        """
        for path in changed:
            if path in self.idle:
                raise ValueError(
                    f"student={name!r} changes {path}, whose weights the model uses without "
                    "running the module, so that it cannot be gated by token; train a student "
                    "that leaves it as it is."
                )

    def handed_on(self, hidden: Tensor) -> Any:
        """What a block gives that hands its residual stream on as it is."""
        return (hidden, *[None] * (self.given - 1)) if self.given else hidden

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
    def site_name(self, name: str, among: Sequence[str] | None = None) -> str:
        """The short name of a site from that or TransformerLens' (`hook_resid_pre`, `attn.hook_z`).

        Args:
            name: what it is called.
            among: the sites that errors name; all of the architecture when None.

        Raises:
            TypeError: no text.
            ValueError: the architecture has none of this name.
        """
        for short, site in self.sites.items():
            if name in (short, site.hook, f"hook_{short}"):
                return short
        return _refuse_site(name, list(self.sites if among is None else among))

    @checked
    def place(
        self,
        name: str,
        layers: Sequence[int] | None = None,
        *,
        among: Sequence[str] | None = None,
    ) -> tuple[str, Sequence[int] | None]:
        """The short name of a site, and the layers it is asked at.

        A full hook name (`blocks.3.hook_resid_pre`) is a site at one layer; of any other name the
        layers are those given.

        Args:
            name: a name as `site_name` takes it, or a full hook name.
            layers: as given beside the name; None for all.
            among: the sites that errors name; all of the architecture when None.

        Raises:
            ValueError: the architecture has none of this name or layer; layers that are not the
                hook name's.
        """
        hook = _FULL_HOOK.fullmatch(name)
        if hook is None:
            short = self.site_name(name, among)
            return short, self._check_layers(short, layers)
        layer, short = int(hook[1]), self.site_name(hook[2], among)
        if layer >= self.n_layers:
            raise ValueError(
                f"site={name!r}: there is no layer {layer}; the model has 0 to {self.n_layers - 1}."
            )
        _check_own_layer(name, layer, short, layers)
        return short, self._check_layers(short, [layer])

    def layers_of(self, site: str) -> Sequence[int]:
        """The blocks that have a site."""
        return self.only.get(self.site_name(site), range(self.n_layers))

    def _check_layers(self, site: str, layers: Sequence[int] | None) -> Sequence[int] | None:
        """The layers a site is asked at; those that have it where none are named."""
        has = self.only.get(site)
        if has is None:
            return layers
        lacking = [layer for layer in layers or () if layer not in has]
        if lacking:
            raise ValueError(
                f"site={site!r} is in layers {ranges(has)} of this model alone, not "
                f"in {', '.join(map(str, lacking))}."
            )
        return has if layers is None else layers

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
            and slots flattened into one axis, as OPT does before its MLP, and heads behind them,
            as in the norm of linear attention (`FLAT`).

    Raises:
        ValueError: the output has no axis of tokens.
    """
    if output.dim() == 2 and output.shape[0] == gate.numel():
        return rearrange(gate, "row slot -> (row slot) 1").to(output)
    if module.axis == FLAT and output.dim() == 2 and len(output) % gate.numel() == 0:
        each = len(output) // gate.numel()
        return repeat(gate, "row slot -> (row slot k) 1", k=each).to(output)
    if not 0 < module.axis < output.dim() or output.shape[module.axis] != gate.shape[1]:
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
        if name != "blocks" and isinstance(component.name, str) and component.name:
            before = "embed" in name or name.endswith("_in")
            places[component.name] = _Place(-1 if before else n_layers, name)
    below = _component_paths(block)
    for layer, root in enumerate(blocks):
        for name, path in below.items():
            places[f"{root}.{path}"] = _Place(layer, name)
    places[head] = _Place(n_layers, "unembed")

    _check_not_shared(model, blocks)

    # every module with parameters stands somewhere, named by TransformerLens or after a parent
    with refused(model, "its own forward on a plain text"):
        observed = on_shapes(observe, model)
    aside = asides(model)
    # a block of experts is one module, whatever is inside
    mixtures = find_experts(model)
    whole = (*mixtures, *find_mixers(model))
    modules = {}
    for path, module in model.named_modules():
        if path in aside or inside(path, mixtures) not in (None, path):
            continue
        if path in whole or next(module.parameters(recurse=False), None) is not None:
            place = _place_of(path, places, blocks)
            modules[path] = Module(path, place.layer, place.name, observed.axes.get(path, 1))

    # an activation may be one that not every block has (a layer with state has no heads)
    found = _find_streams(block, below) | _find_heads(block, below, plain(model), blocks)
    sites = {
        name: replace(site, written=_is_written(site, blocks, observed))
        for name, site in found.items()
        if any(_has(model, root, site) for root in blocks)
    }
    only = {}
    for name, site in sites.items():
        has = tuple(layer for layer, root in enumerate(blocks) if _has(model, root, site))
        if len(has) < len(blocks):
            only[name] = has
    heads = {name: site.heads for name, site in sites.items() if site.heads}
    given = observed.lengths.get(blocks[0], 0)
    idle = frozenset(path for path in modules if path not in observed.lengths)
    return Sites(blocks, modules, sites, heads, embed, head, given, idle, only, observed.odd)


def _has(model: nn.Module, root: str, site: Site) -> bool:
    """Whether a block has the module whose input or output a site is."""
    with suppress(AttributeError):
        model.get_submodule(_below(root, site.path))
        return True
    return False


def _is_written(site: Site, blocks: Sequence[str], observed: Observed) -> bool:
    """Whether the model writes into the tensor of a site after it has been computed."""
    return any((_below(root, site.path), site.side) in observed.written for root in blocks)


def _below(root: str, path: str) -> str:
    return f"{root}.{path}" if path else root


def _check_not_shared(model: nn.Module, blocks: Sequence[str]) -> None:
    """Raise ValueError where two blocks compute with the same weights: they have no layer."""
    owners: dict[int, tuple[str, str]] = {}
    for root in blocks:
        for key, parameter in model.get_submodule(root).named_parameters():
            other, its = owners.setdefault(id(parameter), (root, key))
            if other != root:
                raise ValueError(
                    f"architecture {type(model).__name__} cannot be analysed: {other}.{its} and "
                    f"{root}.{key} are one weight, so that what a student changes there stands in "
                    "no single layer."
                )


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(path for path, module in model.named_modules() if module is wanted)


def _component_paths(component: Any) -> dict[str, str]:
    """TransformerLens name -> path, both relative to the component, for every one below it."""
    paths: dict[str, str] = {}

    def walk(node: Any, name: str, path: str) -> None:
        for key, child in (node.submodules or {}).items():
            name_below = f"{name}.{key}".strip(".")
            if child.name is not None and not isinstance(child.name, str):
                continue  # one of several places, none of which is its own
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


def check_site(name: str, layers: Sequence[int] | None = None) -> None:
    """Refuse, before any model is there, a site that none has, and layers that are not those of a
    full hook name.

    Raises:
        ValueError: no model has it; layers beside a hook name that are others.
    """
    hook = _FULL_HOOK.fullmatch(name)
    end = name if hook is None else hook[2]
    known = [
        *((short, (short, f"hook_{short}")) for short in STREAMS),
        *((short, (short, f"hook_{short}", f"attn.hook_{short}")) for short in PER_HEAD),
    ]
    short = next((short for short, names in known if end in names), None)
    if short is None:
        _refuse_site(end, [*STREAMS, *PER_HEAD])
    if hook is not None:
        _check_own_layer(name, int(hook[1]), short, layers)


def _refuse_site(name: str, choices: Sequence[str]) -> NoReturn:
    hint = nearest(name.removeprefix("hook_"), choices)
    raise ValueError(
        f"site={name!r} is not known here{hint or '.'} Choose one of {', '.join(choices)}."
    )


def _check_own_layer(name: str, layer: int, short: str, layers: Sequence[int] | None) -> None:
    """Raise ValueError where a full hook name's layer is not the one asked for."""
    if layers is not None and list(layers) != [layer]:
        raise ValueError(
            f"site={name!r} is at layer {layer}, layers={list(layers)} are others; leave "
            f"layers out, or pass site={short!r}."
        )


def _find_streams(block: Any, paths: Mapping[str, str]) -> dict[str, Site]:
    """Residual stream and what is added to it, by TransformerLens' aliases.

    An alias such as `hook_attn_out` -> `attn.hook_out` says whose output the activation is.
    """
    sites: dict[str, Site] = {}
    for name in STREAMS:
        target = block.hook_aliases.get(f"hook_{name}")
        if not isinstance(target, str):
            continue  # none, or another one in every layer
        owner, _, end = target.rpartition(".")
        if end in ("hook_in", "hook_out") and (not owner or owner in paths):
            sites[name] = Site(paths.get(owner, ""), end.removeprefix("hook_"), f"hook_{name}")
    return sites


def _find_heads(
    block: Any, paths: Mapping[str, str], model: nn.Module, blocks: Sequence[str]
) -> dict[str, Site]:
    """Per-head activations of the attention.

    z is the input of the output projection; q, k and v are the outputs of theirs, before norm and
    rotation. One whose number of heads differs by layer is left out.
    """
    n_heads = Dimensions.of(model.config).heads
    sites: dict[str, Site] = {}
    if "attn.o" in paths:
        sites["z"] = Site(paths["attn.o"], "in", "attn.hook_z", n_heads)
    own = [name for name in PER_HEAD[1:] if f"attn.{name}" in paths]
    if "attn.qkv" in paths:
        fused = paths["attn.qkv"]
        columns = _split_columns(block.submodules["attn"], model.get_submodule(blocks[0]), paths)
        for name, part in columns.items():
            sites[name] = Site(fused, "out", f"attn.hook_{name}", n_heads, part)
    else:
        for name in own:
            sites[name] = Site(paths[f"attn.{name}"], "out", f"attn.hook_{name}", n_heads)
    counts = {name: _head_counts(model, blocks, sites, name) for name in sites}
    return {
        name: replace(sites[name], heads=found.pop())
        for name, found in counts.items()
        if len(found) == 1 and 0 not in found
    }


def _head_counts(
    model: nn.Module, blocks: Sequence[str], sites: Mapping[str, Site], name: str
) -> set[int]:
    """The numbers of heads that a per-head activation has, over layers that have it; 0 where it is
    not whole.

    Keys and values have heads as wide as the queries'.
    """
    counts = set()
    for root in blocks:
        if not _has(model, root, sites[name]):
            continue  # a layer with state has no heads
        wide = _width(model, root, sites[name])
        if name in "kv" and "q" in sites:
            head = _width(model, root, sites["q"]) / sites["q"].heads
            count = wide / head if head else 0
        else:
            count = sites[name].heads if wide % sites[name].heads == 0 else 0
        counts.add(int(count) if count == int(count) and wide else 0)
    return counts


def _width(model: nn.Module, root: str, site: Site) -> int:
    """Columns of an activation in a block; 0 where the block has none."""
    if site.columns is not None:
        return len(site.columns)
    if not _has(model, root, site):
        return 0
    module: Any = model.get_submodule(_below(root, site.path))
    weight = getattr(module, "weight", None)
    if weight is None:
        return 0
    rows, columns = weight.shape[::-1] if holds_transposed(module) else weight.shape
    if site.side == "out":
        return int(getattr(module, "out_features", rows))
    return int(getattr(module, "in_features", columns))


def _split_columns(adapter: Any, first: nn.Module, paths: Mapping[str, str]) -> dict[str, Tensor]:
    """Which outputs of a fused projection are q, k and v; nothing where nobody knows.

    TransformerLens splits one whose weights are their own row numbers.
    """
    attention = copy.deepcopy(first.get_submodule(paths["attn"]))
    name = paths["attn.qkv"].removeprefix(f"{paths['attn']}.")
    fused: Any = attention.get_submodule(name)
    if is_quantised(fused):  # packed, its rows are not to be seen
        attention.set_submodule(name, nn.Linear(fused.in_features, fused.out_features, bias=False))
    attention = attention.float()
    fused = attention.get_submodule(name)
    transposed = holds_transposed(fused)
    numbers = torch.arange(fused.weight.shape[1 if transposed else 0])
    split = _interleaved(attention, numbers)
    if split is None:
        rows = numbers.float() if transposed else numbers.float()[:, None]
        fused.weight = nn.Parameter(rows.expand(fused.weight.shape).clone(), requires_grad=False)
        try:
            with own_generators():  # it makes linear layers, which draw their first weights
                parts = adapter.split_qkv_matrix(attention)
        except (RuntimeError, AssertionError, ValueError):
            return {}
        split = tuple(part.weight.detach()[:, 0].round().long().cpu() for part in parts)
    whole = torch.cat(split).sort().values
    # columns that are missing or counted twice are somebody else's
    return dict(zip("qkv", split, strict=True)) if torch.equal(whole, numbers) else {}


def _interleaved(attention: Any, numbers: Tensor) -> tuple[Tensor, ...] | None:
    """The columns of fused projections that TransformerLens splits otherwise than the model does.

    Falcon's newer layout has the queries of a group, then its key and its value; GPT-BigCode
    without multi-query attention has query, key and value of one head after another.
    """
    kind = type(attention).__name__
    if kind.startswith("Falcon") and getattr(attention, "new_decoder_architecture", False):
        count = attention.num_kv_heads
    elif kind == "GPTBigCodeAttention" and not attention.multi_query:
        count = attention.num_heads
    else:
        return None
    groups = rearrange(numbers, "(kv part d) -> kv part d", kv=count, d=attention.head_dim)
    return groups[:, :-2].flatten(), groups[:, -2].flatten(), groups[:, -1].flatten()
