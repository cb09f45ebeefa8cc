"""Many runs: what the machinery itself takes, as the benchmarks measure it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.studies import overhead_row, rows_row


def test_a_few_rows_are_opened_with_the_index_and_without(tmp_path):
    row = rows_row(tmp_path, runs=12)
    assert row.more is not None
    assert set(row.more) == {"without the index", "with the index"}
    assert (tmp_path / "index.parquet").is_file()
    assert "12 runs" in row.work


@pytest.fixture
def alone(monkeypatch):
    """Seconds of this process, so that what else the machine does counts for nothing."""
    monkeypatch.setattr("benchmarks.studies.time", SimpleNamespace(perf_counter=time.process_time))


@pytest.mark.science
def test_500_students_take_less_than_50_ms_a_run_beside_training(tmp_path, alone):
    row = overhead_row(tmp_path, students=500)
    assert row.met, row.note


@pytest.mark.science
def test_an_index_opens_3000_runs_ten_times_faster_than_their_files(tmp_path, alone):
    """A ratio, which a busy machine leaves alone; seconds of 12,864 runs are the benchmark's."""
    row = rows_row(tmp_path, runs=3_000)
    assert row.more["without the index"] > 10 * row.more["with the index"], row.note
