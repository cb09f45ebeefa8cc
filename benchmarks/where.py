"""Training at chosen cells only: what the gates cost."""

from __future__ import annotations

from functools import partial
from statistics import median

import sublim_mech as sm

from .rows import Race, Row, row
from .training import Steps, hard, ours


@row("train_where")
def train_where() -> Row:
    """LoRA under gates that are open everywhere against ordinary LoRA training."""
    setting = hard(sm.LoRA(rank=8), steps=4, batch_size=8, precision="bf16")
    everywhere = {"where": sm.masks.everything(), "answer_in_where": True}
    sides = {"ours": partial(ours, setting, **everywhere), "theirs": partial(ours, setting)}
    flops = {name: side(count=True).flops for name, side in sides.items()}
    done: dict[str, list[Steps]] = {name: [] for name in sides}
    for name in ["ours", "theirs"] * 3:
        done[name].append(sides[name]())
    race = Race(
        tuple(steps.seconds for steps in done["ours"]),
        tuple(steps.seconds for steps in done["theirs"]),
        our_value=done["ours"][-1].losses,
        their_value=done["theirs"][-1].losses,
        scale=1.0,
        flops_ours=flops["ours"],
        flops_theirs=flops["theirs"],
    )
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
