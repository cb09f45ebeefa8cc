"""What a benchmark is: a function that returns one `Row`, registered by name.

    @row("name")
    def name() -> Row:
        done = race(ours, theirs)
        numbers = {"max_abs_diff": done.difference, "tolerance": 1e-4}
        return done.row("what is done", "what it is held against", 5, **numbers, note="...")

`run` adds what every row needs: the machine, the time and how busy other processes kept it
meanwhile.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

BUSY = 0.05  # share of the cores that other processes may use before a row calls itself contended
RESULTS = Path("out/bench.json")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what the library does.
        against: what it is held against.
        ratio: seconds theirs / ours, or bytes ours / theirs.
        target: what the ratio should reach, or with `at_most` stay below.
        at_most: whether less is better.
        max_abs_diff: largest difference between the two results; None where they are no two ways to
            one result.
        tolerance: what it may be; beyond it the run fails.
        seconds_ours: medians of the repeats; None in rows about memory.
        seconds_theirs: the same.
        flops_ours: floating-point operations of the matrix products (2 per multiply-add), counted
            while they run.
        flops_theirs: the same.
        bytes_ours: peak bytes, in rows about memory.
        bytes_theirs: the same.
        note: what one must know to read the row.
        more: further numbers.
        name: its name on the command line.
        machine: what it ran on.
        others: share of the machine's cores that other processes used meanwhile.
        when: when it ended, UTC.
    """

    work: str
    against: str
    ratio: float
    target: float
    at_most: bool = False
    max_abs_diff: float | None = None
    tolerance: float | None = None
    seconds_ours: float | None = None
    seconds_theirs: float | None = None
    flops_ours: float | None = None
    flops_theirs: float | None = None
    bytes_ours: float | None = None
    bytes_theirs: float | None = None
    note: str = ""
    more: dict[str, float] | None = None
    name: str = ""
    machine: dict[str, Any] | None = None
    others: float = math.nan
    when: str = ""

    @property
    def equal(self) -> bool:
        """Whether both sides' results agree; a NaN agrees with nothing."""
        if self.tolerance is None:
            return True
        return self.max_abs_diff is not None and self.max_abs_diff <= self.tolerance

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    @property
    def contended(self) -> bool:
        """Whether other processes kept the machine busy; nobody knows is a yes."""
        return not self.others <= BUSY

    def to_json(self) -> dict[str, Any]:
        """All fields and what follows from them."""
        verdicts = {"equal": self.equal, "met": self.met, "contended": self.contended}
        return asdict(self) | verdicts


ROWS: dict[str, Callable[[], Row]] = {}


def row(name: str) -> Callable[[Callable[[], Row]], Callable[[], Row]]:
    """Register a benchmark under a name."""

    def register(function: Callable[[], Row]) -> Callable[[], Row]:
        if name in ROWS:
            raise ValueError(f"row({name!r}): there is one of this name already; choose another.")
        ROWS[name] = function
        return function

    return register


def run(name: str) -> Row:
    """Measure one row, without random state left behind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = _read_clocks()
        row = ROWS[name]()
        end = _read_clocks()
    available = (end.wall - start.wall) * (os.cpu_count() or 1)
    others = max(0.0, (end.machine - start.machine) - (end.own - start.own)) / available
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(row, name=name, machine=machine(), others=round(others, 3), when=when)


class Clocks(NamedTuple):
    """Seconds of the wall clock, and processor seconds.

    Attributes:
        wall: since some moment.
        own: that this process and its children used.
        machine: that all processes used.
    """

    wall: float
    own: float
    machine: float


def _read_clocks() -> Clocks:
    own = psutil.Process().cpu_times()
    used = own.user + own.system + own.children_user + own.children_system
    everything = psutil.cpu_times()
    kinds = ("user", "system", "nice", "irq", "softirq", "steal")
    busy = sum(getattr(everything, kind, 0.0) for kind in kinds)
    return Clocks(time.perf_counter(), used, busy)


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text().splitlines() if "model name" in line]
        if models:
            cpu = models[0].split(":", 1)[1].strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


# ------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class Race:
    """Seconds and last results of two sides.

    Attributes:
        ours: seconds of each repeat.
        theirs: the same.
        our_value: what our side gave.
        their_value: what theirs gave.
        scale: their seconds stand for this many times as much work.
        flops_ours: floating-point operations of our side.
        flops_theirs: the same of the whole of theirs.
    """

    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    our_value: np.ndarray
    their_value: np.ndarray
    scale: float
    flops_ours: float
    flops_theirs: float

    @property
    def difference(self) -> float:
        """Largest absolute difference of the results."""
        return float(np.abs(self.our_value - self.their_value).max())

    def row(self, work: str, against: str, target: float, *, note: str, **fields: Any) -> Row:
        """The race as a row: medians, their ratio, the single times at the end of the note."""
        ours, theirs = median(self.ours), self.scale * median(self.theirs)
        single = [" ".join(format(s, ".1f") for s in side) for side in (self.ours, self.theirs)]
        return Row(
            work,
            against,
            theirs / ours,
            target,
            seconds_ours=ours,
            seconds_theirs=theirs,
            flops_ours=self.flops_ours,
            flops_theirs=self.flops_theirs,
            note=f"{note}; seconds of the repeats: ours {single[0]}, theirs {single[1]}",
            **fields,
        )


def race(
    ours: Callable[[], np.ndarray],
    theirs: Callable[[], np.ndarray],
    *,
    piece: Callable[[], Any] | None = None,
    pieces: int = 1,
    repeats: int = 2,
    scale: float = 1.0,
) -> Race:
    """Time both sides in turns, ours once more than theirs.

    So a drift of the machine meets both. The warm-up, which is not timed, counts the operations.

    Args:
        ours: our side.
        theirs: the other side.
        piece: a piece of the other side, where all its pieces are alike: warms it up instead of the
            whole.
        pieces: how many pieces the whole work of the other side has.
        repeats: how often theirs runs.
        scale: whole work over what `theirs` does.
    """
    flops_ours, flops_theirs = flops(ours), pieces * flops(piece or theirs)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    values: dict[str, np.ndarray] = {}
    sides = {"ours": ours, "theirs": theirs}
    for name in ["ours", "theirs"] * repeats + ["ours"]:
        start = time.perf_counter()
        values[name] = sides[name]()
        times[name].append(time.perf_counter() - start)
    return Race(
        tuple(times["ours"]),
        tuple(times["theirs"]),
        our_value=values["ours"],
        their_value=values["theirs"],
        scale=scale,
        flops_ours=flops_ours,
        flops_theirs=flops_theirs,
    )


# -------------------------------------------------------------------------------------------- FLOPs


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and weighted sum: 2 x 2 x keys x d_head per query and head, masked or not."""
    *_, keys, _ = key
    rows, heads, queries, width = query
    return int(2 * rows * heads * queries * keys * (width + value[-1]))


def flops(work: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products that `work` runs, backward included."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """A counter of the matrix products that run while it is entered."""

    def backward(_: Any, query: Any, key: Any, value: Any, *rest: Any, **__: Any) -> int:
        # five products where the forward has two
        return 5 * _attention_flops(query, key, value) // 2

    def product(_: Any, a: Any, b: Any, **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    # what the counter does not know: the attention kernel of CPUs, and products in place
    known_here = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        torch.ops.aten.addmm_: product,
    }
    return FlopCounterMode(display=False, custom_mapping=known_here)
