"""The gated forward: base, student and everything between in one pass.

1. A batch holds one row per prompt: its tokens, then the inner nodes of its answer trie; a 4-d attention mask lets each node see
   the prompt and its own ancestors. Rows are padded on the right.
2. Every module that differs between base and student computes `f_base(x) + g * (f_student(x) - f_base(x))`, with its own gate
   g per row and token (dynamic weight grafting, arXiv 2606.00831). g = 0 is the base, g = 1 the student.
3. Activations can be recorded and edited at TransformerLens' sites.
4. A pass can branch off a finished one: from a later block (its residual stream) and a later slot (its keys and values), because a
   change at one layer and slot reaches neither earlier layers nor earlier slots.
5. Logits are computed at the read slots only.

The model belongs to the pair, not to the caller, and all hooks are gone when a pass ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.base import check_length
from ..models.sites import Module, Site, Sites
from ..models.students import Student
from ..prompts import Prompt
from .answers import Answers

Key = tuple[str, int]  # (site, layer); the token embedding is ("embed", -1)
Cache = tuple[tuple[Tensor, Tensor], ...]  # per layer keys and values `(row, kv_head, slot, d_head)`


@dataclass(frozen=True)
class Batch:
    """Prompts with their answer tries, ready for a forward.

    Attributes:
        ids: `(row, slot)` token ids.
        positions: `(row, slot)` position ids; a trie node's is that of its depth.
        mask: additive attention mask `(row, 1, slot, slot)`, or one per layer type.
        reads: `(row, read)` the slots whose logits are needed: the last prompt token, then the trie nodes.
        sizes: per row, the number of tokens and nodes before padding.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | dict[str, Tensor]
    reads: Tensor
    sizes: tuple[int, ...]

    def expand(self, rows: int) -> Batch:
        """A batch of one row, repeated without copying."""
        mask = {k: m.expand(rows, -1, -1, -1) for k, m in self.mask.items()} if isinstance(self.mask, dict) else None
        return Batch(
            self.ids.expand(rows, -1),
            self.positions.expand(rows, -1),
            self.mask.expand(rows, -1, -1, -1) if isinstance(self.mask, Tensor) else mask or {},
            self.reads.expand(rows, -1),
            self.sizes * rows,
        )

    def after(self, slot: int) -> Batch:
        """The batch from `slot` on, whose queries still see the keys before it; every read slot must be among them."""
        mask = {k: m[:, :, slot:] for k, m in self.mask.items()} if isinstance(self.mask, dict) else self.mask[:, :, slot:]
        sizes = tuple(n - slot for n in self.sizes)
        return Batch(self.ids[:, slot:], self.positions[:, slot:], mask, self.reads - slot, sizes)


@dataclass(frozen=True)
class Gates:
    """A student's gates.

    Attributes:
        student: whose weights.
        values: 1.0 for the whole student, `(row, slot)` for all modules alike, or `(row, slot, component)` with one gate per changed
            module, in the order of `student.deltas`.
    """

    student: Student
    values: Tensor | float = 1.0

    def of(self, component: int) -> Tensor | float | None:
        """The gate of a component: `(row, slot)`, a number, or None where it is closed everywhere."""
        if isinstance(self.values, float):
            return self.values or None
        gate = self.values if self.values.dim() == 2 else self.values[..., component]
        return gate if gate.requires_grad or bool(gate.any()) else None


@dataclass(frozen=True)
class Pass:
    """What a forward gives.

    Attributes:
        logits: `(row, read, vocab)`.
        activations: recorded ones by (site, layer), `(row, slot, d_model)` or `(row, slot, head, d_head)`.
        cache: keys and values, where they were asked for.
    """

    logits: Tensor
    activations: dict[Key, Tensor]
    cache: Cache = ()


def make_batch(model: Any, prompts: Sequence[Prompt], answers: Sequence[Answers]) -> Batch:
    """Build a batch on the model's device.

    Raises:
        ValueError: a prompt with its answers is longer than the model.
    """
    sizes = tuple(len(p) + len(a.nodes) for p, a in zip(prompts, answers, strict=True))
    for prompt, answer in zip(prompts, answers, strict=True):
        check_length(model, len(prompt) + max(answer.depths, default=0), f"prompt {prompt.question[:60]!r}")
    rows, width = len(prompts), max(sizes)
    reads = torch.zeros(rows, 1 + max(len(a.nodes) for a in answers), dtype=torch.long)
    ids, positions = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows, width, dtype=torch.long)
    sees = torch.eye(width, dtype=torch.bool).repeat(rows, 1, 1)  # padding sees itself, so that no row of the mask is empty
    for r, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        n, m = len(prompt), len(answer.nodes)
        ids[r, : n + m] = torch.tensor([*prompt.ids, *answer.nodes])
        positions[r, : n + m] = torch.tensor([*range(n), *(n - 1 + d for d in answer.depths)])
        sees[r, :n, :n] = torch.ones(n, n, dtype=torch.bool).tril()
        sees[r, n : n + m, :n] = True
        for i, parent in enumerate(answer.parents):
            if parent >= 0:
                sees[r, n + i] |= sees[r, n + parent]
        reads[r, : m + 1] = torch.arange(n - 1, n + m)
    parameter = next(model.parameters())
    to = parameter.device
    mask = attention_masks(model.config, sees.to(to), positions.to(to), positions.to(to), parameter.dtype)
    return Batch(ids.to(to), positions.to(to), mask, reads.to(to), sizes)


def next_step(model: Any, ids: Tensor, position: int) -> Batch:
    """The batch of one further token per row, `ids (row,)`, that stands at `position` and sees everything before it."""
    rows, to = len(ids), ids.device
    queries = torch.full((rows, 1), position, device=to)
    keys = torch.arange(position + 1, device=to).expand(rows, -1)
    sees = torch.ones(rows, 1, position + 1, dtype=torch.bool, device=to)
    mask = attention_masks(model.config, sees, queries, keys, next(model.parameters()).dtype)
    return Batch(ids[:, None], queries, mask, torch.zeros_like(queries), (1,) * rows)


def attention_masks(config: Any, sees: Tensor, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Additive masks from what each query sees and the positions; sliding-window layers see no further back than their window."""

    def additive(visible: Tensor) -> Tensor:
        hidden = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        return rearrange(hidden, "row query key -> row 1 query key")

    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if window is None or (types and "sliding_attention" not in types):
        return additive(sees)
    near = (queries[:, :, None] - keys[:, None, :]) < window
    if not types:
        return additive(sees & near)
    return {kind: additive(sees & near if kind == "sliding_attention" else sees) for kind in types}


def forward(
    model: nn.Module,
    sites: Sites,
    batch: Batch,
    *,
    gates: Gates | None = None,
    record: Sequence[Key] = (),
    edits: Mapping[Key, Callable[[Tensor], Tensor]] | None = None,
    start: tuple[int, Tensor] | None = None,
    past: Cache | None = None,
    compute: torch.dtype | None = None,
) -> Pass:
    """One gated pass.

    Args:
        model: the pair's base model.
        sites: its map.
        batch: the rows.
        gates: the student's gates; None is the base.
        record: activations to return.
        edits: functions applied to activations, `(row, slot, d_model)` or `(row, slot, head, d_head)`; a recorded one is recorded as
            edited.
        start: (layer, `resid_pre` of that layer): earlier blocks are skipped; the number of blocks stands for the final norm.
        past: keys and values of the slots before the batch's first; pass `()` to have the pass's own returned.
        compute: floating-point type of the matrix products (autocast); the weights' own when None.
    """
    seen: dict[Key, Tensor] = {}
    edits = dict(edits or {})
    with ExitStack() as stack:
        # a module's gate comes before edits of its output, so that what is patched in is not changed again
        if gates is not None:
            for component, (path, delta) in enumerate(gates.student.deltas.items()):
                gate = gates.of(component)
                if gate is not None:
                    reads = batch.reads if path == sites.head else None
                    hook = _gate_hook(sites.modules[path], delta, gate, reads, batch.ids.shape)
                    stack.callback(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True).remove)
        if start is not None:
            stack.enter_context(_skip(model, sites, start[0]))
            key = ("resid_pre", start[0]) if start[0] < sites.n_layers else ("resid_post", start[0] - 1)
            edits[key] = _then(start[1], edits.get(key))
        for key in dict.fromkeys([*edits, *record]):
            stack.enter_context(_at(model, sites, key, edits.get(key), seen if key in record else None, batch.ids.shape))
        head = model.get_submodule(sites.head)
        stack.callback(head.register_forward_pre_hook(lambda _, args: (_take(args[0], batch.reads), *args[1:])).remove)
        if compute is not None:
            stack.enter_context(torch.autocast(batch.ids.device.type, compute))
        cache = None if past is None else as_cache(past, len(batch.sizes))
        out = model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, past_key_values=cache, use_cache=cache is not None
        )  # fmt: skip
    return Pass(out.logits, seen, () if cache is None else tuple((layer.keys, layer.values) for layer in cache.layers))


def as_cache(past: Cache, rows: int) -> Any:
    """A transformers cache holding keys and values of one row for all rows, as views (or of all rows, as they are).

    No layer forgets what leaves its window.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def _gate_hook(
    place: Module, delta: Any, gate: Tensor | float, reads: Tensor | None, shape: torch.Size
) -> Callable[..., Tensor]:
    """Add the gated difference of one module to its output."""
    if isinstance(gate, Tensor) and reads is not None:
        gate = gate.expand(shape).gather(1, reads)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        change = delta(output, *args, **kwargs)
        if isinstance(gate, float):
            return torch.add(output, change, alpha=gate)
        if change.shape[0] == gate.numel() and change.dim() == 2:  # OPT flattens rows and tokens into one axis
            return torch.addcmul(output, rearrange(gate, "row slot -> (row slot) 1").to(change.dtype), change)
        if change.shape[place.axis] != gate.shape[1]:
            raise ValueError(
                f"module {place.path} does not keep a token axis in its output {tuple(change.shape)}; it cannot be gated."
            )
        between, behind = [1] * (place.axis - 1), [1] * (change.dim() - place.axis - 1)
        spread = gate.reshape(len(gate), *between, gate.shape[1], *behind)
        return torch.addcmul(output, spread.to(change.dtype), change)  # one temporary less than output + spread * change

    return hook


def _take(hidden: Tensor, reads: Tensor) -> Tensor:
    """`(row, slot, d)` at the read slots: `(row, read, d)`."""
    return hidden.gather(1, reads[..., None].expand(-1, -1, hidden.shape[-1]))


def _then(start: Tensor, edit: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    return (lambda _: start) if edit is None else (lambda _: edit(start))


@contextmanager
def _at(
    model: nn.Module,
    sites: Sites,
    key: Key,
    edit: Callable[[Tensor], Tensor] | None,
    seen: dict[Key, Tensor] | None,
    shape: torch.Size,
) -> Iterator[None]:
    """Edit and record one activation while the context lasts."""
    name, layer = key
    if name == "embed":
        site, module = Site("", "out", "hook_embed"), model.get_submodule(sites.embed)
    else:
        site, block = sites.site(name), sites.blocks[layer]
        module = model.get_submodule(f"{block}.{site.path}" if site.path else block)

    def touch(x: Tensor) -> Tensor:
        value = site.get(x.reshape(*shape, -1))  # OPT flattens rows and tokens into one axis
        if edit is not None:
            value = edit(value)
            x = site.put(x, value.reshape(*x.shape[:-1], *value.shape[2:]))
        if seen is not None:
            seen[key] = value.detach()
        return x

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (touch(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": touch(kwargs["hidden_states"])}

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (touch(output[0]), *output[1:]) if isinstance(output, tuple) else touch(output)

    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True) if site.side == "in" else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skip(model: nn.Module, sites: Sites, layer: int) -> Iterator[None]:
    """Blocks before `layer` hand their input on."""
    blocks = [model.get_submodule(path) for path in sites.blocks[:layer]]
    for block in blocks:
        block.forward = lambda hidden_states, *args, **kwargs: hidden_states  # hooks still run
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
