"""`plan`: what a study takes before anything starts: runs, reuse, tokens, operations, disk, time.

1. Tasks are counted by what they are made of, not run; those that a folder has already are not
   counted again.
2. Tokens follow from the numbers of rows, steps and questions, and from the lengths of prompts:
   those of the base's own tokenizer where the base is given, else SmolLM2's.
3. Operations are 2 per weight and token forward; LoRA's training takes 4 (the weights themselves
   take no gradient), full fine-tuning 6.
4. Time is operations over a rate: the median of the tasks of this kind in the folder, of this study
   and others of its base, device and threads, where there are at least `ENOUGH`, else a constant
   (`RATES`).
5. Of each part the least p and the minimum detectable effect of its design (`designs`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..arguments import checked
from ..hints import counted
from ..making.training.order import repeats_rows
from ..models.base import Base
from ..models.sources import local_base
from ..stats import Spread
from .config import SAMPLED, Study
from .designs import GUESS, Design, design_of, spread_in
from .records import Spent, read_spent
from .same_name import configurations
from .store import STAGES, STUDIES, Store
from .takes import KNOWN, Lengths, Shape, check_methods, shape_of, takes
from .tasks import ScoresTask, StudentTask, Task, Tasks
from .two_names import check_names

RATES: Mapping[str, float] = {
    "labels": 1e11, "sampled": 6e10, "students lora": 2.4e11, "students full": 1.8e11,
    "answers": 2e10, "scores graft": 1.2e11, "scores graft_ig": 1.2e11,
}  # fmt: skip
"""Operations per second of one worker with one thread, by kind of task. Of labels and students:
from the recipe's times on two quiet cores of an AVX512-BF16 EPYC machine (SmolLM2-135M: 6 minutes
for labels of four traits, 2 for a LoRA, 4 for a full fine-tune), shared among two workers. Of
answers and scores: of one such core while others were at work beside it. Of written rows: from the
answers timed in docs/making/teachers.md. Of other devices than a processor none is known."""

CONSTANTS = (
    "constants of one EPYC core and SmolLM2-135M (labels and students from the recipe's times on "
    "quiet cores, answers and scores on a busy one)"
)

PROCESSOR = "cpu"

OPTIONAL = ("sampled",)
"""Stages that most studies do not have."""

UNKNOWN_SPREAD = (
    "a guess until this study has finished runs, in this folder, of two traits, or of two training "
    "seeds, in each of two row seeds"
)
"""Where the spread comes from that a plan's effects are worked out with."""

ENOUGH = 3
"""Tasks of one kind from which a rate is taken: the first one of a worker opens the model as
well."""

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


@dataclass(frozen=True)
class Plan:
    """What a study takes.

    Attributes:
        study: its name.
        runs: runs of all parts.
        finished: runs whose rows are there.
        stages: per stage what it takes.
        measured: kinds of tasks whose rates come from the study's folder: from this study, and from
            others of its base, device and threads.
        threads: of every worker.
        device: where models are.
        designs: of the parts.
        spread: of the students in the folder; None where there are too few, and `designs.GUESS` is
            taken.
        peak_bytes: checkpoints and unfinished weights of one worker at a time.
        notes: sentences on the design.
    """

    study: str
    runs: int
    finished: int
    stages: Mapping[str, Stage]
    measured: tuple[str, ...]
    threads: int
    device: str
    designs: tuple[Design, ...]
    spread: Spread | None
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
        known = self.spread or GUESS
        told["designs"] = [
            design._asdict()
            | {"least_p": design.least_p, "detectable": _finite(design.detectable(known))}
            for design in self.designs
        ]
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
            if not stage.made + stage.to_do and name in OPTIONAL:
                continue
            reused = max(0, stage.uses - stage.made - stage.to_do)
            lines.append(
                f"{name:10}{stage.to_do:7}{stage.made:7}{reused:8}{_short(stage.tokens):>10}"
                f"{_short(stage.operations):>12}{_size(stage.bytes):>10}"
                f"{_duration(stage.seconds):>10}"
            )
        who = f"one worker of {counted(self.threads, 'thread')}, half of it for two on two cores"
        if self.device != PROCESSOR:
            who = f"one worker on {self.device}"
        takes_time = "the time is not known"
        if self.seconds is not None:
            takes_time = f"in all {_duration(self.seconds)} for {who}"
        takes_disk = "the disk it takes is not known"
        if self.bytes is not None:
            each = f"{_size(self.peak_bytes)} per worker while it trains"
            takes_disk = f"disk {_size(self.bytes)}, and {each}"
        lines.append(f"{takes_time}; {takes_disk}")
        # of a base of unknown size, or where nothing is to do, no rate is used
        used = [stage for name, stage in self.stages.items() if stage.to_do and name != "rows"]
        known = used and None not in [stage.operations for stage in used]
        rates = [self._told_of_rates()] if known else []
        return "\n".join([*lines, *rates, *self._told_of_designs(), *self.notes])

    def _told_of_rates(self) -> str:
        constants = CONSTANTS
        if self.device != PROCESSOR:
            constants = (
                f"none is known on {self.device} until {ENOUGH} tasks of a kind are in this folder"
            )
        if not self.measured:
            return f"rates: {constants}"
        told = f"rates: measured in this folder for {', '.join(self.measured)}"
        return told if len(self.measured) >= len(RATES) else f"{told}; for the others {constants}"

    def _told_of_designs(self) -> list[str]:
        known = self.spread or GUESS
        source = "as in this folder" if self.spread else UNKNOWN_SPREAD
        head = (
            "least p of permutations, and the effect that 80 % of studies would see, where "
            f"specific changes differ by {known.data_set:.2g} nats between row seeds and "
            f"{known.training_seed:.2g} between students of one, beside what their traits differ "
            f"by in all row seeds ({source}):"
        )
        return [head, *(design.line(known) for design in self.designs)]


@checked
def plan(study: Study, out: str | Path | None = None, *, base: Base | None = None) -> Plan:
    """What a study takes: nothing is run, and no model is loaded.

    Args:
        study: the study.
        out: its folder; what is there is not counted again, and its measured rates are used.
        base: the base, for its size and its tokenizer's lengths. Without it, sizes of a few models
            are known (`takes.KNOWN`), and lengths are SmolLM2's.

    Raises:
        FileNotFoundError: there is no base at the study's path.
        ValueError: two cells of one hash, or one student under two names; a folder of another
            version; a method that the base cannot be trained by (ranks and targets of
            LoRA where its sizes are known; all with `base`); with `base`, two contexts that render
            to the same text.

    Example:
        >>> from sublim_mech import studies
        >>> planned = studies.plan(studies.quick())
        >>> planned.runs, planned.stages["students"].to_do
        (8, 4)
    """
    if base is None:
        local_base(study.base)  # a place that is not there is told now, not by the first worker
    tasks = Tasks(study)
    check_names(tasks)
    check_methods(study, base)
    store = None if out is None else Store(out)
    spent = {} if store is None else read_spent(store.folder)
    shape = KNOWN.get(study.base) if base is None else shape_of(base)
    lengths = Lengths.of(study, base)
    made = [(study, tasks, lengths)]
    if spent:
        made += [(one, Tasks(one), Lengths.of(one, base)) for one in _alike(study, store)]
    rates = _rates(made, spent, shape)
    uses: dict[str, int] = {}
    for task in tasks.ordered:
        for need in task.needs:
            uses[need.stage] = uses.get(need.stage, 0) + 1
    uses["rows"] = len(tasks.runs)

    stages, peak = {}, 0
    measured: list[str] = []
    constants = RATES if study.computing.device == PROCESSOR else {}
    for name in STAGES:
        of_stage = [task for task in tasks.ordered if task.stage == name]
        to_do = [task for task in of_stage if store is None or not store.has(task)]
        taken = [takes(task, study, lengths, shape) for task in to_do]
        unknown = shape is None and bool(to_do)
        operations = None if unknown else sum((one.operations for one in taken), 0.0)
        bytes_ = None if unknown else sum(one.bytes for one in taken)
        peak = max([peak, *(one.peak for one in taken)])
        seconds: float | None = SECONDS_PER_ROW * len(to_do)
        if name != "rows":
            measured += [kind for kind in rates if kind in set(map(_kind, of_stage))]
            seconds = None
            if operations is not None:
                kinds = [_kind(task) for task in to_do]
                known = {**constants, **rates}
                if known.keys() >= set(kinds):
                    pairs = zip(kinds, taken, strict=True)
                    seconds = sum((one.operations / known[kind] for kind, one in pairs), 0.0)
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
        device=study.computing.device,
        designs=tuple(design_of(study, part) for part in study.parts),
        spread=None if store is None else spread_in(study, store.folder),
        peak_bytes=None if shape is None and any(s.to_do for s in stages.values()) else peak,
        notes=tuple(_notes(study, shape, is_done=not any(s.to_do for s in stages.values()))),
    )


def _kind(task: Task) -> str:
    """What rates are of."""
    if isinstance(task, StudentTask):
        return f"students {task.setting.method.kind}"
    if isinstance(task, ScoresTask):
        return f"scores {task.instrument}"
    return task.stage


def _alike(study: Study, store: Store | None) -> list[Study]:
    """Other studies that a study's folder keeps which run the same base in the same way."""

    def how(one: Study) -> tuple[str, str, int]:
        return one.base, one.computing.device, one.computing.threads

    kept = [] if store is None else configurations(store.folder / STUDIES)
    return [one for one in kept if one != study and how(one) == how(study)]


def _rates(
    made: Sequence[tuple[Study, Tasks, Lengths]],
    spent: Mapping[str, Spent],
    shape: Shape | None,
) -> dict[str, float]:
    """Operations per second by kind, of those that the folder has enough tasks of."""
    if shape is None:
        return {}
    found: dict[str, dict[str, float]] = {}
    for study, tasks, lengths in made:
        for task in tasks.ordered:
            took = spent.get(task.address)
            if took is not None and took.seconds > 0:
                rate = takes(task, study, lengths, shape).operations / took.seconds
                found.setdefault(_kind(task), {})[task.address] = rate
    return {kind: median(one.values()) for kind, one in found.items() if len(one) >= ENOUGH}


# -------------------------------------------------------------------------------------------- words


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _notes(study: Study, shape: Shape | None, *, is_done: bool) -> list[str]:
    notes = []
    if shape is None and not is_done:
        notes.append(
            f"base={study.base!r}: its size is not known here, so there are no operations, disk "
            "and time, nor were its methods checked; pass plan(study, base=load_base(...))."
        )
    if any(SAMPLED in part.labels for part in study.parts):
        notes.append("written rows are counted as if every answer passed the filter.")
    rows, training = study.rows, study.training
    told = repeats_rows(rows.count - rows.held_out, training.batch_size, training.bucket)
    if told is not None:
        notes.append(f"[training] {told}")
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
            return f"{value / size:z.1f} {unit}"
    return f"{value:z.0f}"


def _size(value: float | None) -> str:
    return "?" if value is None else f"{_short(value)}B"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:z.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:z.0f} min"
    return f"{seconds / 3600:z.1f} h"
