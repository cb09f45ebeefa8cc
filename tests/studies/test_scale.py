"""Many runs: what the machinery itself takes."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.studies import Part, Tasks
from sublim_mech.studies.making import Worker
from sublim_mech.studies.row_files import read_rows, write_row
from sublim_mech.studies.tasks import AnswersTask, LabelsTask, RowTask

pytestmark = pytest.mark.science


def test_500_students_take_less_than_50_ms_a_run_beside_training(
    made, base_folder, tmp_path, monkeypatch
):
    tasks = Tasks(made.study)
    first = {}
    for task in tasks.ordered:
        kind = f"{task.stage} of base" if isinstance(task, AnswersTask) and task.student is None \
            else task.stage  # fmt: skip
        first.setdefault(kind, made.out / task.file)
    inside = 0.0
    do = Worker.do

    def copies(self, task):
        """Stands for training and asking."""
        nonlocal inside
        if isinstance(task, RowTask):
            do(self, task)
            return
        begun = time.monotonic()
        kind = task.stage
        if isinstance(task, AnswersTask) and task.student is None:
            kind = f"{kind} of base"
        copy = shutil.copytree if first[kind].is_dir() else shutil.copy
        if isinstance(task, LabelsTask):
            shutil.rmtree(self.store.path(task), ignore_errors=True)
        copy(first[kind], self.store.path(task))
        inside += time.monotonic() - begun

    monkeypatch.setattr(Worker, "do", copies)
    study = small_study(base_folder, Part(name="p", methods=[R2], training_seeds=range(250)))
    begun = time.monotonic()
    rows = studies.run(study, tmp_path / "out", progress=False)
    seconds = time.monotonic() - begun - inside
    print(f"{1000 * seconds / len(rows):.1f} ms a run")
    assert len(rows) == 500
    assert seconds / len(rows) < 0.05


def test_12864_runs_open_in_10_seconds_and_in_2_with_the_index(tmp_path):
    random = np.random.default_rng(0)
    for number in range(12_864):
        row = {"run": f"{number:024x}", "trait": "owl"}
        row |= {f"text {k}": "some words" for k in range(15)}
        row |= {f"number {k}": float(random.normal()) for k in range(85)}
        row |= {f"{k} by question": random.normal(size=50).tolist() for k in ("change", "control")}
        write_row(tmp_path / f"rows/{number:024x}.parquet", row)
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        found = read_rows(tmp_path / "rows", tmp_path / "index.parquet")
        assert len(found.table.to_pandas()) == 12_864
        seconds.append(time.monotonic() - begun)
    print(f"{seconds[0]:.1f} s without the index, {seconds[1]:.2f} s with it")
    assert seconds[0] < 10
    assert seconds[1] < 2
