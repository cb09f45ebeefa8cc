"""Singular values of weight changes: randomised SVD against numpy's, and what is no matrix."""

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from sublim_mech.models import spectra
from sublim_mech.models.deltas import LowRank, Replaced
from sublim_mech.models.spectra import How, change_of, decompose, randomised


def decaying(rows, columns, rate=0.8):
    """A random matrix whose singular values are powers of `rate`."""
    rng = np.random.default_rng(5)
    small = min(rows, columns)
    u = np.linalg.qr(rng.standard_normal((rows, small)))[0]
    v = np.linalg.qr(rng.standard_normal((columns, small)))[0]
    return torch.from_numpy((u * rate ** np.arange(small)) @ v.T)


@pytest.mark.parametrize("shape", [(70, 90), (90, 70)])
def test_what_randomised_svd_leaves_out_is_what_numpy_says(shape):
    matrix = decaying(*shape)
    basis, residual = randomised(matrix, 12)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    np.testing.assert_allclose(basis.s.numpy(), values[:12], rtol=1e-6)
    # no matrix of this rank is nearer than the tail, and this one is hardly farther
    tail = np.linalg.norm(values[12:])
    assert tail * (1 - 1e-12) <= residual <= tail * (1 + 1e-4)
    rebuilt = (basis.u * basis.s) @ basis.v
    assert residual == pytest.approx(np.linalg.norm((matrix - rebuilt).numpy()), rel=1e-9)


def test_a_flat_spectrum_has_a_residual_to_show_for_it():
    """Where all singular values are alike there are no first ones: the residual says so."""
    matrix = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0])
    _, residual = randomised(matrix, 15)
    assert residual == pytest.approx(np.sqrt(45), rel=1e-9)


def test_a_matrix_of_lower_rank_is_found_whole_and_the_seed_alone_decides():
    matrix = decaying(80, 60)
    low = (matrix[:, :5] @ matrix[:5, :5]) @ matrix[:5]
    basis, residual = randomised(low, 5, seed=1)
    assert residual < 1e-12 * float(low.norm())
    again = randomised(matrix, 5, seed=1)
    for one, other in zip(randomised(matrix, 5, seed=1)[0], again[0], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(randomised(matrix, 5, seed=2)[0].u, again[0].u)
    assert basis.u.dtype == torch.float64


def test_residuals_are_the_same_in_pieces(monkeypatch):
    matrix = decaying(40, 30)
    whole = randomised(matrix, 4)[1]
    monkeypatch.setattr(spectra, "_PIECE", 31)
    assert randomised(matrix, 4)[1] == pytest.approx(whole, rel=1e-12)


def test_size_alone_decides_between_exact_and_randomised():
    old = nn.Linear(30, 20, bias=False)
    new = copy.deepcopy(old)
    new.weight.data += decaying(20, 30).float()
    delta = Replaced(new, 1.0, "")
    exact = decompose(delta, old, How(exact=20, found=4))
    rough = decompose(delta, old, How(exact=19, found=4))
    assert (exact.method, exact.residual, len(exact.basis.s)) == ("exact", 0.0, 20)
    assert (rough.method, len(rough.basis.s)) == ("randomised", 4)
    assert rough.norm == pytest.approx(exact.norm, rel=1e-12)
    # more values than the smaller side has: exact, however small `exact` is
    assert decompose(delta, old, How(exact=1, found=20)).method == "exact"


def test_an_embedding_is_the_matrix_that_writes_into_the_residual_stream():
    old = nn.Embedding(50, 8, dtype=torch.float64)
    new = copy.deepcopy(old)
    new.weight.data[7] += torch.arange(8.0, dtype=torch.float64)
    before = new.weight.clone(), old.weight.clone()
    change = change_of(Replaced(new, 1.0, ""), old)
    assert change.shape == (8, 50)
    assert torch.equal(change[:, 7], new.weight[7] - old.weight[7])
    assert torch.equal(new.weight, before[0])
    assert torch.equal(old.weight, before[1])
    done = decompose(Replaced(new, 1.0, ""), old, How())
    assert float(done.basis.s[0]) == pytest.approx(140**0.5, rel=1e-9)  # 0 + 1 + 4 + ... + 49


def test_factors_are_never_multiplied_out(monkeypatch):
    def multiplied(*_):
        raise AssertionError("the full change was formed")

    monkeypatch.setattr(spectra, "weight_change", multiplied)
    pair = LowRank(torch.randn(2, 30), torch.randn(20, 2), -0.5)
    done = decompose(pair, nn.Linear(30, 20), How())
    dense = (-0.5 * pair.b.double() @ pair.a.double()).numpy()
    np.testing.assert_allclose(done.basis.s, np.linalg.svd(dense, compute_uv=False)[:2], rtol=1e-9)
    assert done.norm == pytest.approx(np.linalg.norm(dense), rel=1e-9)


def test_tied_weights_are_one_change():
    base = tiny.model("gpt2")
    student = tiny.full(base)
    names = ("transformer.wte", "lm_head", "transformer.wpe")
    deltas = {name: Replaced(student.get_submodule(name), 1.0, "") for name in names}
    assert spectra.tied_to(base, deltas) == {"lm_head": "transformer.wte"}
    # a student that untied them has two
    student.lm_head.weight = nn.Parameter(student.lm_head.weight.clone())
    deltas["lm_head"] = Replaced(student.lm_head, 1.0, "")
    assert spectra.tied_to(base, deltas) == {}
