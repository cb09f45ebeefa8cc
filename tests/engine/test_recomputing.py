"""Gradients whose blocks are computed again: the same numbers from less memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pairs
import pytest
import tiny
import torch
from loading import TOKENIZER
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech.engine import recomputing
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import prepare

LEAST = 1000
"""Bytes: nothing fits, so every backward pass computes its blocks again."""


def lean(pair: Any) -> Any:
    return dataclasses.replace(pair, memory=LEAST)


def slopes(pair: Any, prompts: Any, **options: Any) -> torch.Tensor:
    """dM/dg at gates that differ from cell to cell."""
    task = prepare(pair, prompts, TRAIT)
    batch = task.batch(range(len(prompts)))
    seeded = torch.Generator().manual_seed(0)
    shape = *batch.ids.shape, len(pair.delta)
    gates = torch.rand(shape, generator=seeded).requires_grad_(True)
    logits = pair.run(batch, gates=Gates(pair.student, gates), **options).logits
    (slope,) = torch.autograd.grad(task.value(range(len(prompts)), logits).sum(), gates)
    return slope


def test_slopes_are_those_of_a_plain_pass(pair, prompts):
    """The gates inside a block are there again when it is computed again."""
    plain, again = slopes(pair, prompts), slopes(lean(pair), prompts)
    assert float(plain.abs().max()) > 1e-3
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("site", ["resid_pre", "z", "mlp_out", "resid_post"])
def test_edits_inside_a_block_are_there_again(llama, prompts, site):
    """A block's own ends are outside of what is computed again, what is between them inside."""
    edits = {(site, 1): lambda hidden: 1.5 * hidden.tanh()}
    plain, again = (slopes(p, prompts, edits=edits) for p in (llama, lean(llama)))
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(plain, slopes(llama, prompts), rtol=1e-2)


@pytest.mark.filterwarnings("ignore:one row of")
@pytest.mark.parametrize(
    "options",
    [
        {"points": 2},
        {"method": "activation_ig", "points": 2, "site": "z"},
        {"method": "attribution_patching", "site": "mlp_out"},
        {"method": "gradient_x_input"},
    ],
    ids=lambda options: options.get("method", "graft_ig"),
)
def test_every_gradient_method_runs_in_little_memory(llama, prompts, options):
    ours, wanted = (
        sm.attribute(p, prompts, TRAIT, **options, **QUIET) for p in (lean(llama), llama)
    )
    np.testing.assert_allclose(ours.data["effect"], wanted.data["effect"], rtol=1e-4, atol=2e-6)


def kept(pair: Any, prompts: Any) -> int:
    """Numbers that a pass keeps for its backward pass, weights and logits not counted."""
    held: dict[int, int] = {}
    own = {p.data_ptr() for p in pair.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own and tensor.shape[-1:] != (tiny.VOCAB,):
            held[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        slopes(pair, prompts)
    return sum(held.values())


def test_less_is_kept(llama, prompts):
    assert kept(lean(llama), prompts) < kept(llama, prompts) / 2


def test_nothing_is_left_behind(llama, prompts):
    def fail(hidden: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken edit")

    slopes(lean(llama), prompts)
    with pytest.raises(RuntimeError, match="broken edit"):
        slopes(lean(llama), prompts, edits={("mlp_out", 1): fail})
    modules = list(llama.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert not any("forward" in vars(module) for module in modules)


def test_a_forward_that_somebody_put_on_a_block_is_put_back():
    pair = pairs.make_pair("llama", "lora", TOKENIZER)
    block = pair.model.get_submodule(pair.sites.blocks[1])
    own = block.forward
    block.forward = replaced = lambda *args, **kwargs: own(*args, **kwargs)
    task = [[1, 2, 3]]
    gates = torch.ones(1, 3, len(pair.delta), requires_grad=True)
    lean(pair).run(pair.batch(task), gates=Gates(pair.student, gates))
    assert vars(block)["forward"] is replaced


def test_a_pass_without_gradients_computes_nothing_twice(llama, prompts, monkeypatch):
    monkeypatch.setattr("sublim_mech.engine.forward.recomputed", None)
    with torch.no_grad():
        lean(llama).run(lean(llama).batch([prompts[0].ids]), gates=Gates(llama.student))


@pytest.mark.filterwarnings("ignore:one row of")
def test_memory_is_given_back_block_by_block_or_with_several_small_ones(
    llama, prompts, monkeypatch
):
    """Each block is done twice, and counts what it was given."""
    given: list[None] = []
    monkeypatch.setattr(recomputing, "_give_back", lambda: given.append(None))
    width, task = llama.model.config.hidden_size, prepare(llama, prompts, TRAIT)
    block = 4 * width * task.batch(range(len(prompts))).ids.numel()  # bytes of its input in fp32
    counts = []
    for often in (1, block, 2 * block, 2 * llama.sites.n_layers * block + 1):
        monkeypatch.setattr(recomputing, "OFTEN", often)
        slopes(lean(llama), prompts)
        counts.append(len(given))
        given.clear()
    twice = 2 * llama.sites.n_layers
    assert counts == [twice, twice, twice // 2, 0]
