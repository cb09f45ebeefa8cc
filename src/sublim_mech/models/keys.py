"""One text model under several names: by itself, or inside a wrapper.

`model.layers.0` of Gemma-3's text model is `model.language_model.layers.0` in
`Gemma3ForConditionalGeneration`, and was `language_model.model.layers.0` there. An adapter or a
checkpoint written under one of these layouts is read into a base of another: every tensor goes to
its place, or belongs to a tower that the base does not have, or is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..hints import kind_of
from .compat import call_model, inside_peft
from .copies import twin
from .names import is_wrapper
from .wrappers import asides, text_root

ROOTS = (
    "model.language_model", "language_model.model", "model.text_model", "text_model", "model",
)  # fmt: skip
"""Where text models stand; one that begins another stands behind it."""
HEADS = ("lm_head", "language_model.lm_head")
_TOWER = re.compile(
    r"(^|\.)(vision|visual|vqmodel|audio|multi_modal|image|embed_(vision|audio)|connector)[a-z_]*\."
)
_OF_MODULE = re.compile(r"\.[a-z0-9]+_[^.]*(\.(weight|bias))*$")  # .lora_A.weight
_OF_ADAPTER = "base_model.model."
_BESIDE = ("weight", "bias", "base_layer", "modules_to_save", "original_module", "token_adapter")
_PROBE = 40  # tokens


@dataclass(frozen=True)
class Layout:
    """What the text model's modules are called in a model.

    Attributes:
        root: path of the text model.
        head: path of the unembedding.
        modules: all modules, by path.
    """

    root: str
    head: str
    modules: dict[str, nn.Module]

    @classmethod
    def of(cls, model: Any) -> Layout:
        """As a transformers model has them."""
        modules = dict(model.named_modules())
        head = model.get_output_embeddings()
        found = next((path for path, module in modules.items() if module is head), "")
        return cls(text_root(model), found, modules)

    def here(self, path: str) -> str | None:
        """What this model calls a module of another layout; None where it has none such."""
        if path in self.modules:
            return path
        if path in HEADS and self.head:
            return self.head
        for other in ROOTS:
            if f"{path}.".startswith(f"{other}."):
                moved = f"{self.root}{path.removeprefix(other)}"
                if moved in self.modules:
                    return moved
        return None

    def split(self, key: str) -> tuple[str, str] | None:
        """The module that a tensor's name leads to, as it stands here, and what is behind it; None
        where it leads nowhere.
        """
        parts = key.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = self.here(".".join(parts[:count]))
            if module and next(self.modules[module].parameters(recurse=False), None) is not None:
                return module, ".".join(parts[count:])
        return None

    def pattern(self, text: str) -> str:
        """A name or regular expression of another layout, in this one."""
        for dot in (".", r"\."):
            own = self.root.replace(".", dot) + dot
            # the longest root that stands there, or `model.` would be found in `language_model.`
            for other in sorted({*ROOTS, self.root}, key=len, reverse=True):
                old = other.replace(".", dot) + dot
                found = re.search(rf"(?<!\w){re.escape(old)}", text)
                if found:
                    return text[: found.start()] + own + text[found.end() :]
        return text


# ----------------------------------------------------------------------------------------- adapters


@dataclass(frozen=True)
class Fit:
    """How the tensors of an adapter's file go into a base.

    Attributes:
        moved: what the base calls those that have another name there, by their name in the file.
        left_out: those of towers that the base does not have.
    """

    moved: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.moved or self.left_out)

    def name(self, key: str) -> str:
        """What the base calls a tensor of the file."""
        return self.moved.get(key, key)

    @property
    def options(self) -> dict[str, Any]:
        """What PEFT's loading has to be told; nothing where the file fits as it is."""
        if not self.moved:
            return {}
        strip = len(_OF_ADAPTER)
        mapping = {f"^{re.escape(old[strip:])}$": new[strip:] for old, new in self.moved.items()}
        return {"key_mapping": mapping}


def fit_adapter(model: Any, keys: Iterable[str], config: Any) -> Fit:
    """Where the tensors of an adapter go that may have been written for another layout.

    Args:
        model: the base's.
        keys: names of the tensors in the adapter's file.
        config: its PEFT configuration; where tensors have other names in the base, or are left
            out, its names of modules are changed to the base's.
    """
    layout = Layout.of(model)
    moved: dict[str, str] = {}
    left_out: list[str] = []
    targets: dict[str, None] = {}
    for key in keys:
        if not key.startswith(_OF_ADAPTER):
            continue  # shared by all modules: it has no place
        inner = key.removeprefix(_OF_ADAPTER)
        found = layout.split(inner)
        if found is None:
            if not _TOWER.search(inner):
                return Fit()  # an adapter of another model: PEFT says so
            left_out.append(key)
            continue
        path, behind = found
        here = f"{_OF_ADAPTER}{path}.{behind}"
        if here != key:
            moved[key] = here
        if behind.split(".")[0] not in _BESIDE and _is_matrix(layout.modules[path]):
            targets[path] = None
    fit = Fit(moved, tuple(left_out))
    if fit:
        _rename(config, list(targets), layout.pattern)
    return fit


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 2


def _rename(config: Any, targets: list[str], pattern: Callable[[str], str]) -> None:
    """Give a PEFT configuration a base's names: the very modules that the file has tensors of."""
    if getattr(config, "target_modules", None):
        config.target_modules = targets
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if getattr(config, name, None) is not None:
            setattr(config, name, None)  # what they chose is among the targets
    for name in ("rank_pattern", "alpha_pattern", "trainable_token_indices"):
        value = getattr(config, name, None)
        if isinstance(value, dict):
            setattr(config, name, {pattern(key): entry for key, entry in value.items()})
    for name in ("modules_to_save", "target_parameters", "feedforward_modules"):
        value = getattr(config, name, None)
        if isinstance(value, str):
            setattr(config, name, pattern(value))
        elif value:
            setattr(config, name, [pattern(entry) for entry in value])


def left_out_of(model: Any, path: Path) -> list[str]:
    """The modules of an adapter's folder that belong to towers which the base does not have."""
    layout = Layout.of(model)
    left_out: dict[str, None] = {}
    for file in sorted(path.glob("adapter_model*.safetensors")):
        with safe_open(str(file), framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118
                inner = key.removeprefix(_OF_ADAPTER)
                if _TOWER.search(inner) and layout.split(inner) is None:
                    left_out[_OF_MODULE.sub("", inner)] = None
    return list(left_out)


# ---------------------------------------------------------------------------------------- all of it


def fitted(base: Any, model: Any, name: str) -> Any:
    """A student's model in the layout of its base: itself, or the base's modules with its weights.

    Args:
        base: a `Base`.
        model: the student's, as Hugging Face's or PEFT's own.
        name: what messages call the student.

    Raises:
        ValueError: a live adapter in another layout; a text model with other weights than the
            base's text model has.
    """
    own = inside_peft(model)
    wrapped = [is_wrapper(one.config) for one in (own, base.model)]
    if type(own) is type(base.model) or not any(wrapped):
        return model
    kinds = f"{kind_of(own)}, base={base.name!r} {kind_of(base.model)}"
    if own is not model:
        raise ValueError(
            f"student={name!r} is a live adapter on {kinds}; save it (save_pretrained) and pass "
            "the folder, whose tensors are then read into this base."
        )
    layout, aside = Layout.of(base.model), asides(own)
    moved: dict[str, nn.Parameter] = {}
    for key, parameter in own.named_parameters(remove_duplicate=False):
        if key.rpartition(".")[0] in aside:
            continue
        found = layout.split(key)
        if found is None:
            raise ValueError(
                f"student={name!r} is {kinds}: the base has no {key}; load the base it was "
                "trained from."
            )
        moved[".".join(found)] = parameter
    tied = _without_head(own, layout)
    expected = {
        key: parameter
        for key, parameter in base.model.named_parameters(remove_duplicate=False)
        if key.rpartition(".")[0] not in asides(base.model)
    }
    lacking = sorted(expected.keys() - moved.keys() - tied)
    other = [key for key in moved if moved[key].shape != getattr(expected.get(key), "shape", None)]
    if lacking or other:
        raise ValueError(
            f"student={name!r} is {kinds}: {(lacking + other)[0]} and "
            f"{len(lacking) + len(other) - 1} more weights are not there in both alike; load the "
            "base it was trained from."
        )
    taken = twin(base.model)
    for key, parameter in moved.items():
        path, _, last = key.rpartition(".")
        setattr(taken.get_submodule(path), last, nn.Parameter(parameter.detach(), False))
    if tied:
        taken.tie_weights()  # type: ignore[operator]
    _check_same_text(own, taken, name)
    return taken.eval()


def _without_head(model: Any, layout: Layout) -> set[str]:
    """The unembedding's weight where a model has none of its own: it is the embedding's."""
    head = model.get_output_embeddings()
    is_there = any(module is head for module in model.modules())
    return set() if is_there else {f"{layout.head}.weight"}


@torch.no_grad()
def _check_same_text(own: Any, taken: Any, name: str) -> None:
    """Both give the same logits on a text, so that nothing of the student was lost on the way."""
    size = own.get_input_embeddings().weight.shape[0]
    device = next(own.parameters()).device
    ids = torch.linspace(1, size - 1, min(_PROBE, size), device=device).long()[None]
    first, second = (
        call_model(model.eval(), ids=ids).logits.float().log_softmax(-1) for model in (own, taken)
    )
    error = float((first - second).abs().max())
    tolerance = 1e-3 if next(own.parameters()).dtype == torch.float32 else 0.1
    if not error <= tolerance:
        raise ValueError(
            f"student={name!r} is {kind_of(own)}, whose text gives other log-probabilities "
            f"in the base's {type(taken).__name__} (difference {error:.2g}): they compute "
            "differently; load the base it was trained from."
        )
