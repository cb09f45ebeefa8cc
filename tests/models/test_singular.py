"""A weight change in its singular basis, against numpy's SVD of merged minus base."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from loading import base, model
from torch import nn

from sublim_mech.models.deltas import LowRank
from sublim_mech.models.singular import bias_change, is_matrix, singular, weight_change
from sublim_mech.models.students import load_student

KINDS = {
    "lora": lambda one: tiny.lora(one, std=0.05),
    "full": lambda one: _with_biases(tiny.full(one)),
    "dora": lambda one: tiny.lora(one, std=0.05, use_dora=True),
}


def _with_biases(student):
    """Biases start at zero, of which no fraction is a change."""
    with torch.no_grad():
        for module in student.modules():
            if type(module).__name__ in ("Linear", "Conv1D") and module.bias is not None:
                module.bias += 0.1
    return student


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_svd_of_merged_minus_base(architecture, kind):
    made = KINDS[kind](model(architecture))
    student = load_student(base(architecture), made)
    plain = copy.deepcopy(made)
    plain = plain.merge_and_unload() if hasattr(plain, "merge_and_unload") else plain
    matrices = 0
    for path, delta in student.deltas.items():
        old, new = model(architecture).get_submodule(path), plain.get_submodule(path)
        linear = type(old).__name__ in ("Linear", "Conv1D")
        assert is_matrix(delta, old) == linear, path
        if not linear or old is model(architecture).get_output_embeddings():
            continue
        change = (new.weight.double() - old.weight.double()).detach().numpy()
        change = change.T if type(old).__name__ == "Conv1D" else change
        u, s, v = singular(delta, old)
        assert u.dtype == s.dtype == v.dtype == torch.float64
        np.testing.assert_allclose((u * s) @ v, change, atol=1e-6)
        np.testing.assert_allclose(s, np.linalg.svd(change)[1][: len(s)], atol=1e-6)
        np.testing.assert_allclose(u.T @ u, np.eye(len(s)), atol=1e-12)
        np.testing.assert_allclose(v @ v.T, np.eye(len(s)), atol=1e-12)
        np.testing.assert_allclose(weight_change(delta, old), change, atol=1e-6)
        biased = kind == "full" and getattr(old, "bias", None) is not None
        change_of_bias = bias_change(delta, old)
        assert (change_of_bias is not None) == biased, path
        if biased:
            np.testing.assert_allclose(change_of_bias, (new.bias - old.bias).detach(), atol=1e-6)
        matrices += 1
    assert matrices >= 4 * tiny.LAYERS


def test_a_pair_wider_than_its_matrix_has_no_more_directions_than_that():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((9, 5), (6, 9)))
    u, s, v = singular(LowRank(a, b, 0.5), nn.Linear(5, 6))
    assert (u.shape, v.shape) == ((6, 5), (5, 5))
    np.testing.assert_allclose((u * s) @ v, 0.5 * (b @ a).double(), atol=1e-5)


def test_what_is_no_matrix_is_refused():
    student = load_student(base(), tiny.full(model()))
    path = next(path for path in student.deltas if path.endswith("norm"))
    with pytest.raises(ValueError, match="no difference of a matrix"):
        singular(student.deltas[path], model().get_submodule(path))
