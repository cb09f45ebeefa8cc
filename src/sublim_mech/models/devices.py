"""Devices: what a user names is a device of this machine, or an error that lists those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..arguments import checked
from ..hints import nearest

SPELLINGS = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "metal": "mps"}
"""Other people's names of devices, and torch's."""


def available_devices() -> list[str]:
    """What this machine has, as torch spells it.

    Example:
        >>> from sublim_mech.models.devices import available_devices
        >>> available_devices()[0]
        'cpu'
    """
    found = ["cpu"]
    for kind in ("cuda", "mps", "xpu"):
        if _is_available(kind):
            found += [f"{kind}:{index}" for index in range(_count(kind))]
    return found


@checked
def check_device(device: str | torch.device | None) -> torch.device | None:
    """A device of this machine; None stays None.

    Raises:
        TypeError: neither a text nor a `torch.device`.
        ValueError: no device that torch knows, or one that this machine does not have.
    """
    if device is None:
        return None
    here = available_devices()
    has = f"This machine has {', '.join(here)}."
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        kind, _, index = str(device).lower().partition(":")
        spelling = SPELLINGS.get(kind)
        if spelling is not None:
            hint = f"; torch calls it {spelling + (index and ':') + index!r}."
        else:
            hint = nearest(str(device), ["cpu", "cuda", "mps", *here]) or "."
        raise ValueError(f"device={str(device)!r} is no device{hint} {has}") from error
    kinds = {name.partition(":")[0] for name in here}
    if parsed.type not in kinds or (parsed.index or 0) >= _count(parsed.type):
        raise ValueError(f"device={str(device)!r} is not there. {has}")
    return parsed


@contextmanager
def own_generators(seed: int | None = None) -> Iterator[None]:
    """Whatever draws within, torch's generators are the caller's again behind it: the processor's,
    and those of all accelerators where any is in use.

    Args:
        seed: what they begin from within, so that nothing depends on the caller's; where these are
            when not given.
    """
    # without naming them torch warns where a machine has several
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            # `torch.manual_seed` would also seed accelerators that are not in use yet, for good
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Whatever the caller's own `torch.autocast` says, it is off within: a computation has the
    types that it was asked for. Serves as a decorator too, of functions that are no generators.
    """
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _is_available(kind: str) -> bool:
    room: Any = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    return room is not None and bool(room.is_available())


def _count(kind: str) -> int:
    return 1 if kind in ("cpu", "mps") else int(getattr(torch, kind).device_count())
