"""Threads of the processor: two processes beside each other must not spin against each other.

torch computes with one thread per core. Between two matrix products GNU's OpenMP lets them wait in
a busy loop, which is fastest alone and slows all others: several times, where two such processes
share the cores. What can be set is set when this package is imported before torch: threads wait
blocked. The number of threads stays what torch or the user chose, because sums differ in their last
digits with it and results must not depend on what else runs; where others use the cores, that is
said.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import NamedTuple

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How threads wait, as OpenMP's libraries read it when torch is imported."""

BUSY = 0.5
"""Cores that others must use before it is said."""


class Usage(NamedTuple):
    """Processor time used so far.

    Attributes:
        at: when, in seconds of a clock of no fixed start.
        all: core seconds used on the cores of this process, by anybody.
        own: core seconds used by this process.
    """

    at: float
    all: float
    own: float


def wait_blocked() -> bool:
    """Let threads wait without spinning, where nobody chose otherwise and it is not too late.

    Returns:
        Whether threads wait blocked, or as the user chose.
    """
    if any(name in os.environ for name in WAITING):
        return True
    if "torch" in sys.modules:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def usage() -> Usage | None:
    """What has been used of the cores that this process may use; None where Linux does not say."""
    try:
        with open("/proc/stat") as lines:
            rows = [line.split() for line in lines if line.startswith("cpu")]
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    used = 0.0
    for name, user, nice, system, _idle, _iowait, irq, softirq, *_ in rows:
        if name in cores:
            used += sum(map(int, (user, nice, system, irq, softirq)))
    return Usage(time.monotonic(), used / ticks, time.process_time())


def others(before: Usage, after: Usage) -> float:
    """Cores that other processes used on average between two looks."""
    seconds = after.at - before.at
    return max(0.0, (after.all - before.all) - (after.own - before.own)) / seconds


def say_what_is_busy(before: Usage | None, threads: int, *, blocked: bool) -> None:
    """Warn once where other processes use cores that torch would use.

    Args:
        before: `usage` when the import began.
        threads: torch's number of threads.
        blocked: whether threads wait blocked.
    """
    after = usage()
    if before is None or after is None or after.at - before.at < 0.2:
        return  # too short a time to tell
    cores, busy = len(os.sched_getaffinity(0)), others(before, after)
    # with one thread per free core nothing is lost
    if busy < BUSY or threads == 1 or threads + busy <= cores + BUSY:
        return
    spinning = ""
    if not blocked:
        spinning = (
            ", and they spin while they wait: import sublim_mech before torch, or set "
            "OMP_WAIT_POLICY=PASSIVE"
        )
    warnings.warn(
        f"other processes use {busy:z.1f} of {cores} cores, and torch computes with {threads} "
        f"threads{spinning}. OMP_NUM_THREADS={max(1, round(cores - busy))} shares the cores; sums "
        "then differ in their last digits from those of other numbers of threads.",
        RuntimeWarning,
        stacklevel=3,
    )
