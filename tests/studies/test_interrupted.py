"""Interrupted, failed and unfinished: what the command line and the runs say of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.studies import Part, Tasks
from sublim_mech.studies.making import Worker
from sublim_mech.studies.store import Store
from sublim_mech.studies.tasks import StudentTask


@pytest.fixture
def file(made, tmp_path):
    studies.write_study(made.study, tmp_path / "study.toml")
    return str(tmp_path / "study.toml")


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made.out, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("words", "where", "again"),
    [
        (["run", "quick", "--out", "o"], "studies.command.run", "goes on"),
        (["plan", "quick"], "studies.command.plan", "begins anew"),
        (["verify", "base", "student"], "__main__.check_students", "begins anew"),
    ],
)
def test_an_interrupt_is_one_line(words, where, again, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"sublim_mech.{where}", interrupted)
    assert main(words) == 130
    told = capsys.readouterr()
    assert told.err == f"interrupted; the same command {again}\n"
    assert told.out == ""


@pytest.mark.science
def test_an_interrupted_run_ends_its_workers_and_goes_on(base_folder, tmp_path):
    """As a terminal has it: every process gets the signal."""
    study = small_study(base_folder, Part(name="p", methods=[R2], row_seeds=[0, 1, 2]))
    studies.write_study(study, tmp_path / "study.toml")
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "sublim_mech", "run", str(tmp_path / "study.toml"), "--out",
               str(tmp_path / "out"), "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "out" / "students").glob("*")) and time.monotonic() < until:
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; the same command goes on"
    assert "Traceback" not in said
    assert not any(worker.is_running() for worker in workers)
    studies.run(study, tmp_path / "out", progress=False)
    assert studies.status(study, tmp_path / "out").finished


def test_who_stops_with_a_student_that_learnt_nothing_is_told_by_its_own_key(made, monkeypatch):
    task = next(
        task for task in Tasks(made.study).ordered if isinstance(task, StudentTask) and task.twin
    )
    twin = SimpleNamespace(manifest=SimpleNamespace(results={"held_out": [0.48299, 0.649145]}))
    monkeypatch.setattr("sublim_mech.studies.making.open_run", lambda path: twin)
    monkeypatch.setattr(Worker, "_data", lambda self, task: (None, 4))
    with pytest.raises(
        ValueError, match=r"stop_with='r2'.*0\.649, above the base's 0\.483"
    ) as told:
        Worker(made.study, Store(made.out))._train(task)
    assert "name another method" in str(told.value)
    assert "stop_at" not in str(told.value)


def test_failures_are_told_from_the_first_one_on(made, copied):
    store, tasks = Store(copied), Tasks(made.study).ordered
    by_address = sorted(tasks, key=lambda task: task.address)
    for i, task in enumerate(reversed(by_address)):  # the last address fails first
        store.fail(task, ValueError(str(i)), "")
        path = copied / "failed" / f"{task.address}.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {"at": f"2026-01-01T00:00:{i:02d}.000+00:00"}))
    assert [told["error"] for told in store.failures().values()] == [
        f"ValueError: {i}" for i in range(len(tasks))
    ]
    first = studies.status(made.study, copied).failures[0]
    assert first["title"] == by_address[-1].title


def test_what_failing_took_is_told(made, copied, monkeypatch, capsys):
    shutil.rmtree(copied / "rows")
    (copied / "index.parquet").unlink()

    def fails(self, task):
        time.sleep(0.3)
        raise ValueError("no")

    monkeypatch.setattr(Worker, "do", fails)
    with pytest.warns(UserWarning, match="failed, first owl"):
        studies.run(made.study, copied)
    assert "0 tasks done in 0 s" not in capsys.readouterr().err


def test_the_rows_of_an_unfinished_study_say_what_is_missing(made, copied, file, capsys):
    to = str(copied.parent / "rows.csv")
    assert main(["export", file, "--out", str(copied), "--to", to]) == 0
    assert "runs are done" not in capsys.readouterr().err
    (copied / "rows" / f"{Tasks(made.study).runs[0].task.address}.parquet").unlink()
    assert main(["export", file, "--out", str(copied), "--to", to]) == 0
    runs = len(Tasks(made.study).runs)
    said = capsys.readouterr().err
    assert f"{runs - 1} of {runs} runs are done. Part scored: 1 of 4 runs missing: owl r2" in said
