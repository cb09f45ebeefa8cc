"""Adapters: a fresh, trainable one on a base model, and one read from a folder in PEFT's layout."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..hints import kind_of, nearest
from .base import Base
from .checks import check_safetensors
from .compat import base_name, quiet_transformers
from .copies import share, twin
from .devices import own_generators
from .experts import check_adapted, split_targets
from .keys import Fit, fit_adapter
from .names import block_of
from .peft_layers import not_in_its_folder, why_not
from .placement import check_whole, plain
from .quantised import is_projection, is_quantised
from .sites import holds_transposed
from .wrappers import asides

WEIGHTS = "adapter_model.safetensors"
"""PEFT's name of the file that holds an adapter."""
CONFIG = "adapter_config.json"
"""PEFT's name of the file that says what it is."""


# -------------------------------------------------------------------------------------- a fresh one


def attach_lora(
    base: Base,
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    rslora: bool = False,
    layers: Sequence[int] | None = None,
    dora: bool = False,
) -> Any:
    """A trainable PEFT model over the base's parameters; the base object is not touched.

    Args:
        base: the base model.
        rank: rank of each update.
        alpha: scale, divided by rank, or by its square root with `rslora`.
        targets: `all-linear`, module names (the end of a module's path), or one regular expression
            over whole paths. Among names, those of a mixture's stacked parameters
            (`experts.down_proj`) give each expert an update of its own.
        dropout: dropout on the adapter's input.
        rslora: rank-stabilised scale (arXiv 2312.03732).
        layers: indices of the blocks that get an adapter.
        dora: weight-decomposed adaptation (arXiv 2402.09353).

    Raises:
        ValueError: a target or a layer that matches no module; a rank above what a matrix can have;
            dropout or DoRA on experts.
    """
    from peft import LoraConfig, get_peft_model

    check_whole(base.model, base.name)
    model = share(base.model)
    targets, stacked = split_targets(model, targets)
    if stacked and (dropout or dora):
        raise ValueError(
            f"LoRA(dropout={dropout}, dora={dora}): PEFT adapts the experts of a mixture "
            f"({next(iter(stacked))}, ...) without either; leave them out."
        )
    chosen = matched(model, targets, layers)
    experts = _of_layers(stacked, layers)

    if not chosen and not experts:
        raise ValueError(
            f"LoRA(targets={targets!r}, layers={layers!r}): none of these targets is in these "
            "layers; choose others, or leave one of the two out."
        )

    # PEFT would train a rank that no update of the matrix can have
    shapes = {path: _shape(module) for path, module in chosen.items()}
    stacks = {path: p.shape[-2:] for path, p in experts.items()}
    _check_possible({**shapes, **stacks}, rank)

    # PEFT takes no layers beside `all-linear` or an expression, and goes into vision towers too, so
    # it is given the paths
    if layers is not None or asides(model):
        names: str | list[str] = list(chosen)
    else:
        names = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=rslora,
        use_dora=dora,
        task_type="CAUSAL_LM",
        target_modules=names,
        target_parameters=list(experts) or None,
        fan_in_fan_out=bool(chosen) and all(map(holds_transposed, chosen.values())),
    )
    try:
        with quiet_transformers():
            model = get_peft_model(model, config)
    except ValueError as error:  # which modules it adapts, PEFT decides where it knows a mixture
        raise ValueError(f"LoRA(targets={targets!r}): PEFT refuses: {error}") from error
    if targets != "all-linear":
        check_adapted(model, {*chosen, *(path.rpartition(".")[0] for path in experts)})
    # not the folder it happens to be cached in
    made = model.peft_config["default"]
    made.base_model_name_or_path = base.name
    # PEFT keeps names as a set, which every process would write in another order
    if isinstance(made.target_modules, set):
        made.target_modules = sorted(made.target_modules)
    return model


def _shape(module: Any) -> tuple[int, int]:
    """Rows and columns of a projection or an embedding; what is packed has them beside its
    weight.
    """
    if is_quantised(module):
        return module.out_features, module.in_features
    rows, columns = module.weight.shape
    return rows, columns


def matched(
    model: Any, targets: str | Sequence[str], layers: Sequence[int] | None
) -> dict[str, Any]:
    """The modules an adapter goes to, by path.

    Args:
        model: a Hugging Face model without adapters.
        targets: as `attach_lora` takes them.
        layers: indices of the blocks that get an adapter; None for all.

    Raises:
        ValueError: a target or a layer that matches no module.
    """
    aside = asides(model)
    known = {
        path: module
        for path, module in model.named_modules()
        if path not in aside
        and (
            isinstance(module, nn.Linear | nn.Embedding)
            or holds_transposed(module)
            or (is_quantised(module) and is_projection(module))
        )
    }
    if targets == "all-linear":
        head = model.get_output_embeddings()
        chosen = {
            path: module
            for path, module in known.items()
            if module is not head and not isinstance(module, nn.Embedding)
        }
    else:
        chosen = _wanted(known, targets)
    blocks = {block for path in known if (block := block_of(path)) is not None}
    for layer in layers or ():
        if layer not in blocks:
            raise ValueError(
                f"LoRA(layers=...): there is no layer {layer}; "
                f"the model has 0 to {max(blocks, default=0)}."
            )
    return _of_layers(chosen, layers)


def check_fit(
    all_linear: dict[str, tuple[int, int]],
    named: dict[str, tuple[int, int]],
    rank: int,
    targets: str | Sequence[str],
) -> None:
    """Refuse targets and a rank that a model cannot have, by the sizes of its matrices alone.

    Args:
        all_linear: rows and columns of what `all-linear` adapts, by the paths of modules.
        named: of all that can be named.
        rank: rank of each update.
        targets: as `attach_lora` takes them.

    Raises:
        ValueError: as `attach_lora`.
    """
    _check_possible(all_linear if targets == "all-linear" else _wanted(named, targets), rank)


def _check_possible(shapes: Mapping[str, Sequence[int]], rank: int) -> None:
    """Refuse a rank that no update of one of these matrices can have."""
    for path, (rows, columns) in shapes.items():
        most = min(rows, columns)
        if rank > most:
            raise ValueError(
                f"LoRA(rank={rank}): {path} is a {rows} x {columns} matrix, whose updates have "
                f"rank {most} at most; lower the rank, or leave it out of targets."
            )


def _wanted(known: dict[str, Any], targets: str | Sequence[str]) -> dict[str, Any]:
    """The modules that an expression matches, or that are called so."""
    return _matching(known, targets) if isinstance(targets, str) else _called(known, targets)


def _of_layers(chosen: dict[str, Any], layers: Sequence[int] | None) -> dict[str, Any]:
    if layers is None:
        return chosen
    return {path: found for path, found in chosen.items() if block_of(path) in layers}


def _matching(known: dict[str, Any], pattern: str) -> dict[str, Any]:
    """The modules whose whole path a regular expression matches."""
    chosen = {path: module for path, module in known.items() if re.fullmatch(pattern, path)}
    if not chosen:
        raise ValueError(
            f"LoRA(targets={pattern!r}): this regular expression matches no whole module path, "
            f"such as {next(iter(known))!r}; "
            f"for module names pass a tuple of them: {', '.join(_last_names(known))}."
        )
    return chosen


def _called(known: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The modules whose path is, or ends in, one of these names."""
    chosen: dict[str, Any] = {}
    for name in names:
        called = {
            path: module
            for path, module in known.items()
            if path == name or path.endswith(f".{name}")
        }
        if not called:
            there = _last_names(known)
            raise ValueError(
                f"LoRA(targets=...): no module is called {name!r}{nearest(name, there) or '.'} "
                f"The modules are {', '.join(there)}."
            )
        chosen |= called
    return chosen


def _last_names(known: dict[str, Any]) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in known})


# -------------------------------------------------------------------------------- one from a folder


def read_config(file: Path) -> dict[str, Any]:
    """An adapter's configuration as it stands in its file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"student={str(file.parent)!r}: {file.name} is not JSON ({error}); copy it again."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"student={str(file.parent)!r}: {file.name} holds {kind_of(config)}, no "
            "object; copy it again."
        )
    return config


def read_adapter(base: Base, path: Path) -> nn.Module:
    """The PEFT model of an adapter's folder, over the base's parameters.

    Raises:
        FileNotFoundError: the folder holds no weights.
        ValueError: it is an adapter of another model, damaged, lacks tensors, or does not hold what
            was trained (`peft_layers.not_in_its_folder`).
    """
    from peft import PeftConfig, PeftModel
    from peft.utils import get_peft_model_state_dict

    file = path / WEIGHTS
    check_safetensors(path, file.name, "student")
    written = read_config(path / CONFIG)
    # PEFT loads into the model it is given; what it would overwrite gets storage of its own
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"student={str(path)!r}: PEFT cannot read its {CONFIG}: {error}"
        ) from error
    reason = why_not(config) or not_in_its_folder(config)
    if reason is not None:
        raise ValueError(f"student={str(path)!r}: its adapter {reason}.")
    try:
        clean = share(plain(base.model))
        fit = fit_adapter(clean, _stored(file), config)
        if getattr(config, "init_lora_weights", True) in (True, False, "gaussian"):
            saved = getattr(config, "modules_to_save", None) or ()
            clean = twin(clean, copied=_overwritten(clean, file, saved, fit))
        else:
            # PiSSA, OLoRA and their like take their start out of the base's weights
            clean = copy.deepcopy(clean)
        with quiet_transformers(), warnings.catch_warnings():
            # what is missing is refused below, by its own name
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            # a configuration whose modules have other names here is given as it was changed
            changed: dict[str, Any] = {"config": config} if fit else {}
            with own_generators(seed=0):  # it initialises what it then reads
                model = PeftModel.from_pretrained(clean, str(path), **changed, **fit.options)
    except (RuntimeError, ValueError, TypeError) as error:
        _check_rank(path, written)
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r} "
            f"(an adapter of another model?): {_in_a_line(error)}"
        ) from error

    # what is stored and what was loaded must be the same tensors; PEFT passes over the rest
    stored = {fit.name(key) for key in _stored(file)} - set(fit.left_out)
    loaded = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    # embeddings of the base that were stored beside the adapter are no tensors of it
    unmatched = sorted(stored - loaded - set(model.state_dict()))
    if unmatched:
        _check_targets(base, path, unmatched, written)
        raise ValueError(
            f"student={str(path)!r} does not fit base={base.name!r}: "
            f"{len(unmatched)} adapter tensors have no counterpart ({unmatched[0]}, ...); "
            "is it an adapter of another model?"
        )
    lacking = sorted(loaded - stored)
    if lacking:
        raise ValueError(
            f"student={str(path)!r} lacks {len(lacking)} of the {len(loaded)} tensors its "
            f"adapter_config.json asks for on base={base.name!r} ({lacking[0]}, ...); copy "
            f"{WEIGHTS} again, or store all of the adapter."
        )
    return model


def _in_a_line(error: Exception, longest: int = 240) -> str:
    """What another library says, in a line that can be read."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def _check_targets(
    base: Base, path: Path, unmatched: Sequence[str], config: dict[str, Any]
) -> None:
    """Raise ValueError where tensors are of modules that the base has, and that the configuration
    does not name.
    """
    paths = {name for name, _ in base.model.named_modules()}
    modules = [key.removeprefix("base_model.model.").partition(".lora_")[0] for key in unmatched]
    if not all(module in paths for module in modules):
        return
    named = config.get("target_modules")
    said = named if isinstance(named, str) else ", ".join(sorted(named or ()))
    there = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
    raise ValueError(
        f"student={str(path)!r}: {WEIGHTS} has tensors of {there} ({unmatched[0]}, ...), which "
        f"{CONFIG} does not name (target_modules: {said}; layers_to_transform: "
        f"{config.get('layers_to_transform')}): one of them was edited or is of another run; copy "
        "both again."
    )


def _check_rank(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError where the tensors of a LoRA have a rank its configuration does not know."""
    if "r" not in config or config.get("target_parameters"):
        return  # nothing to compare; or factors of several experts in one tensor
    known = {config["r"], *(config.get("rank_pattern") or {}).values()}
    with safe_open(str(path / WEIGHTS), framework="pt") as handle:
        for key in handle.keys():  # noqa: SIM118
            if not key.endswith((".lora_A.weight", ".lora_embedding_A")):
                continue
            rank = handle.get_slice(key).get_shape()[0]
            if rank not in known:
                ranks = " or ".join(sorted(map(str, known)))
                raise ValueError(
                    f"student={str(path)!r}: the rank is r={ranks} in {CONFIG} and {rank} in "
                    f"{WEIGHTS} ({key}): one of them was edited or is of another run; copy both "
                    "again."
                )


def _stored(file: Path) -> list[str]:
    """The names of the tensors in a file."""
    with safe_open(str(file), framework="pt") as handle:
        return list(handle.keys())


def _overwritten(model: nn.Module, file: Path, saved: Collection[str], fit: Fit) -> set[str]:
    """The model's parameters that PEFT will load other values into: biases, embeddings.

    Those of `modules_to_save` it copies itself.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    overwritten: set[str] = set()
    with safe_open(str(file), framework="pt") as handle:
        for key in handle.keys():  # noqa: SIM118
            name = base_name(fit.name(key))
            if name not in parameters or any(f".{module}." in f".{name}" for module in saved):
                continue
            own, stored = parameters[name], handle.get_tensor(key)
            if stored.shape != own.shape or not torch.equal(stored.to(own), own):
                # tied parameters are one object under several names
                overwritten |= {other for other, tensor in parameters.items() if tensor is own}
    return overwritten
