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
from ..models.compat import quiet_transformers
from ..models.copies import merge
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
    model = merge(base, student)
    name = f"{base.name} ({'base' if student is None else student.name})"  # a bare name may be an alias that TransformerLens warns of
    bridge = _boot(model, copy.deepcopy(base.tokenizer), name)
    _check(bridge, base.model if student is None else student.model, name)
    return bridge


def _boot(model: Any, tokenizer: Any, name: str) -> Any:
    """Boot a model and a tokenizer that TransformerLens may change, offline."""
    from transformer_lens.model_bridge import TransformerBridge

    architecture = type(model).__name__
    model.config.architectures = [architecture]  # a model made in code has none, and Gemma-3 needs it
    parameter = next(model.parameters())
    own = dict(tokenizer.init_kwargs)
    # a tokenizer that says so is taken as it is; any other is read again from where it came: hub
    # calls, edits lost
    tokenizer.init_kwargs = {"name_or_path": "", **own, "add_bos_token": True}
    try:
        with quiet_transformers():
            return TransformerBridge.boot_transformers(
                name, hf_model=model, tokenizer=tokenizer, device=parameter.device, dtype=parameter.dtype
            )
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"model {name!r}: TransformerLens cannot boot architecture {architecture} ({error}); "
            "use sublim_mech's own instruments for it."
        ) from error
    finally:
        tokenizer.init_kwargs = own


@torch.no_grad()
def _check(bridge: Any, own: nn.Module, name: str) -> None:
    """Log-probabilities at every token of a probe, the bridge's against the model's own, within the
    tolerance of the pair's gate.
    """
    parameter = next(own.parameters())
    ids = torch.tensor([probe(own).ids], device=parameter.device)
    theirs = own(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    ours = bridge(ids, attention_mask=torch.ones_like(ids))[0].float().log_softmax(-1)
    error, tolerance = (ours - theirs).abs(), rounding(parameter.dtype, theirs)
    if not float(error.max()) <= tolerance:
        at, token = divmod(int(error.argmax()), ours.shape[1])
        raise ParityError(
            f"model {name!r}: after {at + 1} tokens of a probe the log-probability of token "
            f"{token} is {float(ours[at, token]):.6f} in "
            f"TransformerLens' bridge and {float(theirs[at, token]):.6f} in the model's own "
            "forward (difference "
            f"{float(error.max()):.2g}, tolerance {tolerance:.0e}); TransformerLens does not "
            "compute this model, use the pair itself."
        )
