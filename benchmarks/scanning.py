"""Prefix scans: every boundary between two models, against a forward per boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.pair import ModelPair
from sublim_mech.instruments.task import prepare
from sublim_mech.prompts import Prompt

from .models import CAT, smollm2
from .rows import Row, race, row

QUIET: dict[str, Any] = {"progress": False}
TOKENS = 40


@row("prefix_scan")
def prefix_scan() -> Row:
    """A prefix scan of about 40 tokens on SmolLM2-135M."""
    pair, prompt = smollm2()
    return scanning_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", repeats=3)


def scanning_row(pair: ModelPair, prompt: Prompt, what: str, *, repeats: int) -> Row:
    """`prefix_scan`, both curves, against one gated forward of the whole prompt per boundary."""
    task = prepare(pair, [prompt], CAT)
    batch, size = task.batch([0]), task.size(0)

    @torch.no_grad()
    def value(boundary: int, before: float) -> float:
        gates = torch.full((1, size), 1 - before)
        gates[:, :boundary] = before
        logits = pair.run(batch, gates=Gates(pair.student, gates)).logits
        return float(task.numbers([0], logits)[0])

    def theirs() -> np.ndarray:
        base, student = value(0, 1.0), value(size, 1.0)
        boundaries = range(1, len(prompt) + 1)
        up_to = [value(boundary, 1.0) - base for boundary in boundaries]
        behind = [student - value(boundary, 0.0) for boundary in boundaries]
        return np.array([up_to, behind])

    def ours() -> np.ndarray:
        scores = sm.instruments.prefix_scan(pair, [prompt], CAT, **QUIET)
        return scores.data["effect"].values[0, 0, :, : len(prompt)]

    done = race(
        ours, theirs, piece=lambda: value(1, 1.0), pieces=2 * len(prompt) + 2, repeats=repeats
    )
    return done.row(
        f"prefix scan, both curves, {len(prompt)} tokens, {what}",
        "one gated forward per boundary",
        4,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=f"largest effect {np.abs(done.our_value).max():.3g} nats",
    )
