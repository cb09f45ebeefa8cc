"""One training as the loop sees it, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...storage.files import configuration_sums, weight_sums
from ...storage.manifest import Manifest
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
        keys = self.data.keys
        results = {
            **self.draft.results,
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
            weights=weight_sums(folder),
            configurations=configuration_sums(folder),
        )
        finished.save(folder)


def log_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of the log as they are written."""
    return "".join(json.dumps(row) + "\n" for row in rows)
