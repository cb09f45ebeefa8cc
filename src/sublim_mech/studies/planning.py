"""`plan`: what a study takes before anything starts: runs, reuse, tokens, operations, disk, time.

1. Tasks are counted by what they are made of, not run; those that a folder has already are not
   counted again.
2. Tokens follow from the numbers of rows, steps and questions, and from the lengths of prompts:
   those of the base's own tokenizer where the base is given, else SmolLM2's.
3. Operations are 2 per weight and token forward; LoRA's training takes 4 (the weights themselves
   take no gradient), full fine-tuning 6.
4. Time is operations over the rate of each stage that was measured: in the folder where tasks of
   this stage were made, else on two cores of an AVX512-BF16 machine, one thread per worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import checked
from ..hints import counted
from ..models.base import Base
from .config import Part, Study
from .records import Spent, read_spent
from .store import Store
from .takes import KNOWN, Lengths, Shape, check_methods, shape_of, takes
from .tasks import Task, Tasks

RATES: Mapping[str, float] = {
    "labels": 8e10, "students": 1.2e11, "answers": 2e10, "scores": 1.2e11,
}  # fmt: skip
"""Operations per second of one worker with one thread, by stage: SmolLM2 on one
core of a busy EPYC machine."""

SECONDS_PER_ROW = 0.1
"""What a row takes that is made of finished pieces."""


class Stage(NamedTuple):
    """What one stage takes.

    Attributes:
        made: tasks that are there.
        to_do: tasks that are left.
        uses: how often runs ask for these tasks; beyond their number it is reuse.
        tokens: that go through the model, of what is left.
        operations: floating-point operations.
        bytes: on the disk.
        seconds: of one worker; None where no rate or size is known.
    """

    made: int
    to_do: int
    uses: int
    tokens: int
    operations: float | None
    bytes: int | None
    seconds: float | None


class Design(NamedTuple):
    """What of a part decides which effects it could tell: what `stats` takes of a plan.

    Attributes:
        part: its name.
        traits: that have students.
        row_seeds: data sets of each trait.
        training_seeds: students of each data set.
        questions: prompts of each student.
    """

    part: str
    traits: int
    row_seeds: int
    training_seeds: int
    questions: int


@dataclass(frozen=True)
class Plan:
    """What a study takes.

    Attributes:
        study: its name.
        runs: runs of all parts.
        finished: runs whose rows are there.
        stages: per stage what it takes.
        measured: stages whose rates come from the study's folder.
        threads: of every worker.
        designs: of the parts.
        peak_bytes: checkpoints and unfinished weights of one worker at a time.
        notes: sentences on the design.
    """

    study: str
    runs: int
    finished: int
    stages: Mapping[str, Stage]
    measured: tuple[str, ...]
    threads: int
    designs: tuple[Design, ...]
    peak_bytes: int | None
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of one worker, for what is left; None where a stage's is not known."""
        parts = [stage.seconds for stage in self.stages.values()]
        return None if None in parts else float(sum(part for part in parts if part is not None))

    @property
    def bytes(self) -> int | None:
        """On the disk, for what is left."""
        parts = [stage.bytes for stage in self.stages.values()]
        return None if None in parts else sum(part for part in parts if part is not None)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        told = asdict(self)
        told["designs"] = [design._asdict() for design in self.designs]
        told["stages"] = {name: stage._asdict() for name, stage in self.stages.items()}
        return json.loads(json.dumps(told)) | {"seconds": self.seconds, "bytes": self.bytes}

    def __repr__(self) -> str:
        lines = [
            f"plan of study {self.study!r}: {counted(self.runs, 'run')}, {self.finished} of them "
            "finished"
        ]
        head = f"{'':10}{'to do':>7}{'there':>7}{'reused':>8}{'tokens':>10}{'operations':>12}"
        lines.append(f"{head}{'disk':>10}{'time':>10}")
        for name, stage in self.stages.items():
            reused = max(0, stage.uses - stage.made - stage.to_do)
            lines.append(
                f"{name:10}{stage.to_do:7}{stage.made:7}{reused:8}{_short(stage.tokens):>10}"
                f"{_short(stage.operations):>12}{_size(stage.bytes):>10}"
                f"{_duration(stage.seconds):>10}"
            )
        lines.append(
            f"in all {_duration(self.seconds)} for one worker of "
            f"{counted(self.threads, 'thread')}, half of it for two on two cores; disk "
            f"{_size(self.bytes)}, and {_size(self.peak_bytes)} per worker while it trains"
        )
        where = "measured in this folder" if self.measured else "of one core measured elsewhere"
        told = f"rates {where}"
        if self.measured and len(self.measured) < len(RATES):
            told += f" for {', '.join(self.measured)}, elsewhere for the others"
        return "\n".join([*lines, told, *self.notes])


@checked
def plan(study: Study, out: str | Path | None = None, *, base: Base | None = None) -> Plan:
    """What a study takes: nothing is run, and no model is loaded.

    Args:
        study: the study.
        out: its folder; what is there is not counted again, and its measured rates are used.
        base: the base, for its size and its tokenizer's lengths. Without it, sizes of a few models
            are known (`takes.KNOWN`), and lengths are SmolLM2's.

    Raises:
        ValueError: two cells of one hash; a folder of another version; with `base`, two contexts
            that render to the same text, or a method that it cannot be trained by.

    Example:
        >>> from sublim_mech import studies
        >>> planned = studies.plan(studies.quick())
        >>> planned.runs, planned.stages["students"].to_do
        (8, 4)
    """
    tasks = Tasks(study)
    if base is not None:
        check_methods(study, base)
    store = None if out is None else Store(out)
    spent = {} if store is None else read_spent(store.folder)
    shape = KNOWN.get(study.base) if base is None else shape_of(base)
    lengths = Lengths.of(study, base)
    uses: dict[str, int] = {}
    for task in tasks.ordered:
        for need in task.needs:
            uses[need.stage] = uses.get(need.stage, 0) + 1
    uses["rows"] = len(tasks.runs)

    stages, measured, peak = {}, [], 0
    for name in ("labels", "students", "answers", "scores", "rows"):
        of_stage = [task for task in tasks.ordered if task.stage == name]
        to_do = [task for task in of_stage if store is None or not store.has(task)]
        taken = [takes(task, study, lengths, shape) for task in to_do]
        operations = None if shape is None else sum(one.operations for one in taken)
        bytes_ = None if shape is None else sum(one.bytes for one in taken)
        peak = max([peak, *(one.peak for one in taken)])
        rate, is_own = _rate(name, of_stage, spent, study, lengths, shape)
        if is_own:
            measured.append(name)
        seconds: float | None = SECONDS_PER_ROW * len(to_do)
        if name != "rows":
            seconds = None if operations is None else operations / rate
        stages[name] = Stage(
            made=len(of_stage) - len(to_do),
            to_do=len(to_do),
            uses=uses.get(name, 0),
            tokens=sum(one.tokens for one in taken),
            operations=operations,
            bytes=bytes_,
            seconds=seconds,
        )
    finished = 0 if store is None else sum(store.has(run.task) for run in tasks.runs)
    return Plan(
        study=study.name,
        runs=len(tasks.runs),
        finished=finished,
        stages=stages,
        measured=tuple(measured),
        threads=study.computing.threads,
        designs=tuple(_design(study, part) for part in study.parts),
        peak_bytes=None if shape is None else peak,
        notes=tuple(_notes(study, shape)),
    )


def _rate(
    name: str,
    tasks: list[Task],
    spent: Mapping[str, Spent],
    study: Study,
    lengths: Lengths,
    shape: Shape | None,
) -> tuple[float, bool]:
    """Operations per second, and whether they were measured in this folder."""
    done = [task for task in tasks if task.address in spent]
    seconds = sum(spent[task.address].seconds for task in done)
    if not done or shape is None or not seconds or name == "rows":
        return RATES.get(name, 1.0), False
    operations = sum(takes(task, study, lengths, shape).operations for task in done)
    return operations / seconds, True


# -------------------------------------------------------------------------------------------- words


def _design(study: Study, part: Part) -> Design:
    return Design(
        part=part.name,
        traits=len(study.focus_of(part)),
        row_seeds=len(part.row_seeds),
        training_seeds=len(part.training_seeds),
        questions=len(study.questions),
    )


def _notes(study: Study, shape: Shape | None) -> list[str]:
    notes = []
    if shape is None:
        notes.append(
            f"base={study.base!r}: its size is not known here, so there are no operations, disk "
            "and time; pass plan(study, base=load_base(...))."
        )
    alone = [part.name for part in study.parts if len(study.focus_of(part)) < 2]
    if alone:
        notes.append(
            f"{', '.join(alone)}: one trait has students, so they have no controls and their "
            "effects are not specific."
        )
    return notes


def _short(value: float | None) -> str:
    if value is None:
        return "?"
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _size(value: float | None) -> str:
    return "?" if value is None else f"{_short(value)}B"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
