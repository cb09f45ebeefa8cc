"""Threads wait blocked unless the user chose otherwise; busy cores are said once."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import sublim_mech as sm
from sublim_mech import threads
from sublim_mech.threads import Usage, others, say_what_is_busy, usage, wait_blocked

SOURCE = str(Path(sm.__file__).parents[1])


def run(code: str, **environment: str) -> str:
    """What a fresh process prints that finds no choice about waiting, but for `environment`."""
    kept = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


def test_importing_the_package_makes_threads_wait_blocked() -> None:
    code = "import sublim_mech, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert run(code) == "PASSIVE"


@pytest.mark.parametrize("name", threads.WAITING)
def test_the_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in threads.WAITING:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "7")
    assert wait_blocked()
    assert [other for other in threads.WAITING if other in os.environ] == [name]
    assert os.environ[name] == "7"


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    assert not wait_blocked()  # the package has imported torch
    assert not set(threads.WAITING) & set(os.environ)


def test_what_others_use_is_all_less_our_own() -> None:
    assert others(Usage(10.0, 100.0, 5.0), Usage(12.0, 104.0, 7.0)) == 1.0
    assert others(Usage(10.0, 100.0, 5.0), Usage(12.0, 102.0, 7.0)) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc/stat")
def test_usage_counts_what_this_process_does() -> None:
    before = usage()
    assert before is not None
    while (after := usage()).own < before.own + 0.5:
        pass
    # /proc counts in hundredths of a second
    assert after.all - before.all >= 0.4
    assert 0 <= others(before, after) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("busy", "threads_of_torch", "said"), [(0.0, 4, False), (3.0, 4, True), (3.0, 1, False)]
)
def test_busy_cores_are_said(
    monkeypatch: pytest.MonkeyPatch, busy: float, threads_of_torch: int, said: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(threads, "usage", lambda: Usage(12.0, 100.0 + 2 * (busy + 1), 7.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        say_what_is_busy(Usage(10.0, 100.0, 5.0), threads_of_torch, blocked=False)
    assert bool(caught) == said
    if said:
        message = str(caught[0].message)
        assert "other processes use 3.0 of 4 cores" in message
        assert "OMP_NUM_THREADS=1" in message
        assert "import sublim_mech before torch" in message
