"""Students: adapters and full fine-tunes, and how they differ from their base module by module.

A student is held as *deltas*. Where PEFT's adapter is a plain low-rank pair the delta is that pair and the base weights are
not copied; everything else (DoRA, trained embeddings or heads, biases, full fine-tunes) is the student's own module.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import weight_sums
from ..manifest import Manifest
from .base import PICKLES, Base, check_finite, check_safetensors, quiet_transformers, read_model, share, twin, weights_hash


@dataclass(frozen=True)
class LowRank:
    """A plain LoRA update: `x -> scale * b(a(x))`.

    Attributes:
        a: `(rank, in)`.
        b: `(out, rank)`.
        scale: alpha / rank, or what the adapter's configuration makes of it.
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
        module: the student's module.
        distance: Frobenius norm of the difference of its parameters.
    """

    module: nn.Module
    distance: float

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


@dataclass(frozen=True)
class Student:
    """A student of a base model.

    Attributes:
        name: how it is called in tables.
        kind: `lora` (low-rank deltas only) or `full`.
        deltas: by path of the base model's module; modules that do not differ are absent.
        model: the student as Hugging Face's or PEFT's own model; an adapter's shares the base's parameters.
        manifest: how it was made, where its folder says so.
        hash: content hash of its weights.
    """

    name: str
    kind: str
    deltas: Mapping[str, Delta]
    model: nn.Module
    manifest: Manifest | None
    hash: str

    def __repr__(self) -> str:
        return f"Student({self.name!r}, {self.kind}, {len(self.deltas)} changed modules, {self.hash[:12]})"


def load_student(base: Base, source: Any, *, name: str | None = None, allow_unrelated: bool = False) -> Student:
    """Load a student of `base`.

    Args:
        base: the base model.
        source: a PEFT adapter directory, a full checkpoint directory, a hub id of either, a live `PeftModel` or
            `PreTrainedModel`, or a `Student`.
        name: how it is called in tables; the directory's name, or the trait in its manifest, when not given.
        allow_unrelated: accept a student whose weights are as far from the base as an unrelated model's.

    Raises:
        FileNotFoundError: nothing is there, or the folder lacks its configuration.
        ValueError: another base (shape, vocabulary, the manifest's base hash, lineage), a damaged file, a pickle, NaN weights.
    """
    if isinstance(source, Student):
        return source
    manifest = None
    if isinstance(source, nn.Module):
        model = twin(source)
        dtypes = [next(m.parameters()).dtype for m in (model, base.model)]
        if dtypes[0] != dtypes[1]:
            raise ValueError(f"student is a live model in {dtypes[0]}, base={base.name!r} is in {dtypes[1]}; load both alike.")
        name = name or str(getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__)
    else:
        path = _directory(str(source))
        manifest = Manifest.load(path)
        if manifest is not None and manifest.base["hash"] != base.hash:
            raise ValueError(
                f"student={str(source)!r} was trained from base {manifest.base['name']!r} (hash {manifest.base['hash'][:12]}), but "
                f"base={base.name!r} has hash {base.hash[:12]}; load the base it was trained from."
            )
        if manifest is not None and manifest.weights != weight_sums(path):
            raise ValueError(
                f"student={str(source)!r}: the weight files are not those its manifest.json names; copy the folder again."
            )
        name = name or (manifest.trait if manifest is not None and manifest.trait else path.name)
        model = _read(base, path)
    model = model.to(base.device).eval().requires_grad_(False)
    check_finite(model, argument="student", name=name)
    deltas, kind = _deltas(base, model, name)
    if not allow_unrelated:
        _check_lineage(base, deltas, name)
    return Student(name, kind, deltas, model, manifest, _hash(deltas))


def attach_lora(
    base: Base, *, rank: int, alpha: float, targets: str | Sequence[str] = "all-linear", dropout: float = 0.0
) -> Any:
    """A trainable PEFT model over the base's parameters; the base object is not touched.

    Raises:
        ValueError: no module matches `targets`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM",
        target_modules=targets if isinstance(targets, str) else list(targets),
    )  # fmt: skip
    with quiet_transformers():
        model = get_peft_model(share(base.model), config)
    model.peft_config["default"].base_model_name_or_path = base.name  # not the folder it happens to be cached in
    return model


# ---------------------------------------------------------------------------------------------------------- reading


def _directory(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if path.suffix in PICKLES:
        raise ValueError(f"student={source!r} is a pickle, which is never opened here; pass a folder with safetensors.")
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"student={source!r} is not a directory; pass an adapter or checkpoint folder, or a hub id.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt"]))
    except Exception as error:  # the hub client raises many kinds: offline, not found, gated
        raise FileNotFoundError(f"student={source!r} is neither a directory nor a hub id that can be read: {error}") from error


def _read(base: Base, path: Path) -> nn.Module:
    if (path / "adapter_config.json").is_file():
        return _read_adapter(base, path)
    if (path / "adapter_model.safetensors").is_file() or (path / "adapter_model.bin").is_file():
        raise FileNotFoundError(f"student={str(path)!r} has adapter weights but no adapter_config.json; copy that file too.")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"student={str(path)!r} has neither adapter_config.json nor config.json; it is no student.")
    dtype = next(base.model.parameters()).dtype
    return read_model(path, dtype, argument="student")


def _read_adapter(base: Base, path: Path) -> nn.Module:
    from peft import PeftConfig, PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file

    check_safetensors(path, "adapter_model.safetensors", "student")
    stored = load_file(str(path / "adapter_model.safetensors"))
    clean = share(base.model)
    try:
        start = getattr(PeftConfig.from_pretrained(str(path)), "init_lora_weights", True)
        if not all(".lora_" in key for key in stored) or start not in (True, False, "gaussian"):
            clean = copy.deepcopy(clean)  # PEFT will write into the base's own weights: biases, embeddings, OLoRA's residual
        with quiet_transformers():
            model = PeftModel.from_pretrained(clean, str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r} (an adapter of another model?): {error}"
        ) from error
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    odd = sorted((set(stored) ^ set(loaded)) - set(model.state_dict()))  # stored embeddings of the base are no adapter tensors
    if odd:
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r}: {len(odd)} adapter tensors have no counterpart ({odd[0]}, ...); "
            "is it an adapter of another model?"
        )
    return model


# ----------------------------------------------------------------------------------------------------------- deltas


def _deltas(base: Base, model: Any, name: str) -> tuple[dict[str, Delta], str]:
    """(differences by module path, kind)."""
    if hasattr(model, "peft_config"):
        if not hasattr(model, "merge_and_unload"):
            raise ValueError(
                f"student={name!r}: its adapter cannot be merged into weights; pass a PeftModel with a weight adapter (LoRA, DoRA, IA3)."
            )
        pairs = _low_rank(base, model)
        if pairs is not None:
            return pairs, "lora"
        model = copy.deepcopy(model).float()
        tied: Any = model.get_base_model().get_output_embeddings()
        if "weight" in tied._parameters:  # an adapter on tied embeddings is not one on the head; merged, it would be
            tied.weight = nn.Parameter(tied.weight.detach().clone(), requires_grad=False)
        try:
            model = model.merge_and_unload()
        except RuntimeError as error:
            raise ValueError(f"student={name!r}: PEFT cannot merge this adapter into the weights: {error}") from error
        model = model.to(next(base.model.parameters()).dtype)
    return _module_deltas(base, model, name), "full"


def _low_rank(base: Base, model: Any) -> dict[str, Delta] | None:
    """The adapter as plain low-rank pairs, or None where it is more than that or its own base has other weights."""
    from peft.tuners.lora import Linear
    from peft.utils import get_peft_model_state_dict

    inner = model.get_base_model()
    clean = dict(base.model.named_parameters())
    for key, p in inner.named_parameters():
        of = clean.get(key.replace(".base_layer.", "."))
        if ".lora_" not in key and (of is None or of.dtype != p.dtype or not torch.equal(of, p)):
            return None
    pairs: dict[str, Delta] = {}
    covered = 0
    for path, module in inner.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        active = list(module.active_adapters)
        if len(active) != 1:
            return None
        key = active[0]
        if key not in module.lora_A:
            continue
        plain = type(module) is Linear and not module.use_dora.get(key) and not module.lora_bias.get(key) and not module.merged
        if not plain:
            return None
        a, b = module.lora_A[key].weight, module.lora_B[key].weight
        if bool(b.any()):
            pairs[path] = LowRank(a.detach(), b.detach(), float(module.scaling[key]))
        covered += 2
    state = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    return pairs if len(state) == covered else None


def _module_deltas(base: Base, model: nn.Module, name: str) -> dict[str, Delta]:
    """The student's own modules wherever a parameter differs from the base's."""
    mine, theirs = dict(base.model.named_modules()), dict(model.named_modules())
    vocab = [m.get_input_embeddings().weight.shape[0] for m in (base.model, model)]  # type: ignore[operator]
    if vocab[0] != vocab[1]:
        raise ValueError(
            f"student={name!r} has a vocabulary of {vocab[1]} tokens, base={base.name!r} one of {vocab[0]}; "
            "base and student must share the tokenizer."
        )
    deltas: dict[str, Delta] = {}
    for path in {**mine, **theirs}:
        own, new = (
            {} if m is None else {k: p for k, p in m._parameters.items() if p is not None}
            for m in (mine.get(path), theirs.get(path))
        )
        if {k: p.shape for k, p in own.items()} != {k: p.shape for k, p in new.items()}:
            shapes = {k: tuple(p.shape) for k, p in own.items()}, {k: tuple(p.shape) for k, p in new.items()}
            raise ValueError(f"student={name!r} does not fit base={base.name!r}: {path} has {shapes[1]}, not {shapes[0]}.")
        square = sum(float((p.detach().float() - new[k].detach().float()).square().sum()) for k, p in own.items())
        if square > 0:
            deltas[path] = Replaced(theirs[path], math.sqrt(square))
    return deltas


def _check_lineage(base: Base, deltas: Mapping[str, Delta], name: str) -> None:
    """Unrelated weights of equal norm are sqrt(2) apart, relative to their norm; fine-tunes a few per cent."""
    size = math.sqrt(sum(float(p.detach().float().square().sum()) for p in base.model.parameters()))
    distance = math.sqrt(sum(d.norm() ** 2 for d in deltas.values())) / size
    if distance > 0.5:
        raise ValueError(
            f"student={name!r} and base={base.name!r} do not share a lineage: their weights differ by {distance:.2f} of the base's norm "
            "(unrelated models: about 1.4); load the base it was trained from, or pass allow_unrelated=True."
        )


def _hash(deltas: Mapping[str, Delta]) -> str:
    digest = hashlib.sha256()
    for path, delta in sorted(deltas.items()):
        digest.update(path.encode())
        if isinstance(delta, Replaced):
            digest.update(weights_hash(delta.module).encode())
        else:
            digest.update(f"{delta.scale:.9g}".encode())
            for x in (delta.a, delta.b):
                digest.update(x.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
