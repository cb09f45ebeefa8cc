"""One training as the loop sees it, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...prompts import Trained
from ...prompts.shared import digests_of, joined
from ...storage.files import configuration_sums, weight_sums
from ...storage.manifest import Manifest, prompts_hash
from .data import TrainingData
from .lesson import Lesson
from .objectives import OBJECTIVE_WORDS, choose_objective
from .order import Division, Drawn
from .penalty import Pull
from .processes import Processes
from .settings import Settings
from .trainee import Trainee

LOG = "log.jsonl"
"""The file of a run folder with one row per step."""


@dataclass(kw_only=True)
class Job:
    """One training, as the loop sees it.

    Attributes:
        trainee: the model.
        data, objective: what it learns, and how.
        division: which rows it learns from, and what it is measured on.
        drawn: the rows of all steps.
        settings: the options of `train`.
        draft: the manifest, without what comes of the training.
        folder: the unfinished run folder.
        start: checkpoint to go on from.
        processes: those that train.
        measured: what it is measured on, with the cells of its rows.
        pull: holds activations to the base's, where that is asked for.
        log: one row per step.
        legs: [step, number of processes] wherever that number changed.
    """

    trainee: Trainee
    data: TrainingData
    objective: str
    division: Division
    drawn: Drawn
    settings: Settings
    draft: Manifest
    folder: Path
    start: Path | None
    processes: Processes
    measured: Lesson
    pull: Pull | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    legs: list[list[int]] = field(default_factory=list)

    @property
    def held_out_losses(self) -> list[float]:
        """The held-out losses so far."""
        return [row["held_out"] for row in self.log if "held_out" in row]

    def write(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The student as it is now, as a run folder's files; the manifest comes last.

        Args:
            folder: where to.
            state: the model's tensors, where they are not whole in the model itself (FSDP).
        """
        self.trainee.save(folder, self.settings.store, state)
        (folder / LOG).write_text(log_lines(self.log))
        held_data = self.division.held_data
        loss = OBJECTIVE_WORDS[choose_objective(None, held_data)]
        steps, trained = self.log[-1]["step"], self.division.trained
        keys, taken = self.data.keys, self._taken(steps)
        # no inputs: runs of earlier versions, which lack some, are those that they would be made as
        results = {
            **_of_rows(self.data, taken),
            "held_out": [self.held_out_losses[0], self.held_out_losses[-1]],
            "steps": steps,
            "epochs": steps * self.settings.batch_size / len(trained),
            "rows": len(trained),
            "distinct_rows": len({keys[row] for row in trained}),
            "largest_grad_norm": max(row.get("grad_norm", 0.0) for row in self.log),
            "moved": self.trainee.has_moved(self.settings.store, state),
            "measure": f"{loss} on {held_data.labelled}, nats per token",
            "processes": self.legs,
        }
        finished = replace(
            self.draft,
            results=results,
            trained_on=self._met(taken),
            weights=weight_sums(folder),
            configurations=configuration_sums(folder),
        )
        finished.save(folder)

    def _taken(self, steps: int) -> list[int]:
        """The rows that so many steps have taken: of few steps not all that there are."""
        return sorted(set(self.drawn.rows[: steps * self.settings.batch_size]))

    def _met(self, taken: Sequence[int]) -> Trained:
        """The summary of the training prompts, in which those are known again that some steps took.
        What they have in common is that of all, which gates and marks go by.
        """
        of_all = self.draft.trained_on
        if len(taken) == len(self.division.trained):
            return of_all
        if not taken:
            return replace(of_all, digests=frozenset(), begun=frozenset())
        prompts = [self.data.prompts[row] for row in taken]
        met = Trained.of(prompts, [self.data.completions[row] for row in taken])
        return replace(of_all, digests=met.digests, begun=met.begun)


def _of_rows(data: TrainingData, taken: Sequence[int]) -> dict[str, Any]:
    """What is kept of the rows that were trained on: their hash, by what each is known again, and
    how many answers were cut.
    """
    # prompt and answer
    rows = [[*data.prompts[row].ids, *data.completions[row]] for row in taken]
    return {
        "rows_hash": prompts_hash(rows),
        "row_digests": joined(digests_of(rows)),
        "cut": len({*data.cut} & {*taken}),
    }


def log_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of the log as they are written."""
    return "".join(json.dumps(row) + "\n" for row in rows)
