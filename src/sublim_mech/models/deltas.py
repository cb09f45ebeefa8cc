"""How a student differs from its base, module by module.

1. Base and student are walked side by side: every module with parameters of its own, or PEFT's
   wrapper of one.
2. Where PEFT's adapter is a plain low-rank pair (any rank and alpha, rsLoRA, several active
   adapters) the delta is that pair.
3. A LoRA that waits for tokens (aLoRA) is such a pair too, with the tokens.
4. Everything else (DoRA, adapters on embeddings, trained heads, norms, biases, full fine-tunes) is
   the student's own module: of a full fine-tune Hugging Face's, of an adapter PEFT's, unmerged,
   which still reads the base's weights.

So no delta copies a weight, and none is rounded by merging. A module that the base holds quantised
may differ by a low-rank pair only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hints import kind_of
from . import compat
from .base import Base
from .hashing import pieces, weights_hash
from .peft_layers import Invocations, LoraPair, invocations, why_not
from .placement import device_of, moved, plain
from .quantised import is_quantised, same_packed


@dataclass(frozen=True)
class LowRank:
    """A plain LoRA update: `x -> scale * b(a(x))`.

    Attributes:
        a: `(rank, in)`.
        b: `(out, rank)`.
        scale: alpha / rank, or what the adapter's configuration makes of it; 1 where `b` holds the
            scales of several adapters.
        invocation: the token ids from whose last occurrence in a prompt on it acts (aLoRA, arXiv
            2504.12397), in a prompt without them nowhere; it acts everywhere where empty.
    """

    a: Tensor
    b: Tensor
    scale: float
    invocation: tuple[int, ...] = ()

    def __call__(self, output: Tensor, x: Tensor) -> Tensor:
        """What the student adds to the base module's output on the input `x (..., in)`."""
        change = F.linear(F.linear(x.to(self.a), self.a), self.b)
        return (self.scale * change).to(output)

    def norm(self) -> float:
        """Frobenius norm of the weight difference, from the two Gram matrices."""
        a, b = self.a.cpu().double(), self.b.cpu().double()
        square = float(((b.T @ b) * (a @ a.T)).sum())
        return abs(self.scale) * math.sqrt(max(square, 0.0))


@dataclass(frozen=True)
class Replaced:
    """The student's own module in place of the base's.

    Attributes:
        module: the student's module; PEFT's own where it wraps the base's.
        distance: Frobenius norm of the difference of its (merged) parameters.
        hash: content hash of its (merged) parameters.
    """

    module: nn.Module
    distance: float
    hash: str

    def __call__(self, output: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the student adds to the base module's output on the same input.

        Raises:
            ValueError: the module gives something else than a tensor.
        """
        students_output = self._computed(args, kwargs)
        if not isinstance(students_output, Tensor):
            raise ValueError(
                f"module {type(self.module).__name__} gives {kind_of(students_output)}, "
                "not a tensor; it cannot be gated."
            )
        return students_output.to(output.device) - output

    def norm(self) -> float:
        """Frobenius norm of the weight difference."""
        return self.distance

    def _computed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the student's module gives, on its own device."""
        device = device_of(self.module)
        return self.module(*moved(args, device), **moved(kwargs, device))


@dataclass(frozen=True)
class Whole(Replaced):
    """The student's own part of a block, with all that it changes inside, in place of the base's: a
    block of experts (`experts`), a mixer with state (`mixers`).

    Attributes:
        module: the student's part; PEFT's wrappers are inside it.
        distance: Frobenius norm of the difference of all that is inside.
        hash: content hash of what differs inside.
    """

    def __call__(self, output: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the student's part adds to the base's on the same input; what a part gives beside
        its hidden states (router logits, attention weights) is left alone.
        """
        given = self._computed(args, kwargs)
        hidden = given[0] if isinstance(given, tuple) else given
        return hidden.to(output.device) - output


Delta = LowRank | Replaced
"""A student's difference at a module."""


def find_deltas(base: Base, model: Any, name: str) -> dict[str, Delta]:
    """The differences by module path.

    Args:
        base: the base model.
        model: the student's, as Hugging Face's or PEFT's own.
        name: what messages call the student.

    Raises:
        ValueError: another shape or vocabulary, or an adapter that is no change of weights.
    """
    _check_comparable(base, model, name)
    try:
        invoked = invocations(model)
    except ValueError as error:
        raise ValueError(f"student={name!r}: {error}.") from error
    base_modules = dict(walk(plain(base.model)))
    student_modules = dict(walk(compat.inside_peft(model)))
    deltas: dict[str, Delta] = {}
    for path in {**base_modules, **student_modules}:
        if path in base_modules and is_quantised(base_modules[path]):
            delta = _over_packed(base_modules[path], student_modules.get(path), invoked)
            if isinstance(delta, str):
                raise ValueError(
                    f"student={name!r}: base={base.name!r} is quantised, and {path} differs by "
                    f"more than a plain LoRA ({delta}), which packed weights do not tell exactly; "
                    "load both from the checkpoint the base was quantised from."
                )
            if delta is not None:
                deltas[path] = delta
            continue
        expected, shapes = _shapes(base_modules.get(path)), _shapes(student_modules.get(path))
        if shapes != expected:
            raise ValueError(
                f"student={name!r} does not fit base={base.name!r}: "
                f"{path} has {shapes}, not {expected}."
            )
        try:
            delta = _delta(base_modules[path], student_modules[path], invoked)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"student={name!r}: PEFT cannot merge the adapter on {path} into weights: {error}"
            ) from error
        if delta is not None:
            deltas[path] = delta
    return deltas


def _check_comparable(base: Base, model: Any, name: str) -> None:
    """Raise ValueError where no comparison of modules would say what the student computes."""
    for config in compat.adapter_configs(model).values():
        reason = why_not(config)
        if reason is not None:
            raise ValueError(f"student={name!r}: its adapter {reason}.")
    expected, tokens = _vocabulary(base.model), _vocabulary(model)
    if tokens != expected:
        raise ValueError(
            f"student={name!r} has a vocabulary of {tokens} tokens, "
            f"base={base.name!r} one of {expected}; base and student must share the tokenizer."
        )
    path = compat.switched_off(model)
    if path is not None:
        raise ValueError(
            f"student={name!r}: its adapters are switched off ({path}); "
            "call its enable_adapter_layers() first."
        )


def _vocabulary(model: Any) -> int:
    """Rows of the token embedding."""
    return model.get_input_embeddings().weight.shape[0]


def walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every module with parameters of its own, as the model computes.

    PEFT's wrapper of a module stands for the module and what is inside it.
    """
    module = compat.computing_module(module)
    if compat.is_adapter(module):
        yield path, module
        return
    if _parameters(module):
        yield path, module
    for key, child in module.named_children():
        yield from walk(child, f"{path}.{key}".lstrip("."))


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters, without those of modules below it."""
    return dict(module.named_parameters(recurse=False))


def _shapes(module: nn.Module | None) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's parameters; none where there is no module."""
    if module is None:
        return {}
    return {key: tuple(p.shape) for key, p in _parameters(compat.innermost(module)).items()}


def check_types(base: Base, model: Any) -> None:
    """Raise ValueError where a live student holds a weight of its base in another floating-point
    type.
    """
    modules = dict(walk(plain(base.model)))
    for path, module in walk(compat.inside_peft(model)):
        if path not in modules or is_quantised(modules[path]):
            continue
        expected = _parameters(modules[path])
        for key, p in _parameters(compat.innermost(module)).items():
            if key in expected and p.dtype != expected[key].dtype:
                raise ValueError(
                    f"student is a live model in {p.dtype}, base={base.name!r} is in "
                    f"{expected[key].dtype}; load both alike ({path}.{key} is the first that "
                    "differs)."
                )


def _over_packed(base_module: nn.Module, module: Any, invoked: Invocations) -> Any:
    """How a student's module differs from a quantised one of the base: a low-rank pair or not at
    all; else what it is, in words.
    """
    if module is None:
        return "it is not there"
    inside = compat.innermost(module)
    if not is_quantised(inside):
        return "it is not quantised"
    if not same_packed(base_module, inside):
        return "other packed weights"
    if inside is module:
        return None
    pairs = compat.lora_pairs(module, invoked)
    return type(module).__name__ if pairs is None else _low_rank(pairs)


def _delta(base_module: nn.Module, module: Any, invoked: Invocations) -> Delta | None:
    """How the student's module differs from the base's; None where it does not."""
    inside = compat.innermost(module)
    expected = _parameters(base_module)
    pairs = compat.lora_pairs(module, invoked)
    # a pair says it all only where the weights below it are the base's
    if pairs is not None and square_distance(expected, _parameters(inside)) == 0:
        return _low_rank(pairs)
    # else what it computes is kept, and only measured on a merged copy
    merged = module if inside is module else compat.merged_copy(module)
    square = square_distance(expected, _parameters(merged))
    if square == 0:
        return None
    return Replaced(module, math.sqrt(square), weights_hash(merged, exact=True))


def _low_rank(pairs: Sequence[LoraPair]) -> LowRank | None:
    """The sum of plain LoRA updates: their ranks side by side."""
    # b starts at zero: an adapter that was never trained changes nothing
    trained = [
        LowRank(pair.a.detach(), pair.b.detach(), pair.scale, pair.invocation)
        for pair in pairs
        if bool(pair.b.any())
    ]
    if not trained:
        return None
    if len(trained) == 1:
        return trained[0]
    a = torch.cat([update.a for update in trained])
    b = torch.cat([update.scale * update.b for update in trained], dim=1)
    return LowRank(a, b, 1.0)


def square_distance(base: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> float:
    """Sum of squared differences of parameters; one only the student has differs from 0."""
    total = 0.0
    for key, changed in student.items():
        original = base.get(key)
        if original is None:
            total += sum(float(piece.float().square().sum()) for piece in pieces(changed))
        elif original.data_ptr() != changed.data_ptr():  # else it is the base's own
            for old, new in zip(pieces(original), pieces(changed), strict=True):
                total += float((new.float() - old.float()).square().sum())
    return total


def module_of(student: Any, path: str) -> nn.Module:
    """The module at the base's path in a student's model, as it computes."""
    module = compat.computing_module(compat.inside_peft(student))
    for key in path.split("."):
        module = compat.computing_module(getattr(module, key))
    return module


def deltas_hash(deltas: Mapping[str, Delta]) -> str:
    """SHA-256 of a student's differences, in hexadecimal."""
    digest = hashlib.sha256()
    for path, delta in sorted(deltas.items()):
        digest.update(path.encode())
        if isinstance(delta, Replaced):
            digest.update(delta.hash.encode())
        else:
            digest.update(f"{delta.scale:.9g}".encode())
            if delta.invocation:
                digest.update(f"from {delta.invocation} on".encode())
            for factor in (delta.a, delta.b):
                digest.update(factor.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def placed(base: nn.Module, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """Differences on the devices that the base's modules compute on, where they are small."""
    found: dict[str, Delta] = {}
    for path, delta in deltas.items():
        if isinstance(delta, LowRank):
            device = device_of(base.get_submodule(path))
            delta = replace(delta, a=delta.a.to(device), b=delta.b.to(device))
        found[path] = delta
    return found
