"""Shapes without weights: the same axes as a forward of the model itself shows."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from sublim_mech.models.observing import observe
from sublim_mech.models.sites import find_sites
from sublim_mech.models.weightless import on_shapes, weightless


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_axes_are_those_of_the_model(architecture):
    model = tiny.model(architecture)
    assert observe(weightless(model)) == observe(model)


def test_the_model_itself_computes_nothing(monkeypatch):
    """`find_sites` of a model of 7B parameters reads none of its weights."""
    model, devices = tiny.model("llama"), []
    plain = nn.Linear.forward

    def noted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        devices.append(self.weight.device.type)
        return plain(self, x)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    find_sites(model)
    assert set(devices) == {"meta"}


def test_a_copy_without_weights_leaves_the_model_as_it_is():
    model = tiny.model("qwen2")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    empty = weightless(model)
    assert all(p.is_meta for p in empty.parameters())
    assert all(b.is_meta for b in empty.buffers())
    assert empty.lm_head.weight is empty.model.embed_tokens.weight  # tied as in the model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.is_meta for p in model.parameters())


def test_a_module_that_asks_for_values_is_looked_at_with_its_weights():
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self) -> int:
            return int(self.weight.sum())

    assert on_shapes(lambda model: model(), Chooses()) == 3
