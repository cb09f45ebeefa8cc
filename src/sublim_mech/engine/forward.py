"""The gated forward: base, student and everything between in one pass.

1. A batch holds one row per prompt (`batch`): its tokens, then the inner nodes of its answer trie.
2. Every module that differs between base and student computes `f_base(x) + g * (f_student(x) -
   f_base(x))`, with its own gate g per row and token (dynamic weight grafting, arXiv 2506.20746). g
   = 0 is the base, g = 1 the student; any other number scales the difference. Where a student is
   split (`models.splitting`), each part of the difference has a gate of its own.
3. Activations can be recorded and edited at TransformerLens' sites.
4. A pass can branch off a finished one: from a later block (its residual stream) and a later slot
   (its keys and values), because a change at one layer and slot reaches neither earlier layers nor
   earlier slots.
5. Logits are computed at the read slots only.

The model belongs to the runner, not to the caller, and all hooks are gone when a pass ends, however
it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..models.compat import Cache, attention_kernel, call_model, make_cache, read_cache
from ..models.deltas import Delta
from ..models.devices import without_autocast
from ..models.names import Module
from ..models.parts import Parts
from ..models.placement import forward_replaced
from ..models.sites import Site, Sites, spread_gate
from ..models.students import Student
from .batch import Batch
from .heads import ExactHead
from .invocation import acting, waits
from .latents import Latents
from .plain import PartedBatch, run_parts
from .recomputing import recomputed

Key = tuple[str, int]
"""An activation: (site, layer); the token embedding is ("embed", -1)."""

_Hook = tuple[Callable[..., Tensor], nn.Module]  # a gate's, and on which module

Edit = Callable[[Tensor], Tensor]
"""A change of an activation `(row, slot, d_model)` or `(row, slot, head, d_head)`."""

EMBED: Key = ("embed", -1)


class Start(NamedTuple):
    """Where a pass begins that is not computed from its first block on.

    Attributes:
        layer: the first block that is computed; the number of blocks stands for the final norm.
        hidden: the residual stream before it, `(row, slot, d_model)`.
    """

    layer: int
    hidden: Tensor


@dataclass(frozen=True)
class Gates:
    """A student's gates.

    Attributes:
        student: whose weights.
        values: 1.0 for the whole student, `(row, slot)` for all modules alike, or `(row, slot,
            cell)` with one gate per changed module, and of a split one per part, in the order of
            `student.cells`.
    """

    student: Student
    values: Float[Tensor, "row slot"] | Float[Tensor, "row slot cell"] | float = 1.0

    def check(self, batch: Batch) -> None:
        """Refuse gates that do not belong to a batch's rows and slots or are no numbers.

        Raises:
            ValueError: another shape; NaN or infinity.
        """
        if isinstance(self.values, float):
            finite = math.isfinite(self.values)
        else:
            rows, slots, cells = *batch.ids.shape, self.student.width
            given = tuple(self.values.shape)
            if given not in ((rows, slots), (rows, slots, cells)):
                last = "part of a module" if self.student.parts else "module"
                raise ValueError(
                    f"gates have shape {given}; this batch takes (row, slot) = {(rows, slots)}, or "
                    f"(row, slot, {last}) = {(rows, slots, cells)}."
                )
            finite = bool(self.values.isfinite().all())
        if not finite:
            raise ValueError("gates hold NaN or infinity; a gate is a number, 0 closed and 1 open.")

    def after(self, slot: int) -> Gates:
        """Those of the slots from one on."""
        if isinstance(self.values, float):
            return self
        return Gates(self.student, self.values[:, slot:])

    def expand(self, rows: int) -> Gates:
        """Those of one row, repeated."""
        if isinstance(self.values, float):
            return self
        return Gates(self.student, self.values.expand(rows, *self.values.shape[1:]))

    def of(self, module: int) -> Tensor | float | None:
        """The gate of a changed module: `(row, slot)`, `(row, slot, part)` where it is split, a
        number, or None where it is closed everywhere.
        """
        if isinstance(self.values, float):
            return self.values or None
        if self.values.dim() == 2:
            gate = self.values
        else:
            gate = self._by_module[module] if self.student.parts else self.values[..., module]
        # a closed gate that is differentiated must be there: its gradient is wanted
        is_needed = gate.requires_grad or bool(gate.any())
        return gate if is_needed else None

    @cached_property
    def _by_module(self) -> list[Tensor]:
        """The gates of each changed module, with an axis of parts where it has several."""
        assert isinstance(self.values, Tensor)
        split = self.student.parts
        sizes = [len(split[path].names) if path in split else 1 for path in self.student.deltas]
        # at once: the gradient of a slice for each would be as large as all of them
        gates = self.values.split(sizes, -1)
        return [gate[..., 0] if gate.shape[-1] == 1 else gate for gate in gates]


@dataclass(frozen=True)
class Pass:
    """What a forward gives.

    Attributes:
        logits: at the read slots.
        activations: recorded ones by (site, layer), `(row, slot, d_model)` or `(row, slot, head,
            d_head)`.
        cache: keys and values, where they were asked for.
    """

    logits: Float[Tensor, "row read vocab"]
    activations: dict[Key, Tensor]
    cache: Cache = ()


def forward(
    model: nn.Module,
    sites: Sites,
    batch: Batch,
    *,
    gates: Gates | None = None,
    record: Sequence[Key] = (),
    edits: Mapping[Key, Edit] | None = None,
    start: Start | None = None,
    past: Cache | None = None,
    unembed: ExactHead | None = None,
    compute: torch.dtype | None = None,
    recompute: bool = False,
) -> Pass:
    """One gated pass.

    Args:
        model: the runner's model.
        sites: its map.
        batch: the rows.
        gates: the student's gates; None is the base.
        record: activations to return.
        edits: functions applied to activations; a recorded one is recorded as edited.
        start: earlier blocks than this are skipped.
        past: keys and values of the slots before the batch's first, of one row for all or of each
            row; pass `()` to have the pass's own returned.
        unembed: logits of a few tokens only, or in fp32; the model's own unembedding when None.
        compute: floating-point type of the matrix products (autocast); the weights' own when None.
        recompute: keep no activations for a backward pass, which computes each block again.
    """
    if isinstance(batch, PartedBatch):
        if start is not None or past is not None:
            raise ValueError("rows in parts are whole forwards: they take no start and no past.")

        def run(part: Batch, gates: Any, record: Any, edits: Any) -> Pass:
            options = {"gates": gates, "record": record, "edits": edits, "recompute": recompute}
            return forward(model, sites, part, **options, unembed=unembed, compute=compute)

        return Pass(*run_parts(run, batch, gates, record, edits or {}))
    hooks: list[_Hook] = []
    recorded: dict[Key, Tensor] = {}
    edits = dict(edits or {})
    latents = Latents.of(sites, past)
    with ExitStack() as stack:
        # a module's gate comes before edits of its output, so that what is patched in is not
        # changed again
        if gates is not None:
            gates.check(batch)
            hooks += _gate_hooks(model, sites, batch, gates, latents)
            for hook, module in hooks:
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

        # a pass that starts later takes its residual stream as an edit, on top of which the
        # caller's edit comes
        if start is not None:
            stack.enter_context(_skip(model, sites, start.layer))
            key = _start_key(sites, start.layer)
            edits[key] = _then(start.hidden, edits.get(key))
        for key in dict.fromkeys([*edits, *record]):
            keep = recorded if key in record else None
            touch = _Touch(key, edits.get(key), keep, batch.ids.shape)
            stack.enter_context(_at(model, sites, touch))
        if recompute:
            first = 0 if start is None else start.layer
            again = partial(_hooked_again, model, sites, hooks, edits, batch.ids.shape)
            stack.enter_context(recomputed(model, sites.blocks[first:], again))

        # the unembedding sees the read slots only
        head = model.get_submodule(sites.head)
        stack.callback(head.register_forward_pre_hook(_reader(batch.reads)).remove)
        if unembed is not None:
            stack.enter_context(unembed.in_place_of(head))

        # whatever autocast the caller is in: `compute` says what is computed in
        stack.enter_context(without_autocast())
        if compute is not None:
            stack.enter_context(torch.autocast(batch.ids.device.type, compute))
        cache = None if latents.past is None else make_cache(latents.past, len(batch.sizes))
        mask = batch.mask
        if batch.causal and attention_kernel(model) == "sdpa":
            mask = None  # the same, but what it hides is not computed
        output = call_model(model, ids=batch.ids, mask=mask, positions=batch.positions, cache=cache)
    return Pass(output.logits, recorded, () if cache is None else latents.kept(read_cache(cache)))


# -------------------------------------------------------------------------------------------- gates


def _gate_hooks(
    model: nn.Module, sites: Sites, batch: Batch, gates: Gates, latents: Latents
) -> Iterator[_Hook]:
    """A hook for every module whose gate is open somewhere, and the module."""
    acts: dict[tuple[int, ...], Tensor] = {}
    for number, (path, delta) in enumerate(gates.student.deltas.items()):
        gate = latents.over_all_slots(path, gates.of(number), batch.ids)
        if gate is None:
            continue
        invocation = waits(delta)
        if invocation:
            if invocation not in acts:
                acts[invocation] = acting(batch, invocation)
            own = acts[invocation]
            gate = gate * (own[..., None] if isinstance(gate, Tensor) and gate.dim() == 3 else own)
        if path == sites.head and isinstance(gate, Tensor):
            # the unembedding has been given the read slots, so it needs the gates of those
            gate = _at_reads(gate.expand(*batch.ids.shape, *gate.shape[2:]), batch.reads)
        split = gates.student.parts.get(path)
        yield _gate_hook(sites.modules[path], delta, gate, split), model.get_submodule(path)


def _at_reads(gate: Tensor, reads: Int[Tensor, "row read"]) -> Tensor:
    """Gates `(row, slot)` or `(row, slot, part)` of the read slots."""
    if gate.dim() == 2:
        return gate.gather(1, reads)
    return gate.gather(1, reads[..., None].expand(-1, -1, gate.shape[-1]))


def _gate_hook(
    place: Module, delta: Delta, gate: Tensor | float, split: Parts | None
) -> Callable[..., Any]:
    """Add the gated difference of one module to its output."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if isinstance(output, tuple):  # a block of experts may give its router's logits beside it
            return (mixed(output[0], args, kwargs), *output[1:])
        return mixed(output, args, kwargs)

    def mixed(output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if split is not None and isinstance(gate, Tensor) and gate.dim() == 3:
            return output + split.gated(place, gate, output, args, kwargs)
        change = delta(output, *args, **kwargs)
        if isinstance(gate, float):
            return torch.add(output, change, alpha=gate)
        # one temporary less than output + gate * change
        return torch.addcmul(output, spread_gate(place, gate, change), change)

    return hook


# -------------------------------------------------------------------------------------- activations


class _Touch(NamedTuple):
    """What is done to one activation: edited, and kept under its key in `record`."""

    key: Key
    edit: Edit | None
    record: dict[Key, Tensor] | None
    shape: torch.Size  # (row, slot)


@contextmanager
def _at(model: nn.Module, sites: Sites, touch: _Touch) -> Iterator[None]:
    """Edit and record one activation while the context lasts."""
    name, layer = touch.key
    if touch.key == EMBED:
        site, module = Site("", "out", "hook_embed"), model.get_submodule(sites.embed)
    else:
        site = sites.site(name)
        path = f"{sites.blocks[layer]}.{site.path}" if site.path else sites.blocks[layer]
        module = model.get_submodule(path)

    def touched(hidden: Tensor) -> Tensor:
        value = site.get(hidden, touch.shape)
        if touch.edit is not None:
            value = touch.edit(value)
            hidden = site.put(hidden, value)
        if touch.record is not None:
            touch.record[touch.key] = value.detach()
        return hidden

    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (touched(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": touched(kwargs["hidden_states"])}

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            given = [touched(output[0]), *output[1:]]
            return given if isinstance(output, list) else tuple(given)
        return touched(output)

    if site.side == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _reader(reads: Int[Tensor, "row read"]) -> Callable[..., Any]:
    """A hook that hands a module its input at the read slots only: `(row, slot, d)` -> `(row, read,
    d)`.
    """

    def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        at = reads.to(hidden.device)[..., None]
        return hidden.gather(1, at.expand(-1, -1, hidden.shape[-1])), *rest

    return take


@contextmanager
def _hooked_again(
    model: nn.Module,
    sites: Sites,
    hooks: Sequence[_Hook],
    edits: Mapping[Key, Edit],
    shape: torch.Size,
    path: str,
) -> Iterator[None]:
    """The gates and edits inside a block as in the pass that computed it, which is over."""
    block = model.get_submodule(path)
    inside = {id(module) for module in block.modules() if module is not block}
    with ExitStack() as stack:
        for hook, module in hooks:
            if id(module) in inside:
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for key, edit in edits.items():
            if key != EMBED and sites.blocks[key[1]] == path and sites.site(key[0]).path:
                stack.enter_context(_at(model, sites, _Touch(key, edit, None, shape)))
        yield


# ---------------------------------------------------------------------------------------- branching


def _start_key(sites: Sites, layer: int) -> Key:
    """The activation that a pass from this block on is given."""
    if layer < sites.n_layers:
        return "resid_pre", layer
    return "resid_post", layer - 1


def _then(hidden: Tensor, edit: Edit | None) -> Edit:
    """Put in `hidden`, then edit it."""
    if edit is None:
        return lambda _: hidden
    return lambda _: edit(hidden)


@contextmanager
def _skip(model: nn.Module, sites: Sites, layer: int) -> Iterator[None]:
    """Blocks before `layer` hand their input on."""
    with ExitStack() as stack:
        for path in sites.blocks[:layer]:
            block = model.get_submodule(path)  # whose hooks still run
            stack.enter_context(forward_replaced(block, partial(_hand_on, sites)))
        yield


def _hand_on(sites: Sites, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    return sites.handed_on(hidden_states)
