"""What a configuration says of how a model computes, and where two of them differ.

Equal weights compute alike only under equal rotary bases, norm epsilons, activations, windows, ...:
a content hash of weights does not know them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .names import text_config

# configuration fields that do not change what a model computes on the same weights, or that shapes
# give away
_IDLE = re.compile(
    "_?name_or_path|.*(initializer|token_id|summary).*|init_std|use_cache|tie_word_embeddings"
    "|pretraining_tp|vocab_size|max_window_layers|is_decoder"
    "|reorder_and_upcast_attn"
)
# how far a model reaches, which some rotary embeddings count with
_REACH = re.compile("n_positions|max_position_embeddings")
_COUNTING = ("longrope", "dynamic")
# those that count in training alone
_DROPOUT = re.compile(".*drop.*")


def check_config(base: Any, own: Any, *, student: str, name: str) -> None:
    """Raise ValueError where a student's configuration computes otherwise than its base's.

    Args:
        base: the base's configuration.
        own: the student's; of a wrapper and of a text model what both declare is compared.
        student: how errors call it.
        name: how they call the base.
    """
    config, own = text_config(base), text_config(own)
    declared, given, expected = _declared(config), own.to_dict(), config.to_dict()
    alike = type(own) is type(config)
    counts = _counts_reach(config) or _counts_reach(own)
    for key in sorted(declared if alike else declared & set(given)):
        pair = expected.get(key), given.get(key)
        if _REACH.fullmatch(key) and not counts:
            continue
        if not _idle(key) and not same(*(pair if alike else _in_common(*pair))):
            raise ValueError(computes_otherwise(student, name, key, *pair))


def computes_otherwise(student: str, name: str, key: str, expected: Any, given: Any) -> str:
    """That a student and a base compute differently, and what to do."""
    return (
        f"student={student!r} and base={name!r} compute differently: {key} is {given!r} in the "
        f"student's configuration and {expected!r} in the base's; load the base it was trained "
        "from, or correct the config.json that is wrong."
    )


def computing(model: Any) -> dict[str, Any]:
    """How a model computes with its weights, for the record of what was made with it.

    Returns:
        As JSON: `dtype`, that of its weights, and `config`, the fields that decide.
    """
    config = text_config(model.config)
    values = config.to_dict()
    idle = _IDLE if _counts_reach(config) else re.compile(f"{_IDLE.pattern}|{_REACH.pattern}")
    decide = {key: values.get(key) for key in sorted(_declared(config)) if not idle.fullmatch(key)}
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    told = {"dtype": str(dtype).removeprefix("torch."), "config": decide}
    return dict(json.loads(json.dumps(told, default=str)))


def computed_apart(
    there: Mapping[str, Any], here: Mapping[str, Any], *, training: bool
) -> dict[str, tuple[Any, Any]]:
    """Where two records of `computing` differ, by name; empty where either is.

    Other versions of transformers know other fields: those that both have are compared.

    Args:
        there: one.
        here: the other.
        training: whether what counts in training alone, the type of the weights and dropout, is
            compared too.
    """
    if not there or not here:  # records of earlier versions
        return {}
    one, other = _in_common(there["config"], here["config"])
    found = {
        key: (one[key], other[key])
        for key in sorted(one)
        if (training or not _idle(key)) and not same(*_in_common(one[key], other[key]))
    }
    if training and there["dtype"] != here["dtype"]:
        found["dtype"] = there["dtype"], here["dtype"]
    return found


def same(a: Any, b: Any) -> bool:
    """Equality up to the precision in which a GGUF file keeps its numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _declared(config: Any) -> set[str]:
    """The fields that an architecture's configuration has beyond those of any model."""
    from transformers import PretrainedConfig

    return set(type(config)().to_dict()) - set(PretrainedConfig().to_dict())


def _counts_reach(config: Any) -> bool:
    """Whether a rotary embedding counts with how far the model reaches."""
    found = rotary_parameters(getattr(config, "rope_parameters", None))
    return any(rotary_kind(one) in _COUNTING for one in found)


def rotary_parameters(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """A model's rotary parameters, or those of each of its types of layers."""
    if isinstance(parameters, Mapping):
        yield parameters
        for inner in parameters.values():
            yield from rotary_parameters(inner)


def rotary_kind(parameters: Mapping[str, Any]) -> Any:
    """Which rotary embedding parameters are of, under its newer or its older name."""
    return parameters.get("rope_type", parameters.get("type"))


def _idle(key: str) -> bool:
    return bool(_IDLE.fullmatch(key) or _DROPOUT.fullmatch(key))


def _in_common(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values; of two dictionaries, what both have."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: a[key] for key in a if key in b}, {key: b[key] for key in b if key in a}
    return a, b


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
