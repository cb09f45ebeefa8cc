"""Killed, refused, damaged, out of space: what a run folder survives.

Run as a script this file is the server of the kill test: it loads everything once, then forks a training process, kills it with
SIGKILL at a random moment, forks the same call again, and so on.
"""

import dataclasses
import filecmp
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
from safetensors import SafetensorError
from stopping import StopAt, StopError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.making.numbers import Row
from sublim_mech.making.training import FullFT, LoRA, TrainingData, hard_data, loop, resume
from sublim_mech.making.training import run as running
from sublim_mech.models.base import Base, load_base
from sublim_mech.storage.claims import FolderInUseError, claimed
from sublim_mech.storage.runs import Run, open_run, unfinished

VOCAB = 512
ROWS = [Row(f"Continue: {i}", ",".join(str(100 + i + k) for k in range(1 + i % 5))) for i in range(26)]
KILLS = 10
CALLS: dict[str, dict[str, Any]] = {
    "lora": {"method": LoRA(rank=4, dropout=0.1), "precision": "fp32", "accumulate": 2},
    "full": {"method": FullFT(freeze="norms"), "precision": "bf16", "schedule": "cosine", "weight_decay": 0.1},
}
SHORT: dict[str, Any] = {
    "steps": 10, "batch_size": 4, "warmup": 2, "lr": 3e-3, "held_out": 5, "evaluate_every": 3, "bucket": 2, "snapshots": "log",
    "checkpoint_every": 2, "progress": False,
}  # fmt: skip


def small(tokenizer: Any) -> tuple[Base, TrainingData]:
    """A model with few tokens, and rows with the tokenizer's ids folded onto them."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, max_position_embeddings=128)).eval()
    data = hard_data(tokenizer, ROWS)
    prompts = tuple(dataclasses.replace(p, ids=tuple(i % VOCAB for i in p.ids)) for p in data.prompts)
    completions = tuple(tuple(i % VOCAB for i in c) for c in data.completions)
    return load_base(model, tokenizer=tokenizer), dataclasses.replace(data, prompts=prompts, completions=completions)


def fit(made: tuple[Base, TrainingData], out: Path, **options: Any) -> Run:
    base, data = made
    return sm.train(base, data, out=out, **{**SHORT, **options})


def different(one: Path, other: Path) -> list[str]:
    """Files that two folders do not share byte for byte."""
    names = {str(p.relative_to(folder)) for folder in (one, other) for p in folder.rglob("*") if p.is_file()}
    return sorted(
        n for n in names if not all((f / n).is_file() for f in (one, other)) or not filecmp.cmp(one / n, other / n, False)
    )


# ------------------------------------------------------------------------------------------------------------ kill -9


def serve(home: Path) -> None:
    """Reference runs, killed runs and a refused one; what happened goes to `report.json`."""
    made = small(AutoTokenizer.from_pretrained(home / "tokenizer"))
    report: dict[str, Any] = {}
    for name, call in CALLS.items():
        options = {**call, "checkpoint_every": 1, "steps": 24}
        start = time.monotonic()
        assert os.waitpid(begin(made, home / "whole" / name, options), 0)[1] == 0
        length = time.monotonic() - start
        moments = random.Random(name)
        kills, ends, at = 0, 0, []
        while kills < KILLS or unfinished(home / name / str(ends)).exists():
            out = home / name / str(ends)
            before = log_rows(out)
            child = begin(made, out, options)
            if kills < KILLS:
                if kills % 2:  # some steps on, and a little
                    goal = before + moments.randint(1, 6)
                    while log_rows(out) < goal and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                        time.sleep(0.002)
                    time.sleep(moments.uniform(0, 0.05))
                else:
                    time.sleep(moments.uniform(0, length))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                at.append(log_rows(out))
            else:
                assert status == 0
                ends += 1
        report[name] = {"seconds": length, "kills": kills, "runs": ends, "log rows at the kills": at}
    first = begin(made, home / "busy", {**CALLS["lora"], "callbacks": [Slow()]})
    while not (unfinished(home / "busy") / "log.jsonl").exists():
        time.sleep(0.05)
    try:
        fit(made, home / "busy", **CALLS["lora"])
    except FolderInUseError as error:
        report["refused"] = str(error)
    report["owner"] = first
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    fit(made, home / "busy", **CALLS["lora"])  # the dead owner's lock is no obstacle
    (home / "report.json").write_text(json.dumps(report))


def log_rows(out: Path) -> int:
    """Rows in the log of an unfinished run."""
    log = unfinished(out) / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


class Slow(TrainerCallback):
    """A second per step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(1)


def begin(made: tuple[Base, TrainingData], out: Path, options: dict[str, Any]) -> int:
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


@pytest.fixture(scope="module")
def killed(smol, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("kills")
    smol.tokenizer.save_pretrained(home / "tokenizer")
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, str(home)], env={**os.environ, **quiet}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home, json.loads((home / "report.json").read_text())


@pytest.mark.parametrize("name", CALLS)
def test_killed_at_ten_random_moments_the_same_call_ends_in_the_same_bytes(name, killed):
    """Ten real SIGKILLs per method. Five come after a time drawn from the length of a whole run, so that they also fall on start-up
    and on the end; five come when the log has grown by a number of steps drawn, and up to 50 ms later, so that they fall on steps,
    snapshots and checkpoints. A run that was faster than its kill counts as finished, and a new one is begun."""
    home, report = killed
    assert report[name]["kills"] == KILLS
    assert sum(rows > 1 for rows in report[name]["log rows at the kills"]) >= 4, report  # some fell into the training itself
    for run in range(report[name]["runs"]):
        assert different(home / "whole" / name, home / name / str(run)) == []
        assert not unfinished(home / name / str(run)).exists()
    assert {p.suffix for p in (home / name).rglob("*") if p.is_file()} <= {".safetensors", ".json", ".jsonl", ".jinja"}


def test_a_second_process_is_refused_and_told_who_is_at_work(killed):
    _, report = killed
    assert f"process {report['owner']} on {socket.gethostname()}, since 20" in report["refused"]
    assert "is in use by" in report["refused"]


# -------------------------------------------------------------------------------------------------------- interruptions


@pytest.fixture(scope="module")
def made(smol_tokenizer) -> tuple[Base, TrainingData]:
    return small(smol_tokenizer)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory) -> Run:
    return fit(made, tmp_path_factory.mktemp("whole") / "run", **CALLS["lora"])


def interrupted(made: tuple[Base, TrainingData], out: Path, step: int, **options: Any) -> Path:
    """A run that stopped with an exception after a step; its unfinished folder."""
    with pytest.raises(StopError):
        fit(made, out, callbacks=[StopAt(step)], **{**CALLS["lora"], **options})
    return unfinished(out)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full in bf16": CALLS["full"],
    "recomputed activations": {"gradient_checkpointing": True},
    "stopped early": {"lr": 1e-2, "evaluate_every": 1},
    "dora": {"method": LoRA(rank=2, dora=True)},
    "no clipping": {"clip": None, "schedule": "constant"},
}


@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_after_an_exception_the_same_call_ends_in_the_same_bytes(variant, step, made, tmp_path):
    options = {**CALLS["lora"], **VARIANTS[variant]}
    if variant == "stopped early":
        free = [
            json.loads(line) for line in (fit(made, tmp_path / "free", **options).path / "log.jsonl").read_text().splitlines()
        ]
        options["stop_at"] = free[8]["held_out"]
    run = fit(made, tmp_path / "whole", **options)
    assert step < run.manifest.results["steps"] < 10 if variant == "stopped early" else run.manifest.results["steps"] == 10
    work = interrupted(made, tmp_path / "run", step, **options)
    assert [p.name for p in resume.checkpoints(work / "checkpoints")] == [f"step-{s:06d}" for s in range(step - 1, 0, -2)][:2]
    assert not (work / "owner.json").exists()
    fit(made, tmp_path / "run", **options)
    assert different(tmp_path / "whole", tmp_path / "run") == []
    assert not work.exists()


def test_resumed_training_takes_only_the_steps_that_are_left(made, whole, tmp_path):
    interrupted(made, tmp_path / "run", 7)
    taken: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            taken.append(state.global_step)

    fit(made, tmp_path / "run", callbacks=[Count()], **CALLS["lora"])
    assert taken == [7, 8, 9, 10]


def test_snapshots_open_while_the_run_is_unfinished(made, tmp_path, whole):
    work = interrupted(made, tmp_path / "run", 5)
    pair = load_pair(made[0], work / "snapshots" / "step-000004")
    assert pair.student.manifest.results["steps"] == 4
    assert different(work / "snapshots" / "step-000004", whole.snapshots[4]) == []
    with pytest.raises(
        FileNotFoundError, match=r"is no run folder: .*run\.unfinished is a training that has not finished: the same call"
    ):
        open_run(tmp_path / "run")


def test_a_finished_run_is_opened_and_not_trained_again(made, whole, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    stamps = {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")}
    again = fit(made, whole.path, **CALLS["lora"], checkpoint_every=5, callbacks=[Slow()])  # what leaves no trace in the result
    assert again == whole
    assert {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")} == stamps


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lr": 1e-3}, r"optimiser\.lr: 0\.003 there, 0\.001 here"),
        ({"method": LoRA(rank=2, dropout=0.1)}, r"method\.rank: 4 there, 2 here"),
        ({"method": FullFT()}, r"kind: 'lora' there, 'full' here"),
        ({"order_seed": 1, "steps": 11}, r"optimiser\.steps: 10 there, 11 here; seeds\.order: 0 there, 1 here"),
        ({"held_out": 6}, r"data\.held_out: 5 there, 6 here"),
        ({"store": torch.bfloat16}, r"method\.store: 'float32' there, 'bfloat16' here"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_another_training_in_the_folder_is_refused_by_what_differs(state, other, message, made, whole, tmp_path):
    out = whole.path if state == "finished" else tmp_path / "run"
    folder = out if state == "finished" else interrupted(made, out, 3)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(ValueError, match=rf"is another training: .*{message}.*Remove it or choose another folder"):
        fit(made, out, **{**CALLS["lora"], **other})
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_other_data_or_another_base_is_another_training(made, whole, smol_tokenizer):
    base, data = made
    rows = dataclasses.replace(data, completions=(data.completions[0][::-1], *data.completions[1:]))
    with pytest.raises(ValueError, match=r"is another training: data\.hash: '[0-9a-f]+\.\.\. there, '[0-9a-f]+\.\.\. here"):
        fit((base, rows), whole.path, **CALLS["lora"])
    other = AutoModelForCausalLM.from_config(base.model.config)
    with pytest.raises(ValueError, match=r"is another training: base: '[0-9a-f]+\.\.\. there, '[0-9a-f]+\.\.\. here"):
        fit((load_base(other, tokenizer=smol_tokenizer), data), whole.path, **CALLS["lora"])


def test_a_finished_run_whose_weights_were_changed(made, whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"the weight files are not those its manifest\.json names; remove it to train again"):
        fit(made, tmp_path / "run", **CALLS["lora"])


def test_killed_before_the_complete_folder_got_its_name(made, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(running, "finish", lambda *args: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            fit(made, tmp_path / "run", **CALLS["lora"])
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


# -------------------------------------------------------------------------------------------------------------- owners


HOLD = """
import fcntl, sys, time
handle = open(sys.argv[1], "a+")
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def record(folder: Path, **owner: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(
        json.dumps({"pid": 4_000_000, "host": socket.gethostname(), "since": "long ago", **owner})
    )


def test_a_held_folder_is_refused_and_freed_by_death(made, whole, tmp_path):
    work = unfinished(tmp_path / "run")
    record(work, pid=1234)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(work / "owner.json")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        message = rf"run' is in use by process 1234 on {socket.gethostname()}, since long ago; wait for it"
        with pytest.raises(FolderInUseError, match=message):
            fit(made, tmp_path / "run", **CALLS["lora"])
        assert json.loads((work / "owner.json").read_text())["pid"] == 1234
    finally:
        holder.kill()
        holder.wait()
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_a_record_from_another_host_is_respected(made, tmp_path):
    work = unfinished(tmp_path / "run")
    record(work, host="elsewhere")
    with pytest.raises(
        FolderInUseError,
        match=r"by process 4000000 on elsewhere, since long ago; if that process is dead, remove .*owner\.json",
    ):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert (work / "owner.json").exists()


@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_the_record_counts(alive, tmp_path, monkeypatch):
    """A file system without flock: the record of a living process refuses, that of a dead one is taken over."""
    monkeypatch.setattr("sublim_mech.storage.claims.fcntl", None)
    record(tmp_path / "run", pid=os.getppid() if alive else 4_000_000)
    if alive:
        with pytest.raises(FolderInUseError, match=f"process {os.getppid()} on"), claimed(tmp_path / "run"):
            pass
    else:
        with claimed(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / "owner.json").read_text())["pid"] == os.getpid()
        assert list((tmp_path / "run").iterdir()) == []


def test_a_half_written_record_of_a_dead_process(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "owner.json").write_text('{"pid": 12')
    with claimed(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "owner.json").read_text())["pid"] == os.getpid()


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("file", ["weights.safetensors", "moments.safetensors", "trainer_state.json", "state.json"])
@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(file, how, made, whole, tmp_path):
    work = interrupted(made, tmp_path / "run", 7)
    damaged = work / "checkpoints" / "step-000006" / file
    if how == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"step-000006.*: training goes on from .*step-000004\."):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_what_a_kill_left_half_written_is_neither_read_nor_kept(made, whole, tmp_path):
    work = interrupted(made, tmp_path / "run", 7)
    for folder in (work / "checkpoints" / ".step-000008-x", work / "snapshots" / ".step-000008-x"):
        shutil.copytree(work / "checkpoints" / "step-000006", folder)
    (work / ".inputs.123.json").write_text("{")
    (work / "adapter_model.safetensors").write_bytes(b"half")
    with (work / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "lo')
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_no_good_checkpoint_is_an_error(made, tmp_path):
    work = interrupted(made, tmp_path / "run", 7)
    for file in work.glob("checkpoints/*/weights.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        ValueError,
        match=r"no checkpoint is left to go on from: .*step-000006.* is truncated .*Remove .* to train from the beginning",
    ):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert len(list(work.glob("checkpoints/step-*"))) == 2


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond a size: writes fail as they do on a full disk, with another number."""
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
def test_a_full_disk_leaves_what_was_there(name, step, what, made, tmp_path):
    """At step 4 a snapshot (and then a checkpoint) is due, at step 6 a checkpoint alone."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    with files_up_to(resource.RLIM_INFINITY), pytest.raises((OSError, SafetensorError), match=r"(?i)large|os error"):
        fit(made, tmp_path / "run", callbacks=[FullDisk(step, 10_000)], **CALLS[name])
    work = unfinished(tmp_path / "run")
    assert {p.name for p in work.iterdir()} == {"checkpoints", "snapshots", "inputs.json", "log.jsonl"}
    assert [p.name for p in sorted((work / "snapshots").iterdir())] == [f"step-{s:06d}" for s in (1, 2, 4) if s < step]
    for path in (work / "snapshots").iterdir():
        assert load_pair(made[0], path).student.kind == name
    assert resume.newest_good(work / "checkpoints") == work / "checkpoints" / f"step-{step - 2:06d}"
    run = fit(made, tmp_path / "run", **CALLS[name])  # there is space again
    assert different(run.path, fit(made, tmp_path / "whole", **CALLS[name]).path) == []


def test_a_loss_that_is_no_number_keeps_the_last_good_snapshot(made, tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 5:
                with torch.no_grad():
                    next(p for p in model.parameters() if p.requires_grad).fill_(torch.nan)

    expected = running.plan(
        [len(p) + len(c) for p, c in zip(made[1].prompts, made[1].completions, strict=True)][:-5],
        steps=10,
        batch_size=4,
        seed=0,
        bucket=2,
    )[5]
    rows = ", ".join(map(str, sorted(expected)))
    options = {**CALLS["lora"], "accumulate": 1}
    with pytest.raises(
        ValueError, match=rf"the loss became nan at step 6, on rows {rows} of the data; .*last good snapshot is .*step-000004\."
    ):
        fit(made, tmp_path / "run", callbacks=[Poison()], **options)
    work = unfinished(tmp_path / "run")
    assert load_pair(made[0], work / "snapshots" / "step-000004").student.manifest.results["steps"] == 4
    fit(made, tmp_path / "run", **options)  # it was no fault of the data: training goes on


def test_a_gradient_that_is_no_number_takes_no_step(made, tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 3:
                next(p for p in model.parameters() if p.requires_grad).register_hook(lambda g: g * torch.inf)

    with pytest.raises(
        ValueError, match=r"the gradient's norm became (nan|inf) at step 4, on rows \d+, \d+, \d+, \d+ of the data"
    ):
        fit(made, tmp_path / "run", callbacks=[Poison()], **{**CALLS["lora"], "accumulate": 1})


def test_steps_draw_their_own_random_numbers():
    seeds = {resume.step_seed(seed, step, process) for seed in range(5) for step in range(50) for process in range(3)}
    assert len(seeds) == 5 * 50 * 3
    assert np.log2(max(seeds)) > 50


def test_checkpoints_hold_nothing_but_safetensors_and_json(made, tmp_path):
    work = interrupted(made, tmp_path / "run", 5)
    for path in resume.checkpoints(work / "checkpoints"):
        assert {p.name for p in path.iterdir()} == {
            "weights.safetensors",
            "moments.safetensors",
            "trainer_state.json",
            "state.json",
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Path(sys.argv[1]))
