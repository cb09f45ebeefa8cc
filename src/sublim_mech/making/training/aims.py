"""What a training asks beside its data: where it acts, what holds it, which tokens it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...masks import Mask
from ...models.base import Base
from ...models.sites import find_sites
from ...prompts import Trained
from .data import TrainingData
from .gating import FrozenBase
from .lesson import Lesson
from .methods import FullFT, LoRA
from .order import Division
from .penalty import Pull, check_penalty, check_reached, pulled_tokens
from .selection import selection_record
from .where import Where, record


@dataclass(frozen=True)
class Aims:
    """The options `where`, `penalty` and `tokens` of a training, resolved.

    Attributes:
        lesson: the rows that are trained on.
        measured: the rows that are measured on, under the same gates; every token counts there.
        trained_on: summary of the trained prompts.
        where: the gates; None where the student acts everywhere.
        penalty: mask and strength.
    """

    lesson: Lesson
    measured: Lesson
    trained_on: Trained
    where: Where | None = None
    penalty: tuple[Mask, float] | None = None

    @classmethod
    def of(
        cls,
        base: Base,
        method: LoRA | FullFT,
        data: TrainingData,
        division: Division,
        *,
        where: Mask | None,
        answer_in_where: bool,
        penalty: tuple[Mask, float] | None,
        weights: list[np.ndarray] | None,
    ) -> Aims:
        """Apply the masks to the rows.

        Raises:
            ValueError: an answer's gate without a mask; see `Where`, `record`, `pulled_tokens`,
                `check_reached`.
        """
        if answer_in_where and where is None:
            raise ValueError(
                "answer_in_where=True without where: the answer's tokens are open where everything "
                "is; pass where=masks.everything(), or leave both out."
            )
        rows = division.trained
        met = Trained.of([data.prompts[i] for i in rows], [data.completions[i] for i in rows])
        lesson = Lesson(data, weights=weights, rows=rows)
        measured = Lesson(division.held_data, rows=division.held_rows)
        if penalty is not None:
            penalty = check_penalty(penalty)
            lesson = replace(lesson, pulled=pulled_tokens(penalty[0], data, met, rows))
        if where is None:
            return cls(lesson, measured, met, penalty=penalty)

        gates = Where.of(base, method, met, where, answer=answer_in_where)
        lesson = replace(lesson, cells=gates.cells(data))
        of_held = lesson.cells
        if division.held_data is not data:
            of_held = gates.cells(division.held_data)
        measured = replace(measured, cells=of_held)
        if penalty is not None:
            check_reached(penalty[0], where, lesson)
        return cls(lesson, measured, met, record(gates, lesson, rows), penalty)

    def pull(self, base: Base, method: LoRA | FullFT) -> Pull | None:
        """What holds activations to the base's; None where nobody asked."""
        if self.penalty is None:
            return None
        beside = FrozenBase(base, in_fp32=isinstance(method, FullFT))
        return Pull(beside, find_sites(base.model), self.penalty[1])

    # nothing where nobody asked: so it was in the manifests of earlier versions

    def of_method(self) -> dict[str, Any]:
        """What a manifest keeps of the gates, among the options of the method."""
        return {} if self.where is None else {"where": self.where.recorded}

    def of_data(self) -> dict[str, Any]:
        """What it keeps of the chosen tokens."""
        if self.lesson.weights is None:
            return {}
        return {"tokens": selection_record(self.lesson.weights, self.lesson.rows)}

    def of_optimiser(self) -> dict[str, Any]:
        """What it keeps of the penalty."""
        if self.penalty is None or self.lesson.pulled is None:
            return {}
        mask, strength = self.penalty
        return {
            "penalty": {
                "mask": mask.name,
                "strength": strength,
                "tokens": _hash(self.lesson.pulled, self.lesson.rows),
                "tokens_of_prompts": _hash(self._pulled_in_prompts(), self.lesson.rows),
            }
        }

    def _pulled_in_prompts(self) -> list[np.ndarray]:
        assert self.lesson.pulled is not None
        return [
            tokens[: len(prompt)]
            for tokens, prompt in zip(self.lesson.pulled, self.lesson.data.prompts, strict=True)
        ]


def _hash(tokens: Sequence[np.ndarray], rows: Sequence[int]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{len(tokens[row])}:".encode() + np.packbits(tokens[row]).tobytes())
    return digest.hexdigest()
