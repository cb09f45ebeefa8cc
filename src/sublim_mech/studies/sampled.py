"""Rows that a teacher writes itself, and what students of them are measured on.

    sampled/<address>/
      rows.jsonl     number prompts and answers that passed the filter, in the order of asking
      held_out/      the last of these rows, labelled by the teacher that wrote them
      about.json     who wrote, how many answers were drawn, why the others were rejected

1. The teacher answers number prompts until enough answers pass `numbers.parse` (Cloud et al.,
   arXiv 2507.14805).
2. Answers are kept batch by batch until all rows are there: a killed process loses one batch.
3. Students are trained on these rows by cross-entropy. How well they imitate their teacher is told
   by KL(teacher || student), as of students of labels: the rows that are held out are labelled by
   the teacher in its own context, over its likeliest tokens.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..making.labelling import Labels, label
from ..making.numbers import as_rows, write_rows
from ..making.numbers.writing import TooFewRowsError
from ..making.rows import Row
from ..making.teachers import Teacher, sampler, vllm_sampler, vllm_version
from ..making.training import TrainingData, hard_data, soft_data
from ..models.base import Base
from ..prompts import Context
from ..storage.files import read_json, replacing
from ..storage.runs import unfinished
from .options import Computing, RowPlan

ROWS_FILE, ABOUT_FILE, ANSWERS_FILE, HELD_OUT = (
    "rows.jsonl", "about.json", "answers.jsonl", "held_out",
)  # fmt: skip
SAMPLED_FORMAT = 1

BATCH = 512
"""Prompts that a teacher is asked at once, and what a killed process loses at most."""

Writer = Callable[[list[str], int], list[str | None]]
"""One answer to each of some prompts, of a seed."""


def write_sampled(
    teacher: Teacher, plan: RowPlan, seed: int, target: Path, computing: Computing
) -> None:
    """Have a teacher write rows, and label those that are held out.

    Args:
        teacher: who writes.
        plan: how many rows, how they are drawn.
        seed: of prompts and answers.
        target: the folder, which appears when everything is there.
        computing: where the model is.

    Raises:
        ModuleNotFoundError: vLLM is asked for, and is not installed.
        RuntimeError: too few answers pass; vLLM's log-probabilities are not the teacher's.
    """
    work = unfinished(target)
    work.mkdir(parents=True, exist_ok=True)
    with _writer(teacher, plan, computing) as (who, write):
        try:
            rows, report = write_rows(
                _kept(write, work / ANSWERS_FILE),
                plan.count,
                seed=seed,
                count=plan.numbers,
                batch_size=min(BATCH, plan.count),
            )
        except TooFewRowsError as error:
            raise RuntimeError(f"{error.found} {_advice(error, plan)}") from error
    records = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    with replacing(work / ROWS_FILE) as file:
        file.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")

    vocabulary = len(teacher.base.model.get_input_embeddings().weight)  # type: ignore[operator]
    held = records[-plan.held_out :]
    top_k = min(plan.top_k, vocabulary)
    labelled: dict[str, Any] = {"support": None} if top_k is None else {"top_k": top_k}
    label([teacher], held, **labelled, out=work / HELD_OUT, progress=False)
    counts = {str(reason): int(number) for reason, number in report["count"].items()}
    about = {
        "format": SAMPLED_FORMAT,
        "teacher": teacher.name,
        "how": teacher.how,
        "sampler": who,
        "asked": sum(counts.values()),
        "passed": len(records),
        "report": counts,
    }
    with replacing(work / ABOUT_FILE) as file:
        file.write_text(json.dumps(about, indent=1), "utf-8")
    (work / ANSWERS_FILE).unlink(missing_ok=True)
    if target.exists():  # nobody else makes it: what a killed process left
        shutil.rmtree(target)
    os.replace(work, target)


def _advice(error: TooFewRowsError, plan: RowPlan) -> str:
    """What of a study lets more answers pass."""
    fewer = f"RowPlan(numbers={plan.numbers}, temperature={plan.temperature:g})"
    if error.cut_off:
        longer = f"raise RowPlan(max_new_tokens={plan.max_new_tokens})"
        return f"Most were cut off: {longer}, or lower one of {fewer}."
    return f"Lower one of {fewer}, or take a base that follows instructions."


@contextmanager
def _writer(teacher: Teacher, plan: RowPlan, computing: Computing) -> Iterator[tuple[str, Writer]]:
    """Who draws answers, in words and as a function."""
    how: dict[str, Any] = {
        "max_new_tokens": plan.max_new_tokens,
        "temperature": plan.temperature,
    }
    version = vllm_version()
    wanted = plan.sampler == "auto" and computing.device != "cpu" and version is not None
    if plan.sampler == "vllm" or wanted:
        with vllm_sampler(teacher, **how) as write:
            yield f"vllm {version}", write
    else:
        yield "own", sampler(teacher, **how)


def _kept(write: Writer, path: Path) -> Writer:
    """A writer whose answers are kept in a file: what was drawn before is not drawn again."""
    drawn: dict[int, list[str | None]] = {}
    if path.is_file():
        for line in path.read_text("utf-8").split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                break  # what a killed process left half, and the end
            drawn[entry["seed"]] = entry["answers"]
        lines = [json.dumps({"seed": seed, "answers": said}) for seed, said in drawn.items()]
        with replacing(path) as file:
            file.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def answers(prompts: list[str], seed: int) -> list[str | None]:
        if seed not in drawn:
            drawn[seed] = write(prompts, seed)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"seed": seed, "answers": drawn[seed]}) + "\n")
        return drawn[seed]

    return answers


class SampledData(NamedTuple):
    """What a student of written rows is trained and measured on.

    Attributes:
        trained: the rows, by cross-entropy.
        held_out: rows that are not trained on, with their teacher's own probabilities.
    """

    trained: TrainingData
    held_out: TrainingData


def read_sampled(folder: Path, base: Base, context: Context, trait: str) -> SampledData:
    """What a teacher wrote.

    Args:
        folder: what `write_sampled` made.
        base: the base of the students.
        context: the context of training.
        trait: the teacher's.

    Raises:
        FileNotFoundError, ValueError: no such folder, or a damaged one.
    """
    about = _about(folder)
    labels = Labels.load(folder / HELD_OUT)
    rows: list[Row] = as_rows(str(folder / ROWS_FILE), name="sampled rows")[: -len(labels.rows)]
    data = hard_data(base, rows, context=context, trait=trait)
    return SampledData(
        replace(data, teacher=f"rows that a {about['how']} wrote"),
        soft_data(base, labels, trait, c=None),
    )


def columns_of(folder: Path) -> dict[str, Any]:
    """What a row keeps of the rows that its student was trained on."""
    about = _about(folder)
    return {f"sampled {name}": about[name] for name in ("asked", "passed")} | {
        "sampled by": about["sampler"]
    }


def _about(folder: Path) -> dict[str, Any]:
    return read_json(
        folder / ABOUT_FILE,
        SAMPLED_FORMAT,
        called=f"the sampled rows {str(folder)!r}",
        fix="copy it again, or run the study in another folder",
    )
