"""Tasks: what has to be made for a study, each under the hash of everything that decides it.

    labels ──> student ──> answers (one context) ──┐
      (of a row seed and a context, for all; or    │
      rows that one teacher wrote)                 ├──> row
    answers of the base, for all ──────────────────┤
    students of the cell ──> scores (one context) ─┘

A task's address is the SHA-256 of its stage, the addresses of what it is made of and its own
options. Two cells that need the same thing have the same task. The hash knows a base by what it is
called (`Study.base`); which weights that means is pinned in the store (`Store.pin`), and another
base under the same name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from ..prompts.context_tables import context_to_json
from .addresses import COMPUTING, TRAINING, decisive, hashed
from .arms import gated
from .config import SAMPLED, Label, Part, Study
from .grid import Cell, Setting, at, cells, settings

FORMATS = {"labels": 1, "sampled": 1, "students": 1, "answers": 1, "scores": 1, "rows": 1}
"""Of each stage: raised where what it computes or writes changes."""


@dataclass(frozen=True, eq=False)
class Task:
    """Something that is made once.

    Attributes:
        address: its hash.
        needs: the tasks it is made of.
        title: what it is, for people.
    """

    stage: ClassVar[str]
    suffix: ClassVar[str] = ""
    address: str
    needs: tuple[Task, ...] = field(repr=False)
    title: str

    @property
    def file(self) -> str:
        """Where it stands in a store."""
        return f"{self.stage}/{self.address}{self.suffix}"


@dataclass(frozen=True, eq=False)
class LabelsTask(Task):
    """The labels of all teachers on the rows of one seed, for students of one context."""

    stage = "labels"
    row_seed: int
    trained_in: str


@dataclass(frozen=True, eq=False)
class SampledTask(Task):
    """The rows that a trait's teacher writes from one seed, for students of one context."""

    stage = "sampled"
    row_seed: int
    trained_in: str
    trait: str


@dataclass(frozen=True, eq=False)
class StudentTask(Task):
    """A student; `where` is its arm, `twin` the student whose held-out loss it stops at."""

    stage = "students"
    labels: LabelsTask | SampledTask
    trait: str
    label: Label
    setting: Setting
    training_seed: int
    where: str
    twin: StudentTask | None


@dataclass(frozen=True, eq=False)
class AnswersTask(Task):
    """What a student says in one context, after a step (0: the last one); without student: the
    base. A student that was trained at chosen tokens acts there only, or everywhere where
    `is_open`.
    """

    stage = "answers"
    suffix = ".safetensors"
    student: StudentTask | None
    evaluated_in: str
    step: int = 0
    is_open: bool = False


@dataclass(frozen=True, eq=False)
class ScoresTask(Task):
    """What an instrument says of a student in one context, beside the students of other traits;
    their weights act everywhere.
    """

    stage = "scores"
    suffix = ".safetensors"
    instrument: str
    student: StudentTask
    controls: tuple[StudentTask, ...]
    evaluated_in: str
    step: int = 0


@dataclass(frozen=True, eq=False)
class RowTask(Task):
    """A run's row: one student in one evaluation context; `opened` are answers of the student and
    of its controls with their weights on everywhere, where they have gates.
    """

    stage = "rows"
    suffix = ".parquet"
    cell: Cell
    base: AnswersTask
    own: AnswersTask
    controls: tuple[AnswersTask, ...]
    scores: tuple[ScoresTask, ...]
    opened: tuple[AnswersTask, ...] = ()


@dataclass(frozen=True)
class Run:
    """A cell and the task that makes its row."""

    cell: Cell
    task: RowTask


class Tasks:
    """All tasks of a study, each once.

    Attributes:
        runs: the cells of all parts with the tasks that make their rows, in the order of the parts.
        ordered: every task once, each after what it needs, in the order of the runs.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._made: dict[str, Task] = {}
        self.ordered: list[Task] = []
        self._placed: set[str] = set()
        self.runs: list[Run] = []
        self._common = self._shared_content()
        for part in study.parts:
            twice: dict[str, Cell] = {}
            for cell in cells(study, part):
                task = self._row(cell, part)
                other = twice.setdefault(task.address, cell)
                if other is not cell:
                    raise ValueError(
                        f"part {part.name!r}: two cells of one hash: {other.title}; "
                        f"{cell.title}; leave one out."
                    )
                self.runs.append(Run(cell, task))
                self._place(task)

    def _shared_content(self) -> dict[str, Any]:
        study = self.study
        return {"base": study.base, "computing": decisive(study.computing, COMPUTING)}

    def _place(self, task: Task) -> None:
        """Put a task behind what it needs."""
        if task.address in self._placed:
            return
        self._placed.add(task.address)
        for need in task.needs:
            self._place(need)
        self.ordered.append(task)

    def _once(self, kind: Any, content: Mapping[str, Any], title: str, **parts: Any) -> Any:
        """The task of a content; the one that was made before where there is one."""
        needs = tuple(parts.pop("needs"))
        decides = {
            "stage": kind.stage,
            "format": FORMATS[kind.stage],
            "made of": [need.address for need in needs],
            **content,
        }
        address = hashed(decides)
        if address not in self._made:
            self._made[address] = kind(address=address, needs=needs, title=title, **parts)
        return self._made[address]

    # ----------------------------------------------------------------------------------- the stages

    def _labels(self, row_seed: int, trained_in: str) -> LabelsTask:
        study = self.study
        content = {
            **self._common,
            "traits": [[trait.name, trait.sentence] for trait in study.traits],
            "context": context_to_json(study.contexts[trained_in]),
            "rows": {"count": study.rows.count, "numbers": study.rows.numbers, "seed": row_seed},
        }
        title = f"labels of row seed {row_seed}, context {trained_in}"
        parts = {"row_seed": row_seed, "trained_in": trained_in}
        return self._once(LabelsTask, content, title, needs=(), **parts)

    def _sampled(self, cell: Cell, trait: str) -> SampledTask:
        study = self.study
        sentence = next(one.sentence for one in study.traits if one.name == trait)
        content = {
            **self._common,
            "trait": [trait, sentence],
            "context": context_to_json(study.contexts[cell.trained_in]),
            "rows": {**asdict(study.rows), "seed": cell.row_seed},
        }
        title = f"row seed {cell.row_seed} of the teacher of {trait}, context {cell.trained_in}"
        parts = {"row_seed": cell.row_seed, "trained_in": cell.trained_in, "trait": trait}
        return self._once(SampledTask, content, title, needs=(), **parts)

    def _student(self, cell: Cell, part: Part, trait: str) -> StudentTask:
        study = self.study
        labels: LabelsTask | SampledTask
        if cell.label == SAMPLED:
            labels = self._sampled(cell, trait)
        else:
            labels = self._labels(cell.row_seed, cell.trained_in)
        twin = None
        if cell.setting.method.stop_with:
            named = {method.name: method for method in part.methods}
            (setting,) = settings(named[cell.setting.method.stop_with])
            twin = self._student(replace(cell, setting=setting), part, trait)
        needs = (labels,) if twin is None else (labels, twin)
        content = {
            **self._common,
            "trait": trait,
            "label": cell.label,
            "setting": cell.setting.content(),
            "seed": cell.training_seed,
            "where": cell.where,
            "held_out": study.rows.held_out,
            "training": decisive(study.training, TRAINING),
        }
        kind = cell.label if isinstance(cell.label, str) else f"c={cell.label:g}"
        title = (
            f"student {trait} {cell.setting.name}, row seed {cell.row_seed}, training seed "
            f"{cell.training_seed}, {kind}, {cell.trained_in}{at(cell.where)}"
        )
        return self._once(
            StudentTask,
            content,
            title,
            needs=needs,
            labels=labels,
            trait=trait,
            label=cell.label,
            setting=cell.setting,
            training_seed=cell.training_seed,
            where=cell.where,
            twin=twin,
        )

    def _asked(self, evaluated_in: str) -> dict[str, Any]:
        """What decides what is said in a context."""
        study, asking = self.study, self.study.asking
        generated = {}
        if asking.samples:
            names = ("samples", "temperature", "max_new_tokens", "seed")
            generated = {name: getattr(asking, name) for name in names}
        return {
            **self._common,
            "context": context_to_json(study.contexts[evaluated_in]),
            "questions": list(study.questions),
            "traits": {trait.name: list(trait.forms) for trait in study.traits},
            **generated,
        }

    def _answers(
        self,
        student: StudentTask | None,
        evaluated_in: str,
        step: int = 0,
        *,
        is_open: bool = False,
    ) -> AnswersTask:
        content = {**self._asked(evaluated_in), "step": step}
        who = "base" if student is None else student.title.removeprefix("student ")
        if is_open:
            content["gates"] = "open"
            who += ", weights on everywhere"
        return self._once(
            AnswersTask,
            content,
            f"answers of {who}, asked in {evaluated_in}",
            needs=() if student is None else (student,),
            student=student,
            evaluated_in=evaluated_in,
            step=step,
            is_open=is_open,
        )

    def _score(
        self, instrument: str, student: StudentTask, controls: tuple[StudentTask, ...], cell: Cell
    ) -> ScoresTask:
        study, asking = self.study, self.study.asking
        forms = next(trait.forms for trait in study.traits if trait.name == student.trait)
        content = {
            **self._common,
            "instrument": instrument,
            "context": context_to_json(study.contexts[cell.evaluated_in]),
            "questions": list(study.questions[: asking.scored]),
            "trait": [student.trait, list(forms)],
            "step": cell.step,
            **({"points": asking.points} if instrument == "graft_ig" else {}),
        }
        return self._once(
            ScoresTask,
            content,
            f"{instrument} of {student.title.removeprefix('student ')}, in {cell.evaluated_in}",
            needs=(student, *controls),
            instrument=instrument,
            student=student,
            controls=controls,
            evaluated_in=cell.evaluated_in,
            step=cell.step,
        )

    def _row(self, cell: Cell, part: Part) -> RowTask:
        student = self._student(cell, part, cell.trait)
        others = [name for name in self.study.focus_of(part) if name != cell.trait]
        controls = tuple(self._student(cell, part, name) for name in others)
        base = self._answers(None, cell.evaluated_in)
        own = self._answers(student, cell.evaluated_in, cell.step)
        of_controls = tuple(self._answers(one, cell.evaluated_in, cell.step) for one in controls)
        scores = tuple(self._score(name, student, controls, cell) for name in cell.scores)
        opened: tuple[AnswersTask, ...] = ()
        if gated(cell.where):
            opened = tuple(
                self._answers(one, cell.evaluated_in, cell.step, is_open=True)
                for one in (student, *controls)
            )
        shared = list(self.study.asking.shared) if "graft_ig" in cell.scores else []
        # names are written into the row, so that they decide it
        names = {"method": cell.setting.name, "rule": cell.setting.method.rule}
        names |= {"trained_in": cell.trained_in, "evaluated_in": cell.evaluated_in}
        content = {"trait": cell.trait, "shared": shared, "names": names}
        return self._once(
            RowTask,
            content,
            cell.title,
            needs=(base, own, *of_controls, *scores, *opened),
            cell=cell,
            base=base,
            own=own,
            controls=of_controls,
            scores=scores,
            opened=opened,
        )
