"""Watching weights: were they changed in place since they were loaded?

A pair computes with the caller's own memory, so what changes a live model later (a training step,
PEFT's `merge_adapter`) would change the pair under a hash that is no longer its own.

1. Three things are kept when the weights are loaded: where each tensor lies and torch's count of
   its in-place changes, 16 values from all over it, and a sum of all its bits in which each counts
   by its place.
2. Places, counts and values are compared whenever the weights compute (`Watch.check`). PEFT changes
   `.data`, which raises no count; it changes all of a matrix, which the values show.
3. On an accelerator the comparison of values is begun with every pass and read when the results
   are (`Watch.settle`): no pass waits for it.
4. Where a place or a count is another one but the sums are not, nothing was changed: a model was
   moved to another device, or the same values were written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .buffers import stored_buffers
from .hashing import pieces

SAMPLED = 16
"""Values of each tensor that are compared at every check."""

AT_ONCE = ("cpu",)
"""Kinds of devices on which a comparison is over when it is made."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per value
_FOLD = 29  # bits by which high ones are brought down
_PIECES = 1_000_003  # an odd number, by which pieces count by their place
_WIDE = 8  # bytes of the words that are summed where values fill them: 40 times as fast as 2


class Slot(NamedTuple):
    """Where a tensor is found, whichever stands there: the mapping that holds it, its key, and its
    name in messages.
    """

    held: Mapping[str, Any]
    key: str
    name: str


class Watch:
    """Tensors as they were when the watch began.

    A check of a model of 135M parameters in 272 tensors takes 0.3 ms on a CPU (1 ms where nothing
    of it is in the cache), of a LoRA on all its projections (420 tensors) half as much again; to
    begin one takes 0.2 s.

    Args:
        slots: where each tensor is found.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = list(slots)
        self._sums = [_sum(tensor) for tensor in self._tensors()]
        self._differ: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._begin()

    def check(self) -> str | None:
        """The name of a tensor that is not as it was; None where all are.

        On an accelerator values are only compared: `settle` says what was found.
        """
        tensors = self._tensors()
        if _marks(tensors) == self._marks:
            for group, values in _joined(self._views).items():
                if group[1].type not in AT_ONCE:
                    differs = (values != self._values[group]).any()
                    known = self._differ.get(group)
                    self._differ[group] = differs if known is None else known | differs
                elif not torch.equal(values, self._values[group]):
                    return self._first_changed(tensors)
            return None
        name = self._first_changed(tensors)
        if name is None:
            self._begin()
        return name

    def settle(self) -> str | None:
        """The name of a tensor that was not as it was at a check, where that was not read yet: on
        an accelerator, which this waits for. None where all were.
        """
        begun, self._differ = self._differ, {}
        if any(bool(differs) for differs in begun.values()):
            return self._first_changed(self._tensors()) or self._slots[0].name
        return None

    def _begin(self) -> None:
        tensors = self._tensors()
        self._marks = _marks(tensors)
        self._views = [_some(tensor) for tensor in tensors]
        self._values = _joined(self._views)

    def _tensors(self) -> list[Any]:
        return [slot.held[slot.key] for slot in self._slots]

    def _first_changed(self, tensors: list[Any]) -> str | None:
        for slot, tensor, expected in zip(self._slots, tensors, self._sums, strict=True):
            if not isinstance(tensor, Tensor) or _sum(tensor) != expected:
                return slot.name
        return None


class Watches(Watch):
    """Several watches as one."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self._all = list(watches)

    def check(self) -> str | None:
        """As `Watch.check`, of the first that finds something."""
        return next(filter(None, [watch.check() for watch in self._all]), None)

    def settle(self) -> str | None:
        """As `Watch.settle`, of the first that finds something."""
        return next(filter(None, [watch.settle() for watch in self._all]), None)


def check_weights(
    watch: Watch | None, named: str, *, when: Literal["now", "begin", "settle"] = "now"
) -> None:
    """Raise ValueError where watched weights were changed in place.

    Args:
        watch: of the weights; nothing is checked without one.
        named: what the message calls their model, `base='gpt2'`.
        when: `begin` a check that no accelerator is waited for, `settle` those that were begun, or
            both at once.
    """
    changed = None
    if watch is not None and when != "settle":
        changed = watch.check()
    if watch is not None and when != "begin" and changed is None:
        changed = watch.settle()
    if changed is not None:
        raise ValueError(
            f"{named}: its weights were changed in place since they were loaded ({changed}), so "
            "results would carry the hash of other weights; load it again, or give a copy of a "
            "live model that goes on changing (copy.deepcopy(model))."
        )


def parameter_slots(model: nn.Module, above: str = "") -> Iterator[Slot]:
    """Where the parameters of a model, and the buffers that are stored with them, are found.

    Args:
        model: whose.
        above: path of the model in names.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        for key, p in module._parameters.items():
            if p is not None and id(p) not in seen:  # tied ones are one tensor
                seen.add(id(p))
                name = ".".join(filter(None, (above, path, key)))
                yield from _plain_slots(Slot(module._parameters, key, name))
        for key, _ in stored_buffers(module, recurse=False):
            yield Slot(module._buffers, key, ".".join(filter(None, (above, path, key))))


def _plain_slots(slot: Slot) -> Iterator[Slot]:
    """The slot of a plain tensor, or those of the tensors that a packed one is made of."""
    tensor = slot.held[slot.key]
    if not is_traceable_wrapper_subclass(tensor):
        yield slot
        return
    for key in tensor.__tensor_flatten__()[0]:
        yield from _plain_slots(Slot(vars(tensor), key, f"{slot.name}.{key}"))


def _marks(tensors: list[Any]) -> list[tuple[int, int]]:
    """Where each tensor lies, and how often it was changed in place."""
    return [(t.data_ptr(), _version(t)) if isinstance(t, Tensor) else (0, 0) for t in tensors]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # which inference tensors do not have


def _some(tensor: Tensor) -> Tensor:
    """A view of values from all over a tensor."""
    values = tensor.detach()
    if not values.is_contiguous():
        steps = [max(1, size // 4) for size in values.shape]
        return values[tuple(slice(None, None, step) for step in steps)]
    flat = values.view(-1)
    step = max(1, (len(flat) - 1) // (SAMPLED - 1))
    return flat[(len(flat) - 1) % step :: step]


def _joined(views: list[Tensor]) -> dict[tuple[torch.dtype, torch.device], Tensor]:
    """The values of views, one tensor per type and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for view in views:
        groups.setdefault((view.dtype, view.device), []).append(view)
    return {group: torch.cat([v.reshape(-1) for v in some]) for group, some in groups.items()}


def _sum(tensor: Tensor) -> int:
    """The sum of a tensor's values read as integers, each times its place: another one for any
    changed value, and where two have changed places.
    """
    total = 0
    for piece in pieces(tensor):
        words = _words(piece).to(torch.int64)
        # 64 bits hold no more: an even place would lose what differs in the sign alone
        weighed = words >> _FOLD
        weighed ^= words
        weighed *= torch.arange(1, len(words) + 1, device=words.device)
        total = total * _PIECES + int(weighed.sum())
    return total


def _words(values: Tensor) -> Tensor:
    """The bits of values in a row as integers, wide ones where they can be."""
    size = values.element_size()
    if values.numel() * size % _WIDE or values.storage_offset() * size % _WIDE:
        return values.view(_WORDS[size])
    return values.view(torch.int64)
