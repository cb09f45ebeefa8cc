"""Bands of a large replaced matrix, by randomised SVD: the directions are those of the exact one,
and whatever it leaves out is in `tail`, so that parts add up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import sublim_mech as sm
from sublim_mech.instruments.keeping import _split
from sublim_mech.models.deltas import Replaced
from sublim_mech.models.names import TAIL, Module
from sublim_mech.models.spectra import How
from sublim_mech.models.splitting import split_bands
from sublim_mech.models.students import Student

PLACE = Module("projection", 0, "projection")
OUT, IN = 130, 150
VALUES = 0.9 ** np.arange(OUT)


@pytest.fixture(scope="module")
def base() -> Any:
    """A model of one projection, in fp64."""
    model = nn.Module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.projection = nn.Linear(IN, OUT).double()
    return model.requires_grad_(False)


def student_of(base: Any, change: np.ndarray, bias: float = 0.0) -> Student:
    """A full fine-tune of the projection."""
    module = nn.Linear(IN, OUT).double().requires_grad_(False)
    module.weight.copy_(base.projection.weight + torch.from_numpy(change))
    module.bias.copy_(base.projection.bias + bias)
    delta = Replaced(module, float(np.linalg.norm(change)), "")
    return Student("full", "full", {"projection": delta}, base, None, "hash")


@pytest.fixture(scope="module")
def bases() -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal left and right directions."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(OUT, OUT)), rng.normal(size=(IN, OUT))
    return np.linalg.qr(left)[0], np.linalg.qr(right)[0]


def change_of(bases: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    left, right = bases
    return (left * values) @ right.T


def gated(student: Student, gate: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """What a module adds under one gate per part, and the inputs."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1, 5, IN, dtype=torch.float64, generator=rng)
    gates = torch.tensor(gate).expand(1, 5, -1)
    base = student.model.projection(x)
    change = student.parts["projection"].gated(PLACE, gates, base, (x,), {})
    return change[0].numpy(), x[0].numpy()


def test_bands_are_those_of_the_exact_decomposition_and_add_up(base, bases):
    change = change_of(bases, VALUES)
    student = student_of(base, change, bias=0.3)
    split = split_bands(student, base, [1, 3], How(exact=100))
    names = [name.band for name in split.parts["projection"].names]
    assert names == [0, 1, TAIL, "rest"]
    left, right = bases
    groups = [slice(0, 1), slice(1, 4), slice(4, None)]
    for number, group in enumerate(groups):
        found, x = gated(split, [float(n == number) for n in range(4)])
        own = (left[:, group] * VALUES[group]) @ right[:, group].T
        np.testing.assert_allclose(found, x @ own.T, atol=1e-7 * VALUES[0])
    found, x = gated(split, [1.0] * 4)
    np.testing.assert_allclose(found, x @ change.T + 0.3, rtol=0, atol=1e-12)
    for gate in itertools.product([0.0, 1.0], repeat=4):
        one, _ = gated(split, list(gate))
        other, _ = gated(split, [1 - g for g in gate])
        np.testing.assert_allclose(one + other, found, rtol=0, atol=1e-12)
    # what the note says was measured: 64 values are found
    left_out = np.linalg.norm(VALUES[64:]) / np.linalg.norm(VALUES)
    assert f"up to {left_out:.1%} of a change's norm, is in tail" in split.notes[-1]
    assert "bands of 1 of 1 matrices by randomised SVD" in split.notes[-1]


def test_a_planted_direction_is_the_first_band(base, bases):
    one = np.zeros(OUT)
    one[0] = 2.0
    split = split_bands(student_of(base, change_of(bases, one)), base, [1], How(exact=100))
    whole, x = gated(split, [1.0, 1.0])
    np.testing.assert_allclose(gated(split, [1.0, 0.0])[0], whole, atol=1e-12)
    np.testing.assert_allclose(gated(split, [0.0, 1.0])[0], 0, atol=1e-12)
    assert np.abs(whole).max() > 0.1
    assert x.shape == (5, IN)


def test_a_slow_spectrum_adds_up_whatever_was_found(base, bases):
    change = change_of(bases, np.ones(OUT) + 1e-3 * VALUES)  # no direction stands out
    student = student_of(base, change)
    found = [split_bands(student, base, [2], How(exact=64, seed=seed)) for seed in (0, 0, 1)]
    for split in found:
        whole, x = gated(split, [1.0, 1.0])
        np.testing.assert_allclose(whole, x @ change.T, rtol=0, atol=1e-12)
    first, again, other = (gated(split, [1.0, 0.0])[0] for split in found)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6
    # units that are kept are another's where seed or size are
    exact = split_bands(student, base, [2])
    assert exact.notes == ()
    assert len({str(_split(one)) for one in (*found, exact)}) == 3


def test_more_directions_than_are_usually_found(base, bases):
    student = student_of(base, change_of(bases, VALUES))
    split = split_bands(student, base, [1] * 80, How(exact=100))
    found, x = gated(split, [0.0] * 79 + [1.0, 0.0])
    own = np.outer(bases[0][:, 79] * VALUES[79], bases[1][:, 79])
    np.testing.assert_allclose(found, x @ own.T, atol=1e-5)
    every = split_bands(student, base, [OUT], How(exact=1))  # all of them: exact
    assert every.notes == ()
    with pytest.raises(ValueError, match="131 directions are beyond the rank"):
        split_bands(student, base, [131], How(exact=1))


def test_what_is_asked_of_a_pair(smol_tokenizer):
    base = tiny.model("llama")
    pair = sm.load_pair(base, tiny.full(base), tokenizer=smol_tokenizer)
    # matrices of 32 are exact: more values are found than they have
    assert pair.split("band", bands=1, exact=8, seed=3).student.sketch == ()
    with pytest.raises(ValueError, match="exact=0"):
        pair.split("band", bands=1, exact=0)
    with pytest.raises(ValueError, match="exact and seed: by='head' decomposes nothing"):
        pair.split("head", exact=8, seed=0)
