"""Grids: the cells of a part, in the order they are run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from .addresses import MADE, decisive
from .arms import gated
from .config import Label, Method, Part, Study


@dataclass(frozen=True)
class Setting:
    """A method at one rank and one learning rate."""

    method: Method
    rank: int
    lr: float

    @property
    def name(self) -> str:
        """What rows call it."""
        usual = f"r{self.rank}" if self.method.kind == "lora" else "full"
        parts = [self.method.name or usual]
        if self.method.name and len(self.method.ranks) > 1:
            parts.append(f"r{self.rank}")
        if len(self.method.lrs) > 1:
            parts.append(f"lr {self.lr:g}")
        return " ".join(parts)

    def content(self) -> dict[str, Any]:
        """What of it decides the student."""
        method = self.method
        made = decisive(method.made(self.rank), MADE[method.kind])
        return {
            "kind": method.kind,
            "made": made,
            "lr": self.lr,
            "steps": method.steps,
            "warmup": method.warmup,
            "evaluate_every": method.evaluate_every,
            "snapshots": method.snapshots,
        }


def at(where: str) -> str:
    """Where a student is trained, behind what else it is."""
    return f", trained at {where}" if gated(where) else ""


@dataclass(frozen=True)
class Cell:
    """One run: a student, when and where it is asked, and what is scored."""

    part: str
    trait: str
    row_seed: int
    training_seed: int
    trained_in: str
    label: Label
    setting: Setting
    where: str
    evaluated_in: str
    step: int
    scores: tuple[str, ...]

    @property
    def title(self) -> str:
        """In words."""
        labels = self.label if isinstance(self.label, str) else f"c={self.label:g}"
        step = f", step {self.step}" if self.step else ""
        return (
            f"{self.trait} {self.setting.name}, row seed {self.row_seed}, training seed "
            f"{self.training_seed}, "
            f"{labels}, {self.trained_in} -> {self.evaluated_in}{at(self.where)}{step}"
        )


def cells(study: Study, part: Part) -> Iterator[Cell]:
    """The runs of a part; traits vary fastest, so that students and their controls come together,
    row seeds slowest.
    """
    axes = product(
        part.row_seeds,
        part.training_seeds,
        part.trained_in,
        part.labels,
        part.where,
        [setting for method in part.methods for setting in settings(method)],
    )
    for row_seed, training_seed, trained_in, label, where, setting in axes:
        steps = (*setting.method.snapshots, 0)
        for evaluated_in, step in product(part.evaluated_in, steps):
            for trait in study.focus_of(part):
                yield Cell(
                    part.name, trait, row_seed, training_seed, trained_in, label, setting, where,
                    evaluated_in, step, tuple(part.scores),
                )  # fmt: skip


def settings(method: Method) -> list[Setting]:
    """A method at its ranks and learning rates."""
    ranks = method.ranks if method.kind == "lora" else (0,)
    return [Setting(method, rank, lr) for rank, lr in product(ranks, method.lrs)]
