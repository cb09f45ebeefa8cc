"""What is told of a training that has ended, as of one that is opened again."""

from __future__ import annotations

from ...hints import counted, told_apart
from ...storage.runs import Run
from .data import TrainingData

ROUNDING = 1e-6
"""Nats per token up to which a held-out loss, which is computed in fp32, may be rounding."""


def ending(
    run: Run, data: TrainingData, held_data: TrainingData, *, at_tokens: bool = False
) -> list[str]:
    """That a student is its base, did not reach `stop_at` or went far past it, or imitates its data
    worse than its base.

    Args:
        run: the finished run.
        data: what it was trained on.
        held_data: what it was measured on.
        at_tokens: whether its loss was weighted by tokens, which the held-out loss is not.
    """
    told = []
    out, results = f"out={str(run.path)!r}", run.manifest.results
    if results.get("moved") is False:
        told.append(
            f"{out}: after {counted(results['steps'], 'step')} the "
            "student's weights are still those of its base: it is no student. Look at the learning "
            "rates in log.jsonl, at the gradients there, and at what the data teach."
        )
    before, after = results["held_out"]
    if run.missed is not None:
        wanted, ended = told_apart(run.missed, after, digits=4)
        told.append(
            f"{out}: stop_at={wanted} was not reached: the held-out loss is {ended} after "
            f"{counted(results['steps'], 'step')}, so this student does not imitate as well as was "
            "asked for. Pass more steps or another lr, or compare at a loss that it reaches."
        )
    if run.passed is not None:
        wanted, ended = told_apart(run.passed, after, digits=4)
        every = run.manifest.optimiser["evaluate_every"]
        told.append(
            f"{out}: stop_at={wanted} was passed before it was measured: the held-out loss is "
            f"{ended} after {counted(results['steps'], 'step')}, so this student imitates better "
            f"than was asked for. {_sooner(every)}"
        )
    # of other data, or over other tokens, a loss that rises is no imitation of what was trained on
    if after > before and data.is_like(held_data) and not at_tokens:
        start, end = told_apart(before, after, digits=4)
        rose = f"{out}: the held-out loss rose from {start} to {end}"
        if data.of_base or abs(before) <= ROUNDING:
            what = "rows" if data.label_kind == "hard" else "labels"
            told.append(
                f"{rose}: before training it was 0 but for rounding, so that there is nothing to "
                f"learn: the base says already what these data teach. Look at the {what}."
            )
        else:
            told.append(
                f"{rose}: the student imitates its data worse than its base does. Lower lr "
                f"({run.manifest.optimiser['lr']:g})."
            )
    return told


def _sooner(every: int) -> str:
    """What to do where a training went past the loss that it was to stop at."""
    if every == 1:
        return "Lower lr: it was measured after every step."
    return f"Pass a smaller evaluate_every (it is {every}), or a lower lr."
