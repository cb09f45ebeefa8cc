"""How a student differs from its base, module by module.

Where PEFT's adapter is a plain low-rank pair (any rank and alpha, rsLoRA, several active adapters) the delta is that pair. Everything
else (DoRA, adapters on embeddings, trained heads, norms, biases, full fine-tunes) is the student's own module: of a full fine-tune
Hugging Face's, of an adapter PEFT's, unmerged, which still reads the base's weights. So no delta copies a weight, and none is rounded
by merging.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Base, pieces, weights_hash


@dataclass(frozen=True)
class LowRank:
    """A plain LoRA update: `x -> scale * b(a(x))`.

    Attributes:
        a: `(rank, in)`.
        b: `(out, rank)`.
        scale: alpha / rank, or what the adapter's configuration makes of it; 1 where `b` holds the scales of several adapters.
    """

    a: Tensor
    b: Tensor
    scale: float

    def __call__(self, output: Tensor, x: Tensor) -> Tensor:
        """What the student adds to the base module's output on the input `x (..., in)`."""
        return (self.scale * F.linear(F.linear(x.to(self.a.dtype), self.a), self.b)).to(output.dtype)

    def norm(self) -> float:
        """Frobenius norm of the weight difference, from the two Gram matrices."""
        a, b = self.a.cpu().double(), self.b.cpu().double()
        return self.scale * math.sqrt(max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0))


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
        """What the student adds to the base module's output on the same input."""
        theirs = self.module(*args, **kwargs)
        if not isinstance(theirs, Tensor):
            raise ValueError(
                f"module {type(self.module).__name__} gives a {type(theirs).__name__}, not a tensor; it cannot be gated."
            )
        return theirs - output

    def norm(self) -> float:
        """Frobenius norm of the weight difference."""
        return self.distance


Delta = LowRank | Replaced


def find_deltas(base: Base, model: Any, name: str) -> dict[str, Delta]:
    """The differences by module path.

    Raises:
        ValueError: another shape or vocabulary, or an adapter that is no change of weights.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel) and not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"student={name!r}: its adapter is no change of weights; pass a PeftModel with a weight adapter (LoRA, DoRA, IA3)."
        )
    vocab = [m.get_input_embeddings().weight.shape[0] for m in (base.model, model)]  # type: ignore[operator]
    if vocab[0] != vocab[1]:
        raise ValueError(
            f"student={name!r} has a vocabulary of {vocab[1]} tokens, base={base.name!r} one of {vocab[0]}; "
            "base and student must share the tokenizer."
        )
    off = next((path for path, m in model.named_modules() if getattr(m, "disable_adapters", False) is True), None)
    if off is not None:
        raise ValueError(f"student={name!r}: its adapters are switched off ({off}); call its enable_adapter_layers() first.")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    mine, theirs = dict(_walk(base.model)), dict(_walk(inner))
    deltas: dict[str, Delta] = {}
    for path in {**mine, **theirs}:
        shapes = [
            {} if m is None else {k: tuple(p.shape) for k, p in _own(_unwrapped(m)).items()}
            for m in (mine.get(path), theirs.get(path))
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"student={name!r} does not fit base={base.name!r}: {path} has {shapes[1]}, not {shapes[0]}.")
        try:
            delta = _delta(mine[path], theirs[path])
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise ValueError(f"student={name!r}: PEFT cannot merge the adapter on {path} into weights: {error}") from error
        if delta is not None:
            deltas[path] = delta
    return deltas


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every module that has parameters of its own or is PEFT's wrapper of one, as the model computes."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(module, ModulesToSaveWrapper):
        chosen = [k for k in module.active_adapters if k in module.modules_to_save]
        module = module.modules_to_save[chosen[0]] if chosen else module.original_module
    if isinstance(module, (BaseTunerLayer, TrainableTokensWrapper)):
        yield path, module
        return
    if _own(module):
        yield path, module
    for key, child in module.named_children():
        yield from _walk(child, f"{path}.{key}".lstrip("."))


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return {k: p for k, p in module._parameters.items() if p is not None}


def _unwrapped(module: Any) -> Any:
    """The module inside PEFT's wrappers."""
    from peft.utils import TrainableTokensWrapper

    module = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _delta(own: nn.Module, module: Any) -> Delta | None:
    """How the student's module differs from the base's; None where it does not."""
    from peft.tuners.lora import Linear

    inside = _unwrapped(module)
    if type(module) is Linear and not module.merged and square_distance(_own(own), _own(inside)) == 0:
        active = [k for k in module.active_adapters if k in module.lora_A]
        if not any(k in module.lora_variant or module.lora_bias.get(k) for k in active):
            return _low_rank([(module.lora_A[k].weight, module.lora_B[k].weight, float(module.scaling[k])) for k in active])
    merged = module if inside is module else _merged(module)
    square = square_distance(_own(own), _own(merged))
    return Replaced(module, math.sqrt(square), weights_hash(merged)) if square > 0 else None


def _low_rank(adapters: Sequence[tuple[Tensor, Tensor, float]]) -> LowRank | None:
    """The sum of plain LoRA updates: their ranks side by side."""
    live = [(a.detach(), b.detach(), scale) for a, b, scale in adapters if bool(b.any())]
    if len(live) < 2:
        return LowRank(*live[0]) if live else None
    return LowRank(torch.cat([a for a, _, _ in live]), torch.cat([scale * b for _, b, scale in live], 1), 1.0)


def _merged(wrapper: Any) -> nn.Module:
    """A copy, merged in fp32, of the module inside PEFT's wrapper."""
    layer = copy.deepcopy(wrapper).float()
    inside: Any = _unwrapped(layer)
    if any(getattr(layer, "lora_bias", {}).values()) and inside.bias is None:  # PEFT adds a bias only to a bias
        inside.bias = nn.Parameter(torch.zeros(layer.out_features, device=inside.weight.device), requires_grad=False)
    layer = getattr(layer, "token_adapter", layer)
    while layer is not inside:
        layer.merge()
        layer = layer.base_layer
    return inside


def square_distance(own: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> float:
    """Sum of squared differences; a parameter only the student has differs from 0."""
    total = 0.0
    for key, q in new.items():
        p = own.get(key)
        if p is None:
            total += sum(float(y.float().square().sum()) for y in pieces(q))
        elif p.data_ptr() != q.data_ptr():
            total += sum(float((y.float() - x.float()).square().sum()) for x, y in zip(pieces(p), pieces(q), strict=True))
    return total
