"""The hash of weights knows their values."""

from __future__ import annotations

import copy

import torch
from loading import base, model
from torch import nn

from sublim_mech.models import hashing
from sublim_mech.models.hashing import pieces, weights_hash


def test_the_weights_hash_knows_values_not_precision():
    whole, half = model(), copy.deepcopy(model()).bfloat16()
    assert weights_hash(whole) == weights_hash(half) == weights_hash(half.float()) == base().hash
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight[3, 5] *= 1.02
    assert weights_hash(changed) != base().hash
    assert weights_hash(model(seed=1)) != base().hash
    assert base().hash[:12] in repr(base())


def test_an_exact_hash_knows_values_whatever_type_holds_them():
    half = copy.deepcopy(model()).bfloat16()
    assert weights_hash(half, exact=True) == weights_hash(half.float(), exact=True)
    whole = copy.deepcopy(half).float()
    with torch.no_grad():
        whole.model.norm.weight[3] += 1e-4  # less than bfloat16 holds beside 1
    assert weights_hash(whole) == weights_hash(half)
    assert weights_hash(whole, exact=True) != weights_hash(half, exact=True)


def test_the_weights_hash_knows_names_and_shapes():
    values = torch.arange(6.0)

    def holding(name: str, *shape: int) -> nn.Module:
        return nn.ParameterDict({name: nn.Parameter(values.reshape(shape))})

    hashes = {weights_hash(holding(*args)) for args in (("a", 2, 3), ("a", 3, 2), ("b", 2, 3))}
    assert len(hashes) == 3


def test_pieces_are_the_values_in_order(monkeypatch):
    monkeypatch.setattr(hashing, "PIECE", 4)
    p = torch.arange(10.0).reshape(2, 5).T.requires_grad_(True)  # not contiguous
    parts = pieces(p)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), p.flatten())
    assert not any(part.requires_grad for part in parts)
    values, cut = weights_hash(nn.ParameterDict({"p": p})), monkeypatch
    cut.undo()
    assert weights_hash(nn.ParameterDict({"p": p})) == values
