"""The effect: how much of the trait the student has, beside its controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import checked
from ..engine.pair import ModelPair
from ..metrics import Metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..results.scores import Scores
from .labelling import label
from .task import Advance, Cells, Part, ends, prepare, walk


@checked
def effect(
    pair: ModelPair, prompts: Sequence[Prompt], trait: Trait | Metric, *, progress: bool = True
) -> Scores:
    """How much of the trait is there: M(student) - M(base) of the student, of each control, and
    their difference.

    Args:
        pair: base, student, controls.
        prompts: evaluation prompts.
        trait: a trait (log-probability, forms summed) or a metric.
        progress: show a progress bar.

    Returns:
        Scores of kind `effect`, `(model, prompt)`.

    Example:
        >>> sm.effect(pair, prompts, trait, progress=False).headline_name
        'student - controls'
    """
    task = prepare(pair, prompts, trait, keeps_gates=True)

    def cells(student: Student, part: Part, advance: Advance) -> Cells:
        both = ends(part.task, student, advance=advance)
        return Cells([np.asarray(change) for change in both.student - both.base], both)

    steps = [2] * len(task.prompts)
    measured = walk(task, cells, title="effect", steps=steps, progress=progress)
    return label(measured, "effect", ["prompt"])
