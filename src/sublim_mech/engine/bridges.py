"""TransformerLens bridges of a pair's models, made from copies.

1. The model is copied, an adapter merged into the copy in fp32 and cast back. An adapter is never
   booted unmerged: TransformerLens 4 splits fused QKV weights behind PEFT's back and drops it
   silently.
2. TransformerLens boots the copy, with a copy of the pair's tokenizer that it is kept from reading
   again from disk or hub.
3. The bridge's logits on a probe must be those of the pair's own Hugging Face or PEFT model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..models.base import Base
from ..models.compat import call_model, lens_tokenizer, quiet_transformers
from ..models.copies import merge
from ..models.placement import input_device
from ..models.students import Student
from .parity import ParityError, probe, rounding


def make_bridge(base: Base, student: Student | None = None) -> Any:
    """A `TransformerBridge` of the base or of a student.

    Args:
        base: the pair's base model; nothing in it is changed or shared.
        student: a student of it; the base itself when not given.

    Returns:
        The bridge, in eval mode, with weights of its own (they take gradients, as in any bridge)
        and a tokenizer of its own that encodes as the pair's does.

    Raises:
        ValueError: TransformerLens cannot boot the architecture.
        ParityError: the bridge's logits are not those of the pair's own model.
    """
    # a bare name may be an alias that TransformerLens warns of
    name = f"{base.name} ({'base' if student is None else student.name})"
    bridge = _boot(merge(base, student), copy.deepcopy(base.tokenizer), name)
    _check(bridge, base.model if student is None else student.model, name)
    return bridge


def _boot(model: Any, tokenizer: Any, name: str) -> Any:
    """Boot a model and a tokenizer that TransformerLens may change, offline."""
    from transformer_lens.model_bridge import TransformerBridge

    architecture = type(model).__name__
    # a model made in code has none, and Gemma-3 needs it
    model.config.architectures = [architecture]
    parameter = next(model.parameters())
    try:
        with quiet_transformers(), lens_tokenizer(tokenizer):
            return TransformerBridge.boot_transformers(
                name,
                hf_model=model,
                tokenizer=tokenizer,
                device=parameter.device,
                dtype=parameter.dtype,
            )
    except (
        ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"model {name!r}: TransformerLens cannot boot architecture {architecture} ({error}); "
            "use sublim_mech's own instruments for it."
        ) from error


@torch.no_grad()
def _check(bridge: Any, own_model: nn.Module, name: str) -> None:
    """The bridge computes what the model does, within the tolerance of the pair's own gate.

    Compared are log-probabilities at every token of a probe.
    """
    parameter = next(own_model.parameters())
    ids = torch.tensor([probe(own_model).ids], device=input_device(own_model))
    expected = call_model(own_model, ids=ids).logits[0].float().log_softmax(-1)
    ids = ids.to(next(bridge.parameters()).device)
    given = bridge(ids, attention_mask=torch.ones_like(ids))[0].float().log_softmax(-1)
    given = given.to(expected.device)
    error = (given - expected).abs()
    tolerance = rounding(parameter.dtype, expected)
    if not float(error.max()) <= tolerance:  # NaN is no parity
        slot, token = divmod(int(error.argmax()), given.shape[1])
        raise ParityError(
            f"model {name!r}: after {slot + 1} tokens of a probe the log-probability of token "
            f"{token} is {float(given[slot, token]):z.6f} in TransformerLens' bridge and "
            f"{float(expected[slot, token]):z.6f} in the model's own forward (difference "
            f"{float(error.max()):.2g}, tolerance {tolerance:.0e}); TransformerLens does not "
            "compute this model, use the pair itself."
        )
