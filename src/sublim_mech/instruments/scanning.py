"""Prefix scan: the boundary between the two models moves through the prompt (exact).

For every token t of a prompt, two grafts of all tokens up to t, all modules:

- sufficiency: M(student up to t, base after it) - M(base): where the effect enters;
- necessity: M(student) - M(base up to t, student after it): where it stops mattering which weights
  compute the tokens after the boundary.

The answer's own tokens come after every boundary, so they are the base's in the one and the
student's in the other, as in `graft`.

1. By causality a prefix acts on what follows through its keys and values alone. So both curves are
   swaps of the prefix's keys and values between the two models, as in arXiv 2606.06667: the model
   after the boundary runs on what the other one has kept. Two exceptions. At the last token of the
   prompt, the logits that are read there come from the model that computes it, which no swap of
   keys and values gives. And a layer with state keeps a state instead: there the gates say what is
   meant, the state is carried on from the prefix's model into the other one.
2. One pass of each model keeps what every boundary needs; what follows a boundary is computed from
   there on, by the other model alone and many boundaries in a forward (`engine.suffixes`), so half
   of the tokens are computed that whole forwards would take. Models that keep more than keys and
   values run whole forwards (`plain`).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..arguments import checked
from ..engine.pair import ModelPair
from ..engine.suffixes import follow
from ..engine.suffixes import keep as keep_runs
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .grafting import MEASURES
from .keeping import keep_folder
from .labelling import label
from .task import Advance, Cells, Ends, Keep, Part, Task, prepare, walk


@checked
def prefix_scan(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    measure: Literal["sufficiency", "necessity", "both"] = "both",
    keep: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Scores:
    """Student up to a token and base after it, and the reverse, for every token of a prompt.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait or a metric.
        measure: `sufficiency` (the student computes the prefix), `necessity` (the base computes it)
            or `both`.
        keep: a folder in which finished prompts are stored, one file per student and prompt: the
            same call goes on where an earlier one ended, with the same bits (`keeping`).
        progress: show a progress bar.

    Returns:
        Scores of kind `scan`, `(model, prompt, measure, position)`, in the metric's unit: the graft
        of all tokens up to and including the position. At the answer's own tokens, which stand side
        by side, the whole answer is switched too: the total effect. `scores.curve()` is the mean
        curve over prompts, `results.crossings(scores)` where it enters and settles,
        `scores.plot()` both curves.

    Raises:
        ValueError: unknown measure; see `graft` for prompts and metrics.

    Source: a cumulative dynamic weight graft (arXiv 2506.20746); two-model prefix swaps, arXiv
    2606.06667.

    Example:
        >>> scan = sm.instruments.prefix_scan(pair, prompts[:1], trait, progress=False)
        >>> first = {"first ten": range(10)}
        >>> grafted = sm.graft(pair, prompts[:1], trait, first, progress=False)
        >>> ten = scan.data["effect"].sel(position=9, measure="sufficiency")
        >>> bool(abs(ten - grafted.data["effect"].sel(measure="sufficiency")).max() < 1e-4)
        True
    """
    if measure not in (*MEASURES, "both"):
        raise ValueError(
            f"measure={measure!r}: pass 'sufficiency' (student up to the token), 'necessity' (base "
            "up to the token) or 'both'."
        )
    measures = MEASURES if measure == "both" else (measure,)
    folder = keep_folder(keep)
    task = prepare(pair, prompts, trait, keeps_gates=True)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        count = len(part.task.prompts)
        scans = [_scan(part.task, student, i, measures, advance) for i in range(count)]
        both = Ends(*np.array([(scan.base, scan.student) for scan in scans]).T)
        return Cells([scan.effect for scan in scans], both)

    steps = [len(measures) * len(prompt) for prompt in task.prompts]
    kept = Keep(folder, lambda i: ["prefix", measures])
    measured = walk(task, cells, title="prefix scan", steps=steps, progress=progress, keep=kept)
    return label(
        measured,
        "scan",
        ["prompt", "measure", "position"],
        coords={"measure": np.array(measures)},
        answer_gate={one: float(one == "necessity") for one in measures},
    )


class _Scan(NamedTuple):
    """One prompt's: `(measure, slot)`, and the metric of the two models."""

    effect: np.ndarray
    base: float
    student: float


def _scan(
    task: Task, student: Student, prompt: int, measures: Sequence[str], advance: Advance
) -> _Scan:
    """The graft of all tokens up to each one of a prompt."""
    ids, gates = task.prompts[prompt].ids, [task.gates(student, [prompt], to) for to in (0.0, 1.0)]
    sides = keep_runs(task.pair, ids, task.answers[prompt], gates)
    base, of_student = task.numbers([prompt] * 2, torch.cat([side.logits for side in sides]))
    task.check_finite(np.array([base, of_student]), [prompt] * 2)
    # behind the prompt stands the answer, which is switched as a whole
    effect = np.full((len(measures), task.size(prompt)), of_student - base)
    starts = range(1, len(ids) + 1)  # per boundary, the first slot behind it
    for m, measure in enumerate(measures):
        # the model of the prefix comes first
        before, after = sides if measure == "necessity" else reversed(sides)
        values = np.empty(len(starts))
        for numbers, logits in follow(before, after, starts):
            values[numbers] = task.numbers([prompt] * len(numbers), logits)
            advance(len(numbers))
        task.check_finite(values, [prompt] * len(values))
        change = of_student - values if measure == "necessity" else values - base
        effect[m, : len(ids)] = change
    return _Scan(effect, float(base), float(of_student))
