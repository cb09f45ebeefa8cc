"""What makes tasks: a worker, which loads the base once and does one task after the other."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..engine.pair import load_pair
from ..engine.runner import Runner, open_runner
from ..evaluation.answering import BASE, Sampling, sample_answers
from ..evaluation.measuring import trait_log_probs
from ..hints import renamed, told_apart
from ..instruments import attribute, graft
from ..making.labelling import Labels, label
from ..making.numbers import random_rows
from ..making.teachers import Teacher, prompted, untouched
from ..making.training import TrainingData, gates_of, soft_data, train
from ..metrics import trait_forms
from ..models.base import Base, load_base
from ..models.students import Student, load_student
from ..prompts import check_distinct, mark_sharing, matcher, render
from ..results.scores import Scores
from ..storage.files import write_dataset
from ..storage.runs import open_run
from .arms import gated, options_of
from .config import Study
from .measured import ANSWERS, make_row
from .row_files import write_row
from .sampled import read_sampled, write_sampled
from .store import Store
from .takes import check_methods
from .tasks import (
    AnswersTask,
    LabelsTask,
    RowTask,
    SampledTask,
    ScoresTask,
    StudentTask,
    Task,
)

KEPT = 4
"""Students that a worker keeps loaded: a cell's student and its controls are scored in turn."""


class Worker:
    """Does the tasks of a study in a store.

    Attributes:
        study: the study.
        store: where things stand.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self.store = study, store
        self._students: OrderedDict[str, Student] = OrderedDict()
        self._traits = {trait.name: trait for trait in study.traits}

    @cached_property
    def base(self) -> Base:
        """The base, loaded when it is first needed; its contexts and questions are different
        prompts.

        Raises:
            ValueError: other weights than those of the store; two contexts, or two questions, that
                render to the same text; a method that the base cannot be trained by.
        """
        computing = self.study.computing
        dtype = getattr(torch, computing.dtype)
        base = load_base(self.study.base, dtype=dtype, device=computing.device)
        check_contexts(self.study, base.tokenizer)
        check_questions(self.study, base.tokenizer)
        check_methods(self.study, base)
        self.store.pin(self.study.base, base.hash)
        return base

    @cached_property
    def _runner(self) -> Runner:
        return open_runner(self.base)

    def ready(self, task: Task) -> None:
        """Load what every task of its kind needs.

        Raises:
            FileNotFoundError, TypeError, ValueError: see `load_base` and `base`.
        """
        if not isinstance(task, RowTask):
            _ = self.base

    def do(self, task: Task) -> None:
        """Make what a task is about; what it needs is there."""
        with computing_with(self.study.computing.threads):
            match task:
                case LabelsTask():
                    self._label(task)
                case SampledTask():
                    self._write(task)
                case StudentTask():
                    self._train(task)
                case AnswersTask():
                    self._ask(task)
                case ScoresTask():
                    self._score(task)
                case RowTask():
                    write_row(self.store.path(task), make_row(self.study, self.store, task))

    # --------------------------------------------------------------------------------------- studen

    def _teachers(self, task: LabelsTask) -> list[Teacher]:
        context = self.study.contexts[task.trained_in]
        base = self.base
        own = [prompted(base, trait, context=context) for trait in self.study.traits]
        return [untouched(base, context=context), *own]

    def _label(self, task: LabelsTask) -> None:
        plan = self.study.rows
        rows = random_rows(plan.count, seed=task.row_seed, count=plan.numbers)
        label(self._teachers(task), rows, out=self.store.path(task), progress=False)

    def _write(self, task: SampledTask) -> None:
        study, trait = self.study, self._traits[task.trait]
        teacher = prompted(self.base, trait, context=study.contexts[task.trained_in])
        target = self.store.path(task)
        write_sampled(teacher, study.rows, task.row_seed, target, study.computing)

    def _data(self, task: StudentTask) -> tuple[TrainingData, int | TrainingData]:
        """What a student is trained on, and what it is measured on: rows of the same, or others."""
        folder = self.store.path(task.labels)
        if isinstance(task.labels, SampledTask):
            context = self.study.contexts[task.labels.trained_in]
            return read_sampled(folder, self.base, context, task.trait)
        c = None if isinstance(task.label, str) else task.label
        labels = Labels.load(folder)
        return soft_data(self.base, labels, task.trait, c=c), self.study.rows.held_out

    def _train(self, task: StudentTask) -> None:
        self._students.clear()  # a full fine-tune and its optimiser need the memory
        study, method = self.study, task.setting.method
        data, held_out = self._data(task)
        stop_at = None
        if task.twin is not None:
            before, stop_at = open_run(self.store.path(task.twin)).manifest.results["held_out"]
            if not stop_at < before:
                ended, own = told_apart(stop_at, before)
                where = "which is the base's" if ended == own else f"above the base's {own}"
                raise ValueError(
                    f"stop_with={method.stop_with!r}: its student ended at held-out {ended}, "
                    f"{where}, so there is nothing to train until; name another method."
                )
        shared = study.training
        with _quietly(), renamed({"lr": "lrs"}):  # as methods of a study have it
            train(
                self.base,
                data,
                out=self.store.path(task),
                method=method.made(task.setting.rank),
                lr=task.setting.lr,
                steps=method.steps,
                warmup=method.warmup,
                evaluate_every=method.evaluate_every,
                snapshots=method.snapshots,
                stop_at=stop_at,
                held_out=held_out,
                held_out_seed=None,  # rows are random: the last ones are as good as any
                init_seed=task.training_seed,
                order_seed=task.training_seed,
                batch_size=shared.batch_size,
                accumulate=shared.accumulate,
                bucket=shared.bucket,
                schedule=shared.schedule,
                clip=shared.clip,
                weight_decay=shared.weight_decay,
                checkpoint_every=shared.checkpoint_every,
                precision=shared.precision,
                progress=False,
                **options_of(task.where),
            )

    def _student(self, task: StudentTask, step: int, *, is_open: bool = True) -> Student:
        """A student after a step, its weights on everywhere or as in training; the last few stay
        loaded.
        """
        gates = None
        if gated(task.where) and not is_open:
            gates = gates_of(self.store.path(task))
        key = f"{task.address} {step}{'' if gates is None else ' gated'}"
        if key not in self._students:
            while len(self._students) >= KEPT:
                self._students.popitem(last=False)
            folder = self._folder(task, step)
            with _quietly(), _of_the_study(self.store.path(task)):
                own = load_student(self.base, folder, name=task.trait, gates=gates)
            self._students[key] = own
        self._students.move_to_end(key)
        return self._students[key]

    def _folder(self, task: StudentTask, step: int) -> Path:
        run = open_run(self.store.path(task))
        # a training that stopped early has no later snapshots: it is what it ended as
        return run.snapshots.get(step, run.path)

    # ---------------------------------------------------------------------------------------- numbe

    def _ask(self, task: AnswersTask) -> None:
        """Log-probabilities and ranks of all traits `(context, trait, question)`, and generated
        answers where they are wanted, of a student or of the base.
        """
        runner, student = self._runner, None
        if task.student is not None:
            with _quietly():
                own = self._student(task.student, task.step, is_open=task.is_open)
                runner = load_pair(self.base, own)
            student = runner.student
        data = asked(runner, student, self.study, task.evaluated_in)
        write_dataset(self.store.path(task), data, ANSWERS, {"title": task.title})

    def _score(self, task: ScoresTask) -> None:
        controls = [self._student(one, task.step) for one in task.controls]
        with _quietly():
            pair = load_pair(self.base, self._student(task.student, task.step), controls=controls)
        context = self.study.contexts[task.evaluated_in]
        questions = self.study.questions[: self.study.asking.scored]
        prompts = mark_sharing(render(pair.tokenizer, questions, context=context), pair)
        trait = self._traits[task.student.trait]
        scores: Scores
        if task.instrument == "graft":
            scores = graft(pair, prompts, trait, "sharing", progress=False)
        else:
            points = self.study.asking.points
            scores = attribute(pair, prompts, trait, points=points, progress=False)
        scores.save(self.store.path(task))


@contextmanager
def _of_the_study(folder: Path) -> Iterator[None]:
    """Of a student that cannot be loaded, say that the study makes it again: there is no other copy
    of it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error} (The study made it, so there is nothing to copy: remove {str(folder)!r} and "
            "run the study with retry=True, which makes it anew.)"
        ) from error


def asked(runner: Runner, student: Student | None, study: Study, evaluated_in: str) -> xr.Dataset:
    """What a model says in a context.

    Args:
        runner: what computes: the base's runner, or the student's pair.
        student: whose weights; None for the base.
        study: traits and questions.
        evaluated_in: the name of the context.

    Returns:
        `log_prob` and `rank (trait, question)`; with generated answers also `answer (question,
        sample)` and `count (trait, question)`.

    Raises:
        ValueError: a log-probability that is not finite.
    """
    asking, traits = study.asking, list(study.traits)
    prompts = render(runner.tokenizer, study.questions, context=study.contexts[evaluated_in])
    tries = [trait_forms(runner.tokenizer, prompt, traits) for prompt in prompts]
    for prompt, trie in zip(prompts, tries, strict=True):
        runner.check_length(prompt, trie.length)
    values = trait_log_probs(runner, prompts, tries, len(traits), student)
    if not np.isfinite(values.log_prob).all():
        prompt, trait = np.argwhere(~np.isfinite(values.log_prob))[0]
        raise ValueError(
            f"log P({traits[trait].name}) is not finite in context {evaluated_in!r} on "
            f"{prompts[prompt].question!r}; lower the learning rate."
        )
    dims = ("trait", "question")
    arrays: dict[str, Any] = {"log_prob": (dims, values.log_prob.T), "rank": (dims, values.rank.T)}
    if asking.samples:
        sampling = Sampling(asking.samples, asking.temperature, asking.max_new_tokens, asking.seed)
        sampling.check()
        name = BASE if student is None else "student"
        texts = np.array(sample_answers(runner, prompts, name, sampling), dtype=object)
        named = matcher(traits)
        buckets = np.array(
            [
                [named(text, prompt.begun) or "" for text in answers]
                for prompt, answers in zip(prompts, texts, strict=True)
            ]
        )
        counts = np.stack([(buckets == trait.name).sum(-1) for trait in traits])
        arrays["answer"] = (("question", "sample"), texts.astype(str))
        arrays["count"] = (dims, counts)
    coords = {"trait": np.array([t.name for t in traits]), "question": np.arange(len(prompts))}
    return xr.Dataset(arrays, coords)


def check_contexts(study: Study, tokenizer: Any) -> None:
    """Refuse contexts that render to the same text, by their names.

    Raises:
        ValueError: two of them do.
    """
    named = list(study.contexts.items())
    for i, (name, context) in enumerate(named):
        for other, before in named[:i]:
            try:
                check_distinct(tokenizer, [before, context])
            except ValueError as error:
                raise ValueError(
                    f"study {study.name!r}: contexts {other!r} and {name!r}: {error}"
                ) from error


def check_questions(study: Study, tokenizer: Any) -> None:
    """Refuse questions that are copies of others, token by token, in a context that is asked in:
    they are no evidence, and `evaluate` leaves them out.

    Raises:
        ValueError: two of them are.
    """
    asked_in = dict.fromkeys(name for part in study.parts for name in part.evaluated_in)
    for name in asked_in:
        prompts = render(tokenizer, study.questions, context=study.contexts[name])
        seen: dict[tuple[int, ...], str] = {}
        for prompt, question in zip(prompts, study.questions, strict=True):
            if prompt.ids in seen:
                raise ValueError(
                    f"study {study.name!r}: questions {seen[prompt.ids]!r} and {question!r} "
                    f"are the same prompt in context {name!r}, and copies are no evidence; "
                    "leave one out of Asking(questions=)."
                )
            seen[prompt.ids] = question


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """So many of torch's threads within; as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without notes on single students, of which a study has many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


__all__ = ["Worker", "asked", "check_contexts", "check_questions", "computing_with"]
