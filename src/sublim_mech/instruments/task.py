"""A task: models, prompts and a metric, and the walk over students and prompts that all instruments
share.

1. A `Task` knows what is fed and read for each prompt (`batch`) and what the logits say (`value`).
2. `measure` gives the metric of many rows, each a prompt under gates of its own; `ends` that of
   base and student.
3. `walk` asks an instrument for its cells, student by student, and stacks what it gives over
   students and prompts; with a folder to keep them in, prompt by prompt (`keeping`).

An instrument is then its question, its cells, and one function that measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import shown
from ..engine.answers import Answers
from ..engine.batch import Batch
from ..engine.beginnings import Row, forwards, stack_gates
from ..engine.forward import Gates
from ..engine.own_gates import closed, own_gates, refuse_gates, within
from ..engine.pair import ModelPair
from ..hints import called, counted
from ..metrics import Metric, NextToken, TraitMetric, as_metric
from ..models.students import Student
from ..prompts import Prompt, Trait
from ..prompts.notices import said_once
from ..results.record import Compute
from . import keeping

Advance = Callable[[int], object]
"""Move the progress bar on by so many steps."""


def still(steps: int) -> None:
    """An `Advance` where there is no bar."""


@dataclass(frozen=True)
class Task:
    """A pair, prompts and what is measured on them.

    Attributes:
        pair: the models.
        prompts: the prompts.
        answers: what is fed after each prompt, and which slots are read.
        metric: what is measured.
        places: of each prompt, where it stands among those that were given: copies are left out.
        copies: how many were left out.
        unread: how many of these differ from an earlier one behind the last token read alone.
    """

    pair: ModelPair
    prompts: tuple[Prompt, ...]
    answers: tuple[Answers, ...]
    metric: Metric
    places: tuple[int, ...] = ()
    copies: int = 0
    unread: int = 0
    _base_logits: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)
    # (with the student, so that its id stays its own)
    _own: dict[tuple[int, int], tuple[Student, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.places:  # made without `prepare`: nothing was left out
            object.__setattr__(self, "places", tuple(range(len(self.prompts))))

    @property
    def reads(self) -> int:
        """Most slots read in a row."""
        return max(trie.reads for trie in self.answers)

    @property
    def feeds_answers(self) -> bool:
        """Whether any token of an answer is fed: the last one is read alone."""
        return any(trie.nodes for trie in self.answers)

    def only(self, prompts: Sequence[int]) -> Task:
        """The task of these prompts alone, which knows nothing of the others."""
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in prompts),
            answers=tuple(self.answers[i] for i in prompts),
            places=tuple(self.places[i] for i in prompts),
            _base_logits={},
            _own={},
        )

    def size(self, prompt: int) -> int:
        """Slots of a prompt: its tokens and the nodes of its answer trie."""
        return len(self.prompts[prompt]) + len(self.answers[prompt].nodes)

    def sizes(self) -> list[int]:
        """Slots of every prompt."""
        return [self.size(prompt) for prompt in range(len(self.prompts))]

    def computed(self, prompt: int) -> int:
        """Tokens that are computed for a prompt with its answers."""
        return self.pair.layout.slots(len(self.prompts[prompt]), self.answers[prompt])

    def batch(self, indices: Sequence[int]) -> Batch:
        """These prompts with their answers as rows of one forward."""
        ids = [self.prompts[i].ids for i in indices]
        return self.pair.batch(ids, [self.answers[i] for i in indices])

    def own_gates(self, student: Student, prompt: int) -> Float[Tensor, "slot cell"] | None:
        """The gates a student brings with it at a prompt's slots; None where it acts everywhere."""
        key = id(student), prompt
        if key not in self._own:
            asked, nodes = self.prompts[prompt], len(self.answers[prompt].nodes)
            found = own_gates(self.pair.sites, student, asked, nodes)
            if found is None:
                return None
            self._own[key] = student, found
        return self._own[key][1]

    def gates(
        self,
        student: Student,
        indices: Sequence[int],
        values: Tensor | float = 1.0,
        *,
        first: int = 0,
    ) -> Gates:
        """A student's gates in rows, each of a prompt; what its own gates close stays closed.

        Args:
            student: whose weights.
            indices: per row, its prompt.
            values: a number, `(row, slot)` or `(row, slot, cell)`, of the slots from `first` on.
            first: the first slot.
        """
        own = [self.own_gates(student, i) for i in indices]
        if isinstance(values, Tensor):
            slots = values.shape[1]
        else:
            slots = max(map(self.size, indices)) - first
        device = self.pair.device
        return within(student, own, values, slots=slots, first=first, device=device)

    def value(
        self, indices: Sequence[int], logits: Float[Tensor, "row read vocab"]
    ) -> Float[Tensor, "row"]:
        """The metric, where row r of the logits belongs to prompt `indices[r]`; differentiable
        where the metric is.
        """
        answers = [self.answers[i] for i in indices]
        base = self._base(indices).to(logits.device) if self.metric.needs_base else None
        values = self.metric.read(logits, answers, base)
        is_tensor = isinstance(values, Tensor) and not values.is_complex()
        if not is_tensor or values.shape != (len(indices),):
            shape = f" of shape {tuple(values.shape)}" if isinstance(values, Tensor) else ""
            raise TypeError(
                f"metric {self.metric.name!r}: read gives {shown(values)}{shape} for "
                f"{counted(len(indices), 'row')}; it has to give a tensor (row,) with one number "
                "per row."
            )
        asked = torch.is_grad_enabled() and logits.requires_grad
        if asked and self.metric.differentiable and not values.requires_grad:
            raise ValueError(
                f"metric {self.metric.name!r}: read gives numbers that no gradient comes through "
                "(a constant, argmax, detach, item); keep them differentiable, or say "
                "differentiable = False and use graft, graft_sweep or patch."
            )
        return values

    def numbers(
        self, indices: Sequence[int], logits: Float[Tensor, "row read vocab"]
    ) -> np.ndarray:
        """`value` as float64 `(row,)`."""
        values = self.value(indices, logits).detach().cpu().double().numpy()
        self.pair.settle(*self.pair.students.values())
        return values

    def _base(self, indices: Sequence[int]) -> Float[Tensor, "row read vocab"]:
        """The base's logits at the read slots, computed once per prompt; rows with fewer reads
        repeat their first, as the rows of a batch do.
        """
        for i in dict.fromkeys(indices):
            if i not in self._base_logits:
                with torch.no_grad():
                    self._base_logits[i] = self.pair.run(self.batch([i])).logits[0]
        rows = [self._base_logits[i] for i in indices]
        most_reads = max(map(len, rows))
        padded = [torch.cat([row, row[:1].expand(most_reads - len(row), -1)]) for row in rows]
        return torch.stack(padded)

    def check_finite(self, values: np.ndarray, prompts: Sequence[int]) -> None:
        """Raise a ValueError that names the prompt of the first value that is NaN or infinite.

        Args:
            values: `(row, ...)`.
            prompts: per row, the index of its prompt.
        """
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if not finite.all():
            first_row = int(np.argmin(finite))
            question = self.prompts[prompts[first_row]].question
            own = "the trait's forms" if isinstance(self.metric, TraitMetric) else "the metric"
            raise ValueError(
                f"{self.metric.name} is not finite on prompt {question!r}; check the models' "
                f"dtype, compute= and {own}."
            )


@said_once()
def prepare(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    trait: Trait | Metric,
    *,
    donors: Sequence[Prompt] | None = None,
    keeps_gates: bool = False,
) -> Task:
    """Tokenise the answers, and leave out copies.

    A copy is a prompt whose tokens and answers are those of an earlier one, and whose donor's
    tokens are: it gives the same numbers again, which are no evidence. So does a prompt that has
    the same tokens up to the last one that the metric reads. Means, intervals and tests are over
    what is left.

    Args:
        pair: the models.
        prompts: rendered prompts.
        trait: what is measured.
        donors: where prompts take something from other prompts: one per prompt.
        keeps_gates: whether all rows of students are under `Task.gates`, as those of `measure`
            are: within the gates that students bring with them.

    Raises:
        TypeError, ValueError: see `Runner.check_prompts` and `as_metric`; a form without tokens;
            answers that read beyond the prompt; a prompt that is with its answers longer than the
            model.
    """
    pair.check_prompts(prompts)
    if not keeps_gates:
        refuse_gates(pair.students.values(), called())
    if donors is not None:
        pair.check_prompts(donors)
    metric = as_metric(trait)
    beside = [()] * len(prompts) if donors is None else [donor.ids for donor in donors]
    seen, places, answers = set(), [], []
    distinct = set()
    for place, (prompt, donor) in enumerate(zip(prompts, beside, strict=True)):
        trie = metric.answers(pair.tokenizer, prompt)
        if not isinstance(trie, Answers):
            raise TypeError(
                f"metric {metric.name!r}: answers gives {shown(trie)} for the prompt "
                f"{prompt.question[:60]!r}; it has to give Answers, such as "
                "metrics.strings(tokenizer, prompt, ['yes', 'no'])."
            )
        beyond = [place for place in trie.at if not 0 <= place < len(prompt)]
        if beyond:
            raise ValueError(
                f"metric {metric.name!r}: answers reads position {beyond[0]} of the prompt "
                f"{prompt.question[:60]!r}, which has {len(prompt)} tokens; Answers(at=...) takes "
                f"0 to {len(prompt) - 1}."
            )
        pair.check_length(prompt, trie.length)
        read = prompt.ids[: _tokens_read(metric, prompt, trie)]
        computed = (read, donor, repr(trie))
        distinct.add((prompt.ids, donor, repr(trie)))
        if computed not in seen:
            seen.add(computed)
            places.append(place)
            answers.append(trie)
    kept = tuple(prompts[place] for place in places)
    return Task(
        pair,
        kept,
        tuple(answers),
        metric,
        places=tuple(places),
        copies=len(prompts) - len(kept),
        unread=len(distinct) - len(kept),
    )


def donors_of(task: Task, donors: Sequence[Prompt]) -> Task:
    """The task of the donors of a task's prompts; one of them may serve several.

    Args:
        task: as `prepare` gave it with these donors.
        donors: one per prompt that was given to it.
    """
    chosen = tuple(donors[place] for place in task.places)
    answers = tuple(task.metric.answers(task.pair.tokenizer, donor) for donor in chosen)
    for donor, trie in zip(chosen, answers, strict=True):
        task.pair.check_length(donor, trie.length)
    return replace(task, prompts=chosen, answers=answers, _base_logits={}, _own={})


# -------------------------------------------------------------------------------------------- gates


class GatedRow(NamedTuple):
    """A row of a forward: a prompt, and its gates.

    Attributes:
        prompt: its index.
        gates: `(slot,)` for all modules alike, `(slot, module)`, or 0.0 / 1.0 for all slots and
            modules.
    """

    prompt: int
    gates: Tensor | float


@torch.no_grad()
def measure(
    task: Task, student: Student, rows: Sequence[GatedRow], *, advance: Advance = still
) -> np.ndarray:
    """The metric of each row, `(row,)` float64.

    Args:
        task: what is measured.
        student: whose gates.
        rows: prompt and gates of each row; rows of like length go together. Where the student
            brings gates of its own, what they close stays closed.
        advance: called with the number of rows that are done.

    Raises:
        ValueError: the metric is NaN or infinite.
    """
    values = np.empty(len(rows))
    if student.gates is not None:
        rows = _within(task, student, rows)
    run = [Row(task.prompts[i].ids, task.answers[i], gates) for i, gates in rows]
    for chunk, shared, past in forwards(task.pair, student, run, reads=task.reads):
        prompts = [rows[r].prompt for r in chunk]
        batch = task.batch(prompts)
        gates = stack_gates([rows[r].gates for r in chunk], batch.ids.shape)
        gates = gates[:, shared:].to(batch.ids.device)
        behind = batch.after(shared) if shared else batch
        done = task.pair.run(behind, gates=Gates(student, gates), past=past)
        values[chunk] = task.numbers(prompts, done.logits)
        advance(len(chunk))
    task.check_finite(values, [row.prompt for row in rows])
    return values


def _within(task: Task, student: Student, rows: Sequence[GatedRow]) -> list[GatedRow]:
    """Rows with everything closed that the student's own gates close."""
    within_own = []
    for i, gates in rows:
        own = task.own_gates(student, i)
        assert own is not None
        within_own.append(GatedRow(i, closed(own, gates)))
    return within_own


class Ends(NamedTuple):
    """The metric of the base and of a student, `(prompt,)` each."""

    base: np.ndarray
    student: np.ndarray


def ends(task: Task, student: Student, *, advance: Advance = still) -> Ends:
    """The metric of the base and of the student on every prompt."""
    count = len(task.prompts)
    rows = [GatedRow(i, gate) for gate in (0.0, 1.0) for i in range(count)]
    values = measure(task, student, rows, advance=advance)
    return Ends(values[:count], values[count:])


# --------------------------------------------------------------------------------------------- walk


class Cells(NamedTuple):
    """What an instrument measured of one student.

    Attributes:
        effects: per prompt, an array of its cells; the last axis may be longer for some prompts
            than for others.
        ends: the metric of base and student.
        told: what else is known of each prompt, `(prompt, ...)` by the name it has in the scores.
    """

    effects: Sequence[np.ndarray]
    ends: Ends
    told: Mapping[str, np.ndarray] = {}


@dataclass(frozen=True)
class Measured:
    """What an instrument measured of all students.

    Attributes:
        task: of what.
        effect: `(model, prompt, <cells>)`, NaN past a shorter prompt.
        base, student: `(model, prompt)`, the metric of the two.
        compute: what the floating-point type costs, where it is not that of the weights.
        told: what else is known, `(model, prompt, ...)`.
    """

    task: Task
    effect: np.ndarray
    base: np.ndarray
    student: np.ndarray
    compute: Compute | None = None
    told: Mapping[str, np.ndarray] = field(default_factory=dict)


class Part(NamedTuple):
    """Some prompts of a task, which are measured together.

    Attributes:
        task: of these prompts alone.
        numbers: of each, its number in the whole task.
    """

    task: Task
    numbers: Sequence[int]


MeasureCells = Callable[[Student, Part, Advance], Cells]
"""Give the cells of one student on some prompts, and move the bar on."""


@dataclass(frozen=True)
class Keep:
    """Where finished prompts are stored.

    Attributes:
        folder: the folder; None for nowhere.
        asked: what the instrument was asked for of a prompt: whatever decides its cells, beside
            models, prompt, answers and metric.
    """

    folder: Path | None
    asked: Callable[[int], Any]


@said_once()
def walk(
    task: Task,
    cells: MeasureCells,
    *,
    title: str,
    steps: Sequence[int],
    progress: bool,
    keep: Keep | None = None,
) -> Measured:
    """Measure the cells of every student.

    Args:
        task: what is measured.
        cells: gives the cells of one student on some prompts.
        title: of the progress bar, and of the instrument where its units are kept.
        steps: of the bar, per prompt of a student.
        progress: show it.
        keep: where finished prompts are stored; all prompts are measured together when not given.
    """
    students = list(task.pair.students.values())
    total = sum(steps) * len(students)
    with tqdm(total=total, desc=title, disable=not progress) as bar:
        if keep is None or keep.folder is None:
            everything = Part(task, range(len(task.prompts)))
            measured = [cells(student, everything, bar.update) for student in students]
        else:
            measured = []
            for student in students:
                units = []
                for i, count in enumerate(steps):
                    unit, found = _unit(
                        task, student, i, cells, keep=keep, title=title, advance=bar.update
                    )
                    bar.update(count if found else 0)
                    units.append(unit)
                effects = [unit.effects[0] for unit in units]
                both = [
                    np.concatenate(values) for values in zip(*(u.ends for u in units), strict=True)
                ]
                told = {
                    name: np.concatenate([unit.told[name] for unit in units])
                    for name in units[0].told
                }
                measured.append(Cells(effects, Ends(*both), told))
    effects = [pad_stack(one.effects) for one in measured]  # per student, (prompt, <cells>)
    return Measured(
        task,
        effect=pad_stack(effects),
        base=np.stack([one.ends.base for one in measured]),
        student=np.stack([one.ends.student for one in measured]),
        compute=compute_cost(task),
        told={name: np.stack([one.told[name] for one in measured]) for name in measured[0].told},
    )


def _unit(
    task: Task,
    student: Student,
    number: int,
    cells: MeasureCells,
    *,
    keep: Keep,
    title: str,
    advance: Advance,
) -> tuple[Cells, bool]:
    """The cells of one student on one prompt, and whether they were found in the folder."""
    assert keep.folder is not None
    part = Part(task.only([number]), [number])
    prompt, answers = part.task.prompts[0], part.task.answers[0]
    options = [title, keep.asked(number)]
    name = keeping.unit_name(task.pair, student, task.metric, (prompt, answers), options)
    found = keeping.find(keep.folder, name, prompt.question)
    if found is not None:
        keeping.check_unchanged(task.pair, student)
        effect, base, of_student = (found.pop(name) for name in ("effect", "base", "student"))
        return Cells([effect], Ends(base, of_student), found), True
    done = cells(student, part, advance)
    arrays = {"effect": done.effects[0], "base": done.ends.base, "student": done.ends.student}
    arrays |= done.told
    keeping.store(
        keep.folder, name, arrays, instrument=title, model=student.name, prompt=prompt.question
    )
    return done, False


def pad_stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of one rank as one array with an axis in front, each filled up with NaN at the end of
    its axes.
    """
    shape = np.max([array.shape for array in arrays], axis=0).astype(int)
    stacked = np.full((len(arrays), *shape), np.nan)
    for number, array in enumerate(arrays):
        inside = tuple(slice(length) for length in array.shape)
        stacked[number, ...][inside] = array
    return stacked


def compute_cost(task: Task, *, prompts: int = 4) -> Compute | None:
    """What the pair's compute type costs; None where it is that of the weights.

    Its error is the largest difference of a total effect from that in the weights' own type, on the
    first few prompts.
    """
    if task.pair.compute is None:
        return None
    few = Task(task.pair, task.prompts[:prompts], task.answers[:prompts], task.metric)
    # the base logits that `few` keeps are rounded ones: the exact task keeps its own
    exact = replace(few, pair=replace(task.pair, compute=None), _base_logits={})
    errors = []
    for student in task.pair.students.values():
        rounded_ends, exact_ends = ends(few, student), ends(exact, student)
        rounded_effect = rounded_ends.student - rounded_ends.base
        exact_effect = exact_ends.student - exact_ends.base
        errors.append(np.abs(rounded_effect - exact_effect).max())
    dtype = str(task.pair.compute).removeprefix("torch.")
    return Compute(dtype, float(max(errors)))


def _tokens_read(metric: Metric, prompt: Prompt, answers: Answers) -> int:
    """How many of a prompt's first tokens a metric's number can depend on: where it reads tokens
    before the last one alone, nothing behind these moves it. All of them of a metric of one's own,
    of which nobody knows which slots its `read` uses.
    """
    return max(answers.at) + 1 if isinstance(metric, NextToken) else len(prompt)
