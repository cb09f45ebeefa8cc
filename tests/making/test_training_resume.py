"""Killed, interrupted, damaged, out of space: the same call ends in the same bytes.

Run as a script this file is the server of the kill test: it loads everything once, then forks a
training process, kills it with SIGKILL at a random moment, forks the same call again, and so on.
"""

import gc
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import CALLS, Made, copied, different, fit, interrupted, made_of
from safetensors import SafetensorError
from stopping import StopError
from transformers import AutoTokenizer, TrainerCallback

from sublim_mech import masks
from sublim_mech.engine.pair import load_pair
from sublim_mech.making.training import LoRA, loop, resume
from sublim_mech.making.training import run as running
from sublim_mech.making.training.order import draw_order
from sublim_mech.storage.claims import FolderInUseError
from sublim_mech.storage.runs import Run, open_run, unfinished

# ------------------------------------------------------------------------------------------ kill -9


def serve(home: Path, kills: int) -> None:
    """Reference runs, killed runs and a refused one; what happened goes to `report.json`."""
    made = made_of(AutoTokenizer.from_pretrained(home / "tokenizer"))
    gc.collect()
    gc.freeze()  # the trainer's own collections would copy all pages of each forked process
    report: dict[str, Any] = {}
    for name, call in CALLS.items():
        options = {**call, "checkpoint_every": 1, "steps": 16}
        report[name] = kill_at_random(made, home, name, options, kills)
    report |= refuse_a_second(made, home / "busy")
    (home / "report.json").write_text(json.dumps(report))


def kill_at_random(
    made: Made, home: Path, name: str, options: dict[str, Any], wanted: int
) -> dict[str, Any]:
    """One whole run, then runs that are killed so many times in all, and ended."""
    started = time.monotonic()
    assert os.waitpid(begin(made, home / "whole" / name, options), 0)[1] == 0
    length = time.monotonic() - started

    moments = random.Random(name)
    kills, ends, rows_at_kills = 0, 0, []
    while kills < wanted or unfinished(home / name / str(ends)).exists():
        out = home / name / str(ends)
        before = log_rows(out)
        child = begin(made, out, options)
        if kills < wanted:
            if kills % 2 == 0:  # some steps on, and a little
                wait_for_rows(child, out, before + moments.randint(1, 6))
                time.sleep(moments.uniform(0, 0.05))
            else:
                time.sleep(moments.uniform(0, length))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            rows_at_kills.append(log_rows(out))
        else:  # it was faster than its kill
            assert status == 0
            ends += 1
    return {"seconds": length, "kills": kills, "runs": ends, "log rows at kills": rows_at_kills}


def refuse_a_second(made: Made, out: Path) -> dict[str, Any]:
    """A second process beside a slow one; then the same call, once the slow one is dead."""
    owner = begin(made, out, {**CALLS["lora"], "callbacks": [Slow()]})
    while not (unfinished(out) / "log.jsonl").exists():
        time.sleep(0.05)
    refusal = ""
    try:
        fit(made, out, **CALLS["lora"])
    except FolderInUseError as error:
        refusal = str(error)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    fit(made, out, **CALLS["lora"])  # the dead owner's lock is no obstacle
    return {"owner": owner, "refusal": refusal}


def begin(made: Made, out: Path, options: dict[str, Any]) -> int:
    """Fork a process that trains; its id."""
    child = os.fork()
    if child == 0:
        try:
            fit(made, out, **options)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def wait_for_rows(child: int, out: Path, rows: int) -> None:
    """Until the log has so many rows or the process has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while log_rows(out) < rows and os.waitid(os.P_PID, child, ended) is None:
        time.sleep(0.002)


def log_rows(out: Path) -> int:
    """Rows in the log of an unfinished run."""
    log = unfinished(out) / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


class Slow(TrainerCallback):
    """A second per step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(1)


@pytest.fixture(
    scope="module", params=[3, pytest.param(10, marks=pytest.mark.science)], ids="{} kills".format
)
def killed(request, smol_tokenizer, tmp_path_factory) -> tuple[int, Path, dict[str, Any]]:
    """How often the server killed each call, its folder and its report."""
    home = tmp_path_factory.mktemp("kills")
    smol_tokenizer.save_pretrained(home / "tokenizer")
    quiet = {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(home), str(request.param)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, home, json.loads((home / "report.json").read_text())


@pytest.mark.parametrize("name", CALLS)
def test_killed_at_random_moments_the_same_call_ends_in_the_same_bytes(name, killed):
    """Real SIGKILLs, a few per method (ten with `make science`).

    By turns they come when the log has grown by a number of steps drawn, and up to 50 ms later, so
    that they fall on steps, snapshots and checkpoints; and after a time drawn from the length of a
    whole run, so that they also fall on start-up and on the end. A run that was faster than its
    kill counts as finished, and a new one is begun.
    """
    kills, home, report = killed
    assert report[name]["kills"] == kills
    # some fell into the training itself
    assert sum(rows > 1 for rows in report[name]["log rows at kills"]) >= kills // 3, report
    for run in range(report[name]["runs"]):
        assert different(home / "whole" / name, home / name / str(run)) == []
        assert not unfinished(home / name / str(run)).exists()
    suffixes = {path.suffix for path in (home / name).rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jsonl", ".jinja"}


def test_a_second_process_is_refused_and_told_who_is_at_work(killed):
    _, _, report = killed
    assert f"process {report['owner']} on {socket.gethostname()}, since 20" in report["refusal"]
    assert "is in use by" in report["refusal"]


# ------------------------------------------------------------------------------------ interruptions


@pytest.fixture(scope="module")
def made(smol_tokenizer) -> Made:
    return made_of(smol_tokenizer)


@pytest.fixture(scope="module")
def wholes(made, tmp_path_factory) -> dict[str, Run]:
    """Both calls, uninterrupted."""
    home = tmp_path_factory.mktemp("whole")
    return {name: fit(made, home / name, **call) for name, call in CALLS.items()}


@pytest.fixture(scope="module")
def whole(wholes) -> Run:
    return wholes["lora"]


@pytest.fixture(scope="module")
def stopped(made, tmp_path_factory) -> Path:
    """The unfinished folder of a run that stopped after step 7; tests take copies."""
    return interrupted(made, tmp_path_factory.mktemp("stopped") / "run", 7)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": CALLS["full"],  # in bf16
    "recomputed activations": {"gradient_checkpointing": True},
    "stopped early": {"lr": 1e-2, "evaluate_every": 1},
    "dora": {"method": LoRA(rank=2, dora=True)},
    "no clipping": {"clip": None, "schedule": "constant"},
    "gated and held": {
        "where": masks.sharing("not shared"),
        "answer_in_where": True,
        "penalty": (masks.role("user"), 3.0),
    },
    "gated, full": {**CALLS["full"], "where": masks.role("user") & masks.layers([1])},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_after_an_exception_the_same_call_ends_in_the_same_bytes(variant, made, tmp_path):
    options = {**CALLS["lora"], **VARIANTS[variant]}
    if variant == "stopped early":
        log = (fit(made, tmp_path / "free", **options).path / "log.jsonl").read_text()
        options["stop_at"] = json.loads(log.splitlines()[8])["held_out"]
    run = fit(made, tmp_path / "whole", **options)
    steps = run.manifest.results["steps"]
    assert 7 < steps < 10 if variant == "stopped early" else steps == 10

    for step in (3, 7) if variant in CALLS else (7,):
        work = interrupted(made, tmp_path / str(step), step, **options)
        kept = [path.name for path in resume.checkpoints(work / "checkpoints")]
        assert kept == [f"step-{s:06d}" for s in range(step - 1, 0, -2)][:2]
        assert not (work / "owner.json").exists()
        fit(made, tmp_path / str(step), **options)
        assert different(tmp_path / "whole", tmp_path / str(step)) == []
        assert not work.exists()


class Count(TrainerCallback):
    """The steps taken."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


def test_resumed_training_takes_only_the_steps_that_are_left(made, stopped, tmp_path):
    copied(stopped, tmp_path / "run")
    count = Count()
    fit(made, tmp_path / "run", callbacks=[count], **CALLS["lora"])
    assert count.steps == [7, 8, 9, 10]


def test_snapshots_open_while_the_run_is_unfinished(made, stopped, whole, tmp_path):
    work = copied(stopped, tmp_path / "run")
    snapshot = work / "snapshots" / "step-000004"
    assert load_pair(made.base, snapshot).student.manifest.results["steps"] == 4
    assert different(snapshot, whole.snapshots[4]) == []
    message = (
        r"is no run folder: .*run\.unfinished is a training that has not finished: the same call"
    )
    with pytest.raises(FileNotFoundError, match=message):
        open_run(tmp_path / "run")


def test_killed_before_the_complete_folder_got_its_name(made, whole, tmp_path, monkeypatch):
    def stop(*args: Any) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(running, "finish", stop)
        with pytest.raises(StopError):
            fit(made, tmp_path / "run", **CALLS["lora"])
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_steps_draw_their_own_random_numbers():
    seeds = {
        resume.step_seed(seed, step, process)
        for seed in range(5)
        for step in range(50)
        for process in range(3)
    }
    assert len(seeds) == 5 * 50 * 3
    assert np.log2(max(seeds)) > 50


# ------------------------------------------------------------------------------------------- damage


FILES = ("weights.safetensors", "moments.safetensors", "trainer_state.json", "state.json")


def test_checkpoints_hold_nothing_but_safetensors_and_json(stopped):
    folders = resume.checkpoints(stopped / "checkpoints")
    assert len(folders) == 2
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    file, how, made, stopped, whole, tmp_path
):
    work = copied(stopped, tmp_path / "run")
    damaged = work / "checkpoints" / "step-000006" / file
    if how == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-9])
    message = r"step-000006.*: training goes on from .*step-000004\."
    with pytest.warns(UserWarning, match=message):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_a_damaged_checkpoint_takes_no_good_one_with_it(made, tmp_path):
    """It is written again at its step: until that is done the one before it is all there is."""
    work = interrupted(made, tmp_path / "run", step=7)
    checkpoints = work / "checkpoints"
    damaged = checkpoints / "step-000006" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    no_space = pytest.raises((OSError, SafetensorError), match=r"(?i)large|os error")
    with files_up_to(resource.RLIM_INFINITY), no_space, pytest.warns(UserWarning, match="goes on"):
        fit(made, tmp_path / "run", callbacks=[FullDisk(6, 10_000)], **CALLS["lora"])
    assert resume.newest_good(checkpoints) == checkpoints / "step-000004"


def test_what_a_kill_left_half_written_is_neither_read_nor_kept(made, stopped, whole, tmp_path):
    work = copied(stopped, tmp_path / "run")
    for kind in ("checkpoints", "snapshots"):
        half_written = work / kind / ".step-000008-x"
        shutil.copytree(work / "checkpoints" / "step-000006", half_written)
    (work / ".inputs.123.json").write_text("{")
    (work / "adapter_model.safetensors").write_bytes(b"half")
    with (work / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "lo')
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_no_good_checkpoint_is_an_error(made, stopped, tmp_path):
    work = copied(stopped, tmp_path / "run")
    for file in work.glob("checkpoints/*/weights.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    message = (
        r"no checkpoint is left to go on from: .*step-000006.* is truncated .*"
        r"Remove .* to train from the beginning"
    )
    with pytest.raises(ValueError, match=message):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert len(list(work.glob("checkpoints/step-*"))) == 2


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond a size: writes fail as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDisk(TrainerCallback):
    """From a step on, files may not grow beyond a size."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("step", "what"), [(4, "snapshot"), (6, "checkpoint")])
def test_a_full_disk_leaves_what_was_there(name, step, what, made, wholes, tmp_path):
    """At step 4 a snapshot (and then a checkpoint) is due, at step 6 a checkpoint alone."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    no_space = pytest.raises((OSError, SafetensorError), match=r"(?i)large|os error")
    with files_up_to(resource.RLIM_INFINITY), no_space:
        fit(made, tmp_path / "run", callbacks=[FullDisk(step, 10_000)], **CALLS[name])

    work = unfinished(tmp_path / "run")
    names = {path.name for path in work.iterdir()}
    assert names == {"checkpoints", "snapshots", "inputs.json", "log.jsonl"}
    snapshots = sorted((work / "snapshots").iterdir())
    assert [path.name for path in snapshots] == [f"step-{s:06d}" for s in (1, 2, 4) if s < step]
    for path in snapshots:
        assert load_pair(made.base, path).student.kind == name
    newest = resume.newest_good(work / "checkpoints")
    assert newest == work / "checkpoints" / f"step-{step - 2:06d}"

    run = fit(made, tmp_path / "run", **CALLS[name])  # there is space again
    assert different(run.path, wholes[name].path) == []


# -------------------------------------------------------------------------------------- bad numbers


class PoisonedWeights(TrainerCallback):
    """A weight becomes NaN before step 6."""

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step == 5:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(torch.nan)


class PoisonedGradient(TrainerCallback):
    """A gradient becomes infinite in step 4."""

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step == 3:
            parameter = next(p for p in model.parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * torch.inf)


def test_a_loss_that_is_no_number_keeps_the_last_good_snapshot(made, tmp_path):
    order = draw_order(made.data.lengths[:-5], steps=10, batch_size=4, seed=0, bucket=2)
    rows = ", ".join(map(str, sorted(order[5])))
    options = {**CALLS["lora"], "accumulate": 1, "held_out_seed": None}  # the last rows
    message = (
        rf"the loss became nan at step 6, on rows {rows} of the data; "
        r".*last good snapshot is .*step-000004\."
    )
    with pytest.raises(ValueError, match=message):
        fit(made, tmp_path / "run", callbacks=[PoisonedWeights()], **options)
    snapshot = unfinished(tmp_path / "run") / "snapshots" / "step-000004"
    assert load_pair(made.base, snapshot).student.manifest.results["steps"] == 4
    fit(made, tmp_path / "run", **options)  # it was no fault of the data: training goes on


def test_a_gradient_that_is_no_number_takes_no_step(made, tmp_path):
    message = (
        r"the gradient's norm became (nan|inf) at step 4, on rows \d+, \d+, \d+, \d+ of the data"
    )
    options = {**CALLS["lora"], "accumulate": 1}
    with pytest.raises(ValueError, match=message):
        fit(made, tmp_path / "run", callbacks=[PoisonedGradient()], **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Path(sys.argv[1]), int(sys.argv[2]))
