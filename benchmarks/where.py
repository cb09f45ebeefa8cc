"""Training at chosen cells only: what the gates cost."""

from __future__ import annotations

from statistics import median

import sublim_mech as sm

from .rows import Row, row
from .training import duel, hard, ours


@row("train_where")
def train_where() -> Row:
    """LoRA under gates that are open everywhere against ordinary LoRA training."""
    setting = hard(sm.LoRA(rank=8), steps=4, batch_size=8, precision="bf16")
    everywhere = {"where": sm.masks.everything(), "answer_in_where": True}
    race = duel(setting, ours, repeats=3, **everywhere)
    cost = median(race.ours) / median(race.theirs)
    return race.row(
        "LoRA rank 8 with where=everything, answer_in_where=True, 4 steps of 8, bf16",
        "ordinary training of the same",
        1 / 1.1,
        max_abs_diff=race.difference,
        tolerance=0.0,
        note=f"the gates cost x {cost:.3f}, aim at most 1.1; difference: the loss of each step",
        more={"times": cost},
    )
