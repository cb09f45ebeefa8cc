"""What is read from weights alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from sublim_mech.instruments.spectra import spectra_of
from sublim_mech.models.deltas import LowRank
from sublim_mech.models.sites import find_sites
from sublim_mech.models.spectra import How
from sublim_mech.models.students import Student
from sublim_mech.results.spectra import ModuleSpectrum

from .memory import MB, peak
from .rows import Row, row

RANK = 8
SECONDS = 60.0


@row("spectrum_7b")
def spectrum_7b() -> Row:
    """Spectrum of a rank-8 adapter of Llama-2-7B's shape, without its weights."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32000,
    )
    return spectrum_row(config, "Llama-2-7B's shape")


def spectrum_row(config: Any, what: str) -> Row:
    """`spectrum` of a random adapter on every projection, against the minute it may take.

    Every weight is a view of one and the same memory, so that the model needs none of its size; all
    of them are read. Singular values are held against the eigenvalues of the product of the two
    Gram matrices, rank x rank.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    _fill(model)
    sites = find_sites(model)
    student = _adapter(model)
    found: tuple[ModuleSpectrum, ...] = ()

    def ours() -> None:
        nonlocal found
        found = spectra_of((model, sites), student, How(), progress=False)

    start = time.perf_counter()
    ours()
    seconds = time.perf_counter() - start
    few = dict(list(student.deltas.items())[:7])
    part = Student("few", "lora", few, model, None, "few")
    allocated = peak(lambda: spectra_of((model, sites), part, How(), progress=False))
    change = 8 * max(delta.b.shape[0] * delta.a.shape[1] for delta in few.values())
    return Row(
        f"spectrum of a rank-{RANK} adapter, {len(found)} modules, {what}",
        "a minute",
        seconds / SECONDS,
        1.0,
        at_most=True,
        max_abs_diff=max(_difference(one, student.deltas[one.path]) for one in found),
        tolerance=1e-6,
        seconds_ours=seconds,
        seconds_theirs=SECONDS,
        note=(
            f"allocated at once for a block's modules {allocated / MB:.1f} MB, where the largest "
            f"full change has {change / MB:.0f} MB in fp64; the norm of every base weight is read; "
            "difference: relative, of singular values from the factors' Gram matrices"
        ),
        more={"bytes allocated": allocated, "bytes of a full change": change},
    )


def _fill(model: nn.Module) -> None:
    """Give every parameter values, all in one piece of memory."""
    largest = max(p.numel() for p in model.parameters())
    memory = torch.randn(largest, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        for key, p in list(module.named_parameters(recurse=False)):
            view = memory[: p.numel()].view(p.shape)
            setattr(module, key, nn.Parameter(view, requires_grad=False))


def _adapter(model: nn.Module) -> Student:
    """A random low-rank pair on every projection of the blocks."""
    rng = torch.Generator().manual_seed(1)
    deltas = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and path != "lm_head":
            a = torch.randn(RANK, module.in_features, generator=rng)
            b = torch.randn(module.out_features, RANK, generator=rng)
            deltas[path] = LowRank(a, b, 0.01)
    return Student("adapter", "lora", deltas, model, None, "adapter")


def _difference(one: ModuleSpectrum, delta: Any) -> float:
    """Largest relative difference to singular values from the two Gram matrices."""
    a, b = delta.a.double().numpy(), delta.b.double().numpy()
    squares = np.linalg.eigvals((b.T @ b) @ (a @ a.T)).real
    values = delta.scale * np.sqrt(np.sort(squares)[::-1])
    return float((np.abs(one.values - values) / values).max())
