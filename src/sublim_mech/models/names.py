"""What the modules of a model are called, and what follows from it; nothing here needs torch.

1. A module has TransformerLens' name inside its block (`attn.q`) or in the whole model (`embed`),
   and a full name, `blocks.3.attn.q`. Layer -1 stands before the blocks, the layer after the last
   one for what follows them.
2. The name says which group a module belongs to and where it stands in the computation.
3. What a user writes is looked up among groups, names and full names.
4. A configuration says how large the model is and how far back its attention sees.

Together with `sites` this is all that the library knows about single architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..hints import nearest

GROUPS = ("attention", "mlp", "norms", "embeddings", "head")
"""Groups of modules; no two have a module in common."""

FINAL = ("ln_final", "unembed")
"""The modules that every model has after its last block."""

BUILT_LIKE: dict[str, str] = {}
"""Architectures that TransformerLens does not know -> a known one with modules in the same
places."""

FLAT = -1
"""`Module.axis` of an output whose first axis is rows, tokens and what stands behind them."""

_NORM = re.compile(r"norm|(^|_)ln")  # ln1, ln2_post, embed_ln, ln_final; q_norm, input_layernorm
_ORDER = (
    "embed", "pos_embed", "ln1", "attn", "ln1_post", "ln2", "mlp", "ln2_post", *FINAL,
)  # fmt: skip


class PartName(NamedTuple):
    """Which part of a module's difference is meant, where a student is split; nothing of it is set
    where the difference is one.

    Attributes:
        band: a band of singular directions from 0, those of the largest singular values first;
            `tail` for what lies behind the last one asked for, `rest` for what is no matrix.
        head: an attention head from 0; `kv 0` for the keys and values of a group of heads that
            share them, `rest` for what is no projection of a head.
        student: the name of one of several students.
    """

    band: int | str | None = None
    head: int | str | None = None
    student: str | None = None


WHOLE = PartName()
"""A module's whole difference."""

REST = "rest"
"""The part of a split student that is no matrix or not decomposed."""

TAIL = "tail"
"""The directions behind the last band that was asked for."""


def part_order(label: int | str) -> tuple[int, int]:
    """Where a label of a part stands among others: numbers first, `rest` last, names between them
    as they come.
    """
    if isinstance(label, int):
        return 0, label
    if label in (TAIL, REST):
        return 2, int(label == REST)
    number = label.removeprefix("kv ")
    return 1, int(number) if number.isdigit() else 0


@dataclass(frozen=True)
class Module:
    """A module with parameters, or a part of what a student changes there.

    Attributes:
        path: its path in the Hugging Face model.
        layer: its block; -1 before the first (embeddings), the number of blocks after the last
            (final norm, unembedding).
        name: TransformerLens' name inside the block (`attn.q`, `mlp.out`, `ln1`), or in the whole
            model (`embed`, `ln_final`, `unembed`).
        axis: which axis of its output the tokens are on (Gemma-3's q and k norms have heads before
            tokens); 0 where the model's forward never calls it.
        part: which part of a student's difference there is meant; all of it unless a pair is split.
    """

    path: str
    layer: int
    name: str
    axis: int = 1
    part: PartName = WHOLE

    def full_name(self, n_layers: int) -> str:
        """`blocks.3.attn.q` inside the blocks, the bare name outside.

        Example:
            >>> from sublim_mech.models.names import Module
            >>> Module("model.layers.3.self_attn.q_proj", 3, "attn.q").full_name(30)
            'blocks.3.attn.q'
        """
        return cell_name(self.layer, self.name, n_layers)


# --------------------------------------------------------------------------------- names and groups


def cell_name(layer: int, module: str, n_layers: int) -> str:
    """What a cell (layer, module) of a score is called.

    Args:
        layer: -1 to `n_layers`.
        module: a module's name; empty where the cell is the whole layer.
        n_layers: number of blocks.

    Example:
        >>> from sublim_mech.models.names import cell_name
        >>> [cell_name(layer, "", 2) for layer in (-1, 0, 1, 2)]
        ['embed', 'blocks.0', 'blocks.1', 'ln_final+unembed']
    """
    # on a grid of all layers and all modules the final ones stand in every layer, empty but for one
    if module in FINAL:
        return module
    if layer < 0:
        return module or "embed"
    if layer >= n_layers:
        return module or "+".join(FINAL)
    return f"blocks.{layer}.{module}".rstrip(".")


def module_group(module: Module) -> str | None:
    """One of `GROUPS`; None for a module of a block that is neither attention, MLP nor norm."""
    first = module.name.partition(".")[0]
    if any(_NORM.search(part) for part in module.name.split(".")):
        return "norms"
    # OPT-350m embeds in fewer dimensions and projects in and out
    if module.layer < 0 or first == "project_in":
        return "embeddings"
    if first in ("unembed", "project_out"):
        return "head"
    if "attn" in first:
        return "attention"
    return "mlp" if "mlp" in first else None


def module_order(name: str) -> int:
    """Where a module stands in the computation, to sort names by; unknown ones come last."""
    for place, start in enumerate(_ORDER):
        if name == start or name.startswith(f"{start}."):
            return place
    return len(_ORDER)


def count_blocks(modules: Sequence[Module]) -> int:
    """The number of blocks that the modules stand in: what has a number in its path, and attention
    and MLP, which only blocks have.
    """
    in_blocks = [
        m.layer
        for m in modules
        if block_of(m.path) is not None or module_group(m) in ("attention", "mlp")
    ]
    return 1 + max(in_blocks, default=-1)


def block_of(path: str) -> int | None:
    """The block that a Hugging Face path leads into: the first number in it."""
    match = re.match(r".*?\.(\d+)\.", path)
    return None if match is None else int(match[1])


def modules_named(name: str, modules: Sequence[Module]) -> list[Module]:
    """The modules that a user's name means.

    Args:
        name: one of `GROUPS`; a module's name, in every block (`attn.q`); its last part where no
            other name ends in it (`q`); or a full name (`blocks.3.attn.q`).
        modules: all modules of the model.

    Raises:
        ValueError: there is no such module, or the last part is that of several.
    """
    if name in GROUPS:
        return [m for m in modules if module_group(m) == name]
    n_layers = count_blocks(modules)
    exact = [m for m in modules if name in (m.name, m.full_name(n_layers))]
    if exact:
        return exact
    known = list(dict.fromkeys(m.name for m in modules))
    endings = [k for k in known if k.endswith(f".{name}")]
    if len(endings) == 1:
        return [m for m in modules if m.name == endings[0]]
    if endings:
        raise ValueError(
            f"modules({name!r}) may be any of {', '.join(endings)}; give the whole name."
        )
    if name.startswith("blocks."):
        candidates = [m.full_name(n_layers) for m in modules]
    else:
        candidates = [*GROUPS, *known]
    raise ValueError(
        f"modules({name!r}) is no module of this model{nearest(name, candidates) or '.'} "
        f"Groups: {', '.join(GROUPS)}; modules: {', '.join(known)}."
    )


# ------------------------------------------------------------------------------------ configuration


@dataclass(frozen=True)
class Dimensions:
    """How large a model is.

    Attributes:
        layers: number of blocks.
        width: of the residual stream (d_model).
        heads: number of attention heads.
        kv_heads: number of heads of keys and values.
        d_head: width of a head.
        inner: width inside the MLP.
        vocabulary: number of logits.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    d_head: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Dimensions:
        """As a transformers configuration says; architectures name the same thing differently.

        Of a model that wraps a text model, the text model's.

        Raises:
            ValueError: it says no width or number of heads.
        """
        config = text_config(config)
        width, heads = _number(config, *_WIDTH), _number(config, *_HEADS) or 1
        layers, vocabulary = _number(config, *_LAYERS), _number(config, "vocab_size")
        if not width or not layers or not vocabulary:
            raise ValueError(
                f"architecture {type(config).__name__}: its configuration says no width, number of "
                "layers or vocabulary under a name that is known here."
            )
        return cls(
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=_number(config, *_KV_HEADS) or heads,
            d_head=_number(config, "head_dim") or width // heads,
            inner=_number(config, *_INNER) or 4 * width,
            vocabulary=vocabulary,
        )


_WIDTH = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KV_HEADS = ("num_key_value_heads",)
_INNER = ("intermediate_size", "ffn_dim", "n_inner")
_LENGTH = ("max_position_embeddings", "n_positions", "max_seq_len")


def text_config(config: Any) -> Any:
    """The part of a configuration that says what its text model is: its own, or that of the text
    model inside a wrapper (`Gemma3Config.text_config`).
    """
    part = getattr(config, "get_text_config", None)
    return config if part is None else part(decoder=True)


def is_wrapper(config: Any) -> bool:
    """Whether a configuration is that of a model around a text model."""
    return text_config(config) is not config


def length_limit(config: Any) -> int | None:
    """Positions a model has; None where its configuration says none."""
    return _number(text_config(config), *_LENGTH)


def _number(config: Any, *names: str) -> int | None:
    """The first of these fields that is there; the largest, where layers differ in it."""
    for name in names:
        value = _fields(config, name)
        if value:
            return int(max(value))
    return None


def _fields(config: Any, name: str) -> list[int]:
    """A field's values, over layers; none where it is not there or empty."""
    layers = getattr(config, "per_layer_config", None)
    # a field that differs by layer cannot be read from the whole (Gemma-4's `head_dim`)
    parts = list(layers.values() if isinstance(layers, Mapping) else layers or [])
    given = [getattr(part, name, None) for part in parts] or [getattr(config, name, None)]
    flat = [one for value in given for one in (value if isinstance(value, list) else [value])]
    return [one for one in flat if one]


@dataclass(frozen=True)
class Chunk:
    """Attention within chunks of so many tokens, which see nothing of the chunks before."""

    tokens: int


Window = int | Chunk | None
"""How far back a token sees: so many tokens, its own included; its chunk; everything (None)."""


def attention_windows(config: Any) -> dict[str | None, Window]:
    """How far back each type of attention layer sees.

    The keys are the layer types under which the model takes one mask each. A single key None says
    that it takes one mask for all layers.
    """
    config = text_config(config)
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds:
        return {None: window}
    reach: dict[str, Window] = {}
    if window is not None:
        reach["sliding_attention"] = window
    if getattr(config, "attention_chunk_size", None) is not None:
        reach["chunked_attention"] = Chunk(config.attention_chunk_size)
    if not kinds & set(reach):
        return {None: None}
    return {kind: reach.get(kind) for kind in kinds}


def within(window: Window, queries: Any, keys: Any) -> Any:
    """Whether keys at these positions are near enough to be seen by queries at those, without
    regard to order; arrays or tensors.
    """
    if isinstance(window, Chunk):
        return queries // window.tokens == keys // window.tokens
    if window is None:
        return queries == queries
    return queries - keys < window
