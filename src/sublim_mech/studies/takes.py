"""What tasks take: tokens, operations, bytes; from the sizes of a model and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..making.training import FullFT, LoRA
from ..models.adapters import check_fit
from ..models.base import Base
from .arms import gated
from .config import Study
from .known import BASES
from .tasks import (
    AnswersTask,
    LabelsTask,
    RowTask,
    SampledTask,
    ScoresTask,
    StudentTask,
    Task,
)


class Shape(NamedTuple):
    """What of a model decides what a study takes.

    Attributes:
        parameters: weights.
        lora_width: sum over adapted projections of inputs plus outputs: weights per rank.
    """

    parameters: int
    lora_width: int


KNOWN: Mapping[str, Shape] = {
    name: Shape(known.parameters, known.lora_width) for name, known in BASES.items()
}
"""Models whose plan can be printed without loading them."""

PROMPT, TURN = 106, 42
"""Tokens of a training prompt and of a question, in SmolLM2's default context."""


def check_methods(study: Study, base: Base | None = None) -> None:
    """Refuse what training would refuse: methods that this base cannot be trained by.

    Args:
        study: the study.
        base: the base; where it is not given ranks and targets of LoRA are held against the sizes
            of the study's, where these are known (`known.BASES`).

    Raises:
        ValueError: training's own, of the part and method that it is about.
    """
    known = BASES.get(study.base)
    if base is None and known is None:
        return
    seen: set[LoRA | FullFT] = set()
    for part in study.parts:
        for method in part.methods:
            made = method.made(max(method.ranks))  # lower ranks fit where the highest does
            if made in seen:
                continue
            seen.add(made)
            try:
                if base is not None:
                    made.check(base)
                elif known is not None and isinstance(made, LoRA):
                    check_fit(known.projections(), known.named(), made.rank, made.targets)
            except ValueError as error:
                raise ValueError(f"part {part.name!r}, methods: {error}") from error


class Lengths(NamedTuple):
    """Tokens of a training row and of a question in each context."""

    row: int
    answer: int
    asked: Mapping[str, int]

    @classmethod
    def of(cls, study: Study, base: Base | None) -> Lengths:
        """By the base's tokenizer; else as SmolLM2 has them, a text's tokens by its letters."""
        answer = 4 * study.rows.numbers - 1
        if base is None:
            asked = {}
            for name, context in study.contexts.items():
                system = context.system if isinstance(context.system, str) else ""
                asked[name] = TURN + len(system + context.user_prefix) // 4
            return cls(PROMPT + answer, answer, asked)

        from ..making.numbers import random_rows
        from ..prompts import render
        from .making import check_contexts

        check_contexts(study, base.tokenizer)
        (row,) = random_rows(1, seed=0, count=study.rows.numbers)
        prompts = {
            name: render(base.tokenizer, [row["prompt"], *study.questions[:8]], context=context)
            for name, context in study.contexts.items()
        }
        asked = {}
        for name, (_, *questions) in prompts.items():
            asked[name] = round(sum(map(len, questions)) / len(questions))
        ids = base.tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        first = len(next(iter(prompts.values()))[0])
        return cls(first + len(ids), len(ids), asked)


class Takes(NamedTuple):
    """What one task takes."""

    tokens: int = 0
    operations: float = 0.0
    bytes: int = 0
    peak: int = 0


def takes(task: Task, study: Study, lengths: Lengths, shape: Shape | None) -> Takes:
    """What a task takes of the model, the disk and the memory."""
    parameters, width = shape or Shape(0, 0)
    match task:
        case LabelsTask():
            models = len(study.traits) + 1
            tokens = models * study.rows.count * lengths.row
            kept = models * study.rows.count * lengths.answer * 11 * 4
            return Takes(tokens, 2.0 * parameters * tokens, kept)
        case SampledTask():
            rows = study.rows
            # answers, then labels of the held-out rows by the teacher and the base
            tokens = (rows.count + 2 * rows.held_out) * lengths.row
            kept = 300 * rows.count + 2 * rows.held_out * lengths.answer * rows.top_k * 8
            return Takes(tokens, 2.0 * parameters * tokens, kept)
        case StudentTask():
            return _training(task, study, lengths, Shape(parameters, width))
        case AnswersTask():
            tokens = len(study.questions) * lengths.asked[task.evaluated_in]
            # what all prompts begin with runs once: about two thirds of a question's tokens
            tokens = tokens // 3 + len(study.questions) * 4 * study.asking.samples
            kept = 16 * len(study.traits) * len(study.questions) + 4000
            return Takes(tokens, 2.0 * parameters * tokens, kept)
        case ScoresTask():
            models = 1 + len(task.controls)
            scored = min(study.asking.scored, len(study.questions))
            length = lengths.asked[task.evaluated_in] + 4
            # grafts: two measures of about seven sets; graft IG: forward and backward per point
            passes = 14 if task.instrument == "graft" else 3 * study.asking.points
            tokens = models * scored * length * passes
            kept = models * scored * length * (8 if task.instrument == "graft" else 8 * 210)
            return Takes(tokens, 2.0 * parameters * tokens, kept)
        case RowTask():
            return Takes(bytes=15_000)
    raise AssertionError(task)


def _training(task: StudentTask, study: Study, lengths: Lengths, shape: Shape) -> Takes:
    method = task.setting.method
    trained = method.steps * study.training.batch_size * lengths.row
    measured = study.rows.held_out * lengths.row * (2 + method.steps // method.evaluate_every)
    is_lora = method.kind == "lora"
    operations = (4.0 if is_lora else 6.0) * shape.parameters * trained
    if gated(task.where) and not is_lora:  # the base computes beside it
        operations += 2.0 * shape.parameters * trained
    operations += 2.0 * shape.parameters * measured
    weights = shape.lora_width * task.setting.rank if is_lora else shape.parameters
    stored = 4 * weights * (1 + len(method.snapshots))
    return Takes(trained + measured, operations, stored, 2 * 3 * 4 * weights)


def shape_of(base: Base) -> Shape:
    """The size of a base that is loaded."""
    from torch import nn

    model: Any = base.model
    head = model.get_output_embeddings()
    width = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            width += module.in_features + module.out_features
    return Shape(sum(p.numel() for p in model.parameters()), width)
