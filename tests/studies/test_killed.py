"""Killed at any moment, in one process or several, a study ends in the same rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from killing import one_killed
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.studies import Part, Study
from sublim_mech.studies.running import Shard
from sublim_mech.studies.store import Store
from sublim_mech.studies.workers import WorkerDiedError, work_beside

SCRIPT = Path(__file__).parents[1] / "killed_studies.py"
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


def run_killed(base: Path, home: Path, kills: int) -> str:
    command = [sys.executable, str(SCRIPT), str(base), str(home), str(kills)]
    done = subprocess.run(
        command, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_shard_ends_in_the_same_rows(base_folder, tmp_path):
    assert "same rows after 1 kills" in run_killed(base_folder, tmp_path, 0)


@pytest.mark.science
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_ten_kills_and_a_killed_shard_end_in_the_same_rows(base_folder, tmp_path):
    assert "same rows after 11 kills" in run_killed(base_folder, tmp_path, 10)


@pytest.fixture(scope="module")
def study(base_folder: Path) -> Study:
    return small_study(base_folder, Part(name="p", methods=[R2], row_seeds=[0, 1, 2]))


@pytest.mark.science
def test_workers_make_the_same_rows_though_one_is_killed(study, tmp_path):
    one = studies.run(study, tmp_path / "one", progress=False)
    two = studies.run(study, tmp_path / "two", workers=2, progress=False)
    pd.testing.assert_frame_equal(one, two)

    said: list[str] = []
    store = Store(tmp_path / "three")
    store.begin(study)
    with one_killed(store.folder) as killed:
        work_beside(study, store, 2, shard=Shard(), steal=False, say=said.append)
    told = f"worker {killed[0]} died (signal 9); another takes its place"
    assert told in said
    pd.testing.assert_frame_equal(one, studies.rows(study, tmp_path / "three"))


@pytest.mark.science
def test_workers_end_with_the_process_that_started_them(study, tmp_path):
    code = (
        "import sys\n"
        "from sublim_mech import studies\n"
        "study = studies.read_study(sys.argv[1])\n"
        "studies.run(study, sys.argv[2], workers=2)\n"
    )
    studies.write_study(study, tmp_path / "study.json")
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "study.json"), str(tmp_path / "out")],
        env={**os.environ, **QUIET},
        stderr=subprocess.DEVNULL,
    )
    workers: list[psutil.Process] = []
    until = time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < until:
        time.sleep(0.1)
        workers = psutil.Process(started.pid).children()
    time.sleep(5)
    started.send_signal(signal.SIGKILL)
    started.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) == 2
    assert not alive


@pytest.mark.science
def test_workers_that_cannot_begin_are_told_once(tmp_path):
    study = small_study(tmp_path / "no such base")
    store = Store(tmp_path / "out")
    store.begin(study)
    with pytest.raises(WorkerDiedError, match="exit status 1"):
        work_beside(study, store, 1, shard=Shard(), steal=False, say=None)
    assert not store.failures()
