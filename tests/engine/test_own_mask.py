"""Long rows of a prompt alone: the model's own mask, which computes nothing that it hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pairs import shared_pair

from sublim_mech.engine import batch as batches
from sublim_mech.engine import forward
from sublim_mech.engine.answers import build_trie
from sublim_mech.engine.forward import Gates


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_long_row_of_a_prompt_alone_is_left_to_the_models_own_mask(
    architecture, smol_tokenizer, prompts, monkeypatch
):
    """The same numbers bit for bit, slopes to rounding, and only where the masks are the same."""
    pair = shared_pair(architecture, "lora" if architecture == "llama" else "full", smol_tokenizer)
    given: list[Any] = []

    def call(model: Any, *, mask: Any, **options: Any) -> Any:
        given.append(mask)
        return call_model(model, mask=mask, **options)

    call_model = forward.call_model
    monkeypatch.setattr(forward, "call_model", call)

    def numbers(batch: Any, **options: Any) -> list[torch.Tensor]:
        gates = torch.full((*batch.ids.shape, len(pair.delta)), 0.5, requires_grad=True)
        logits = pair.run(batch, gates=Gates(pair.student, gates), **options).logits
        return [logits, *torch.autograd.grad(logits.logsumexp(-1).sum(), gates)]

    ids = prompts[0].ids
    short = pair.batch([ids, ids])
    monkeypatch.setattr(batches, "LONG", len(ids))
    long = pair.batch([ids, ids])
    (ours, our_slopes), (models, slopes) = numbers(short), numbers(long)
    assert torch.equal(ours, models)
    torch.testing.assert_close(our_slopes, slopes, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        cache = pair.run(long, past=()).cache
    assert [mask is None for mask in given] == [False, True, True]
    given.clear()
    trie = build_trie([[(300, 41)]])
    others = [
        pair.batch([ids], [trie]),  # a node sees the prompt and its ancestors
        pair.batch([ids, prompts[1].ids]),  # padding has no place of its own
        long.after(5),
    ]
    with torch.no_grad():
        for batch in others:
            past = [(keys[:, :, :5], values[:, :, :5]) for keys, values in cache]
            pair.run(batch, past=tuple(past) if batch is others[2] else None)
    assert not any(mask is None for mask in given)
