"""What was measured, as a text: two metrics are the same where their texts are.

A name is for readers; two metrics may share one. The text holds the type and all fields: traits by
name and forms, arrays by their bytes, functions by qualified name. Where a name is not a function's
own (a lambda, a function made by a function) its code and what it closes over stand for it, so that
two lambdas are not taken for one. No address in memory takes part: the text is the same in another
process.

What it cannot see: a function or a metric's `read` that was rewritten under its old name.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

from ..prompts import Trait

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OURS = __name__.partition(".")[0]
_LONGEST = 400  # letters; of a longer part its digest is kept
_LETTERS = 12  # of a digest
_SHOWN = 60  # letters of a text that is told apart from another


def content(value: Any) -> str:
    """The text of a metric, or of anything that one is made of.

    Example:
        >>> from sublim_mech.results.identity import content
        >>> content(sm.metrics.target("yes"))
        "sublim_mech.metrics.Target(text='yes')"
        >>> owls = [sm.Trait("owl"), sm.Trait("owl", forms=["owl", "bebop"])]
        >>> first, second = (content(sm.metrics.log_prob(owl)) for owl in owls)
        >>> first == second
        False
    """
    return _text(value, ())


def with_digest(name: str, digest: hashlib._Hash) -> str:
    """A name for readers and, in brackets, a digest by which two of one name are told apart."""
    return f"{name} [{digest.hexdigest()[:_LETTERS]}]"


def name_and_digest(text: str) -> tuple[str, str]:
    """What `with_digest` made one text; no name where nothing was kept."""
    name, _, digest = text.removesuffix("]").rpartition(" [")
    return name, digest


def first_difference(one: str, other: str) -> tuple[str, str]:
    """Two texts of `content` where they differ first, for readers: the whole texts are long.

    Example:
        >>> from sublim_mech.results.identity import content, first_difference
        >>> first_difference(*(content(sm.metrics.target(text)) for text in ("yes", "no")))
        ("text='yes')", "text='no')")
    """
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), -1)
    same = min(len(one), len(other)) if same < 0 else same
    fields_before = [m.end() for m in re.finditer(r"[(,]\s*(?=\w+=)", one[: same + 1])]
    start = max(fields_before, default=0)
    shown = [text[start:] for text in (one, other)]
    first, second = (text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…" for text in shown)
    return first, second


def code(value: Any) -> str:
    """A digest of the functions that a metric is made of, beside what `content` says of it: those
    it holds, and its class's own; empty where all are of this package.

    What they call in turn it cannot see.
    """
    found: list[bytes] = []
    _gather(value, found, {})
    return _digest(b"\n".join(found)) if found else ""


def _gather(value: Any, found: list[bytes], seen: dict[int, Any]) -> None:
    """The code of functions that are not this package's, in the order of their places."""
    if id(value) in seen or isinstance(value, (*_PLAIN, type)):
        return
    seen[id(value)] = value  # held, so that nothing else gets its id
    if isinstance(value, Mapping):
        value = list(value.values())
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return
    if isinstance(value, tuple | list):
        for part in value:
            _gather(part, found, seen)
    elif isinstance(value, MethodType):
        _gather([value.__func__, value.__self__], found, seen)
    elif isinstance(value, partial):
        _gather([value.func, value.args, value.keywords], found, seen)
    elif isinstance(value, FunctionType):
        if not value.__module__.startswith(f"{_OURS}."):
            found.append(_code(value.__code__))
        for cell in value.__closure__ or ():
            _gather(_inside(cell), found, seen)
    elif hasattr(value, "__dict__") or _slots(value):
        for kind in type(value).__mro__[:-1]:
            if kind.__module__.startswith(f"{_OURS}."):
                continue
            own = [part for _, part in sorted(vars(kind).items()) if isinstance(part, FunctionType)]
            _gather(own, found, seen)
        _gather(list(_attributes(value).values()), found, seen)


def _text(value: Any, outer: tuple[int, ...]) -> str:
    """The text of a part; `outer` are the ids of what it is a part of."""
    if id(value) in outer:
        return "..."  # a part of itself
    inner = (*outer, id(value))
    if isinstance(value, type):
        return _qualified(value)
    if isinstance(value, Enum):
        return f"{_type(value)}.{value.name}"
    if isinstance(value, _PLAIN):
        return _short(repr(value))
    if isinstance(value, Trait):
        return _call("Trait", [repr(value.name), *map(repr, value.forms)])
    if isinstance(value, Mapping):
        pairs = [f"{_text(k, inner)}: {_text(v, inner)}" for k, v in value.items()]
        return f"{{{', '.join(sorted(pairs))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_text(part, inner) for part in value))}}}"
    if isinstance(value, tuple | list | range):
        return f"[{', '.join(_text(part, inner) for part in value)}]"
    if callable(value) and not is_dataclass(value):
        called = _callable(value, inner)
        if called is not None:
            return called
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    return _object(value, inner)


def _object(value: Any, inner: tuple[int, ...]) -> str:
    """A dataclass by the fields that its equality knows, another object by its attributes."""
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
    else:
        parts = _attributes(value)
    if not parts and not _default_repr(value):
        return _short(f"{_type(value)} {value!r}")
    given = [f"{name}={_text(part, inner)}" for name, part in parts.items()]
    return _call(_type(value), given)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds by name, in its dictionary and in slots."""
    return dict(sorted((_slots(value) | getattr(value, "__dict__", {})).items()))


def _slots(value: Any) -> dict[str, Any]:
    """What an object holds in slots; those of Python's own classes are told by how they print, for
    some keep there what was asked of them (paths).
    """
    found = {}
    for kind in type(value).__mro__:
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            continue
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            stored = f"_{kind.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, stored):
                found[stored] = getattr(value, stored)
    return found


def _default_repr(value: Any) -> bool:
    """Whether a value prints as its address in memory."""
    return " at 0x" in repr(value)


def _callable(value: Callable[..., Any], inner: tuple[int, ...]) -> str | None:
    """A function, method or partial; None of other objects that can be called."""
    if isinstance(value, MethodType):
        return f"{_text(value.__self__, inner)}.{value.__name__}"
    if isinstance(value, partial):
        given = [_text(part, inner) for part in (value.func, value.args, value.keywords)]
        return _call("partial", given)
    if isinstance(value, BuiltinFunctionType):
        return _qualified(value)
    if isinstance(value, FunctionType):
        return _function(value, inner)
    return None


def _function(function: FunctionType, inner: tuple[int, ...]) -> str:
    name = _qualified(function)
    if "<" not in function.__qualname__:
        return name
    # the functions that our masks are made of have names of their own, whatever their code
    if not function.__module__.startswith(f"{_OURS}."):
        defaults = function.__defaults__, function.__kwdefaults__
        name += f" {_digest(_code(function.__code__) + _text(defaults, inner).encode())}"
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return _call(name, [f"{free}={_cell(cell, inner)}" for free, cell in cells])


def _cell(cell: Any, inner: tuple[int, ...]) -> str:
    try:
        return _text(cell.cell_contents, inner)
    except ValueError:  # not filled yet
        return "?"


def _inside(cell: CellType) -> Any:
    """What a closure's cell holds; None where it is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _code(code: CodeType) -> bytes:
    """What a function does: instructions, names and constants, those of inner functions too."""
    constants = []
    for one in code.co_consts:
        constants.append(_code(one) if isinstance(one, CodeType) else _text(one, ()).encode())
    return b"\n".join([code.co_code, repr(code.co_names).encode(), *constants])


def _array(value: Any) -> str:
    """Numbers by type, shape and bytes; a tensor as the array that it holds."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
        value = value.numpy()
    array = np.ascontiguousarray(value)
    return f"array({array.dtype}, {array.shape}, {_digest(array.tobytes())})"


def _call(name: str, given: list[str]) -> str:
    return _short(f"{name}({', '.join(given)})", name)


def _short(text: str, name: str = "") -> str:
    return text if len(text) <= _LONGEST else f"{name or text[:60]}({_digest(text.encode())})"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _qualified(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _type(value: Any) -> str:
    return _qualified(type(value))
