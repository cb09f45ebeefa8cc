"""Other people's private names: each test says what moved when an upgrade moves it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from sublim_mech.models import compat

IDS = torch.linspace(3, tiny.VOCAB - 7, 40).long()[None]  # longer than the tiny sliding windows
SLOT = 25
pytestmark = pytest.mark.filterwarnings("error")  # whatever our calls are warned of fails a test


@pytest.fixture(scope="module", params=list(tiny.CONFIGS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny.model(request.param)


def causal(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """An additive mask `(1, 1, query, key)` of what stands before, no further back than a window."""
    distance = queries[:, None] - keys[None, :]
    sees = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]


def mask_of(model: Any, first: int) -> Tensor | dict[str, Tensor]:
    """The mask of the slots from `first` on, as the architecture takes it."""
    keys = torch.arange(IDS.shape[1])
    window = getattr(model.config, "sliding_window", None)
    kinds = set(getattr(model.config, "layer_types", None) or ())
    if not kinds:
        return causal(keys[first:], keys, window)
    windows = {"full_attention": None, "sliding_attention": window}
    masks = {kind: causal(keys[first:], keys, windows[kind]) for kind in kinds}
    # Gemma takes one mask per type of layer; Qwen, which also names types, has one type here
    return masks if len(kinds) > 1 else masks.popitem()[1]


def test_a_forward_in_two_pieces_is_the_forward_in_one(model):
    """`make_cache`, `read_cache` and `call_model` fit the installed transformers, without a warning."""
    everywhere = torch.arange(IDS.shape[1])[None]
    with torch.no_grad():
        plain = model(input_ids=IDS, use_cache=False).logits
        whole = compat.call_model(model, ids=IDS)
        cache = compat.make_cache((), 1)
        compat.call_model(
            model, ids=IDS, mask=mask_of(model, 0), positions=everywhere, cache=cache
        )
        full = compat.read_cache(cache)
        past = [(keys[:, :, :SLOT], values[:, :, :SLOT]) for keys, values in full]
        two = compat.make_cache(past, 2)
        mask = mask_of(model, SLOT)
        rest = compat.call_model(
            model,
            ids=IDS[:, SLOT:].expand(2, -1),
            mask=mask,
            positions=everywhere[:, SLOT:].expand(2, -1),
            cache=two,
        )
    moved = "transformers' DynamicCache, or how a model takes it, has moved: mend models/compat.py"
    assert torch.equal(whole.logits, plain), moved
    assert len(full) == tiny.LAYERS, moved
    for layer in full:
        assert layer.keys.shape == layer.values.shape == (1, layer.keys.shape[1], 40, 8), moved
    for row in rest.logits:
        torch.testing.assert_close(row, plain[0, SLOT:], atol=1e-5, rtol=0, msg=moved)
    for whole_layer, layer in zip(full, compat.read_cache(two), strict=True):
        for row in layer.keys:
            torch.testing.assert_close(row, whole_layer.keys[0], atol=1e-5, rtol=0, msg=moved)


def test_gradients_flow_through_a_cache(model):
    """To what is behind the cache, and to the keys and values in it."""
    cache = compat.make_cache((), 1)
    with torch.no_grad():
        compat.call_model(model, ids=IDS[:, :SLOT], cache=cache)
    past = [
        (layer.keys.requires_grad_(True), layer.values.requires_grad_(True))
        for layer in compat.read_cache(cache)
    ]
    leaves = [tensor for layer in past for tensor in layer]
    out = compat.call_model(
        model,
        ids=IDS[:, SLOT:],
        mask=mask_of(model, SLOT),
        positions=torch.arange(SLOT, IDS.shape[1])[None],
        cache=compat.make_cache(past, 1),
    )
    weight = model.get_input_embeddings().weight
    gradients = torch.autograd.grad(out.logits[0, -1, 5], [*leaves, weight])
    # the last block's keys of the first slots may lie outside its window: some, not all, are zero
    assert all(bool(g.isfinite().all()) and float(g.abs().max()) > 0 for g in gradients)


def test_a_peft_model_takes_a_cache_as_the_model_inside_it_does():
    with compat.quiet_transformers():
        student = tiny.lora(tiny.model("llama"))
    cache = compat.make_cache((), 1)
    with torch.no_grad():
        compat.call_model(student, ids=IDS[:, :SLOT], cache=cache)
        rest = compat.call_model(student, ids=IDS[:, SLOT:], cache=cache, logits_to_keep=1)
        plain = student(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(rest.logits[0, -1], plain[0, -1], atol=1e-5, rtol=0)


def test_no_cache_for_a_model_that_takes_none():
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            return input_ids

    assert compat.call_model(Plain(), ids=IDS) is IDS
    with pytest.raises(TypeError, match=r"Plain\.forward takes no cache of keys and values"):
        compat.call_model(Plain(), ids=IDS, cache=compat.make_cache((), 1))
