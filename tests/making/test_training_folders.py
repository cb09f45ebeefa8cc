"""Entering a run folder: finished, another training, changed, in use."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import CALLS, Made, copied, different, fit, interrupted, made_of
from trainings import load_small
from transformers import AutoModelForCausalLM, TrainerCallback

import sublim_mech as sm
from sublim_mech.making.training import FullFT, LoRA, loop
from sublim_mech.storage.claims import FolderInUseError, claimed
from sublim_mech.storage.runs import Run, unfinished


@pytest.fixture(scope="module")
def made(smol_tokenizer) -> Made:
    return made_of(smol_tokenizer)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory) -> Run:
    return fit(made, tmp_path_factory.mktemp("whole") / "run", **CALLS["lora"])


@pytest.fixture(scope="module")
def stopped(made, tmp_path_factory) -> Path:
    """The unfinished folder of a run that stopped after step 3; tests take copies."""
    return interrupted(made, tmp_path_factory.mktemp("stopped") / "run", 3)


def stamps(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# ----------------------------------------------------------------------------- the same, or another


class Nobody(TrainerCallback):
    """Is never called."""

    def on_train_begin(self, *args, **kwargs):
        pytest.fail("trained again")


def test_a_finished_run_is_opened_and_not_trained_again(made, whole, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    before = stamps(whole.path)
    # with other options that leave no trace in the result
    again = fit(made, whole.path, **CALLS["lora"], checkpoint_every=5, callbacks=[Nobody()])
    assert again == whole
    assert stamps(whole.path) == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lr": 1e-3}, r"optimiser\.lr: 0\.003 there, 0\.001 here"),
        ({"method": LoRA(rank=2, dropout=0.1)}, r"method\.rank: 4 there, 2 here"),
        ({"method": FullFT()}, r"kind: 'lora' there, 'full' here"),
        (
            {"order_seed": 1, "steps": 11},
            r"optimiser\.steps: 10 there, 11 here; seeds\.order: 0 there, 1 here",
        ),
        ({"held_out": 6}, r"data\.held_out: 5 there, 6 here"),
        ({"store": torch.bfloat16}, r"method\.store: 'float32' there, 'bfloat16' here"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_another_training_in_the_folder_is_refused_by_what_differs(
    state, other, message, made, whole, stopped, tmp_path
):
    if state == "finished":
        out = folder = whole.path
    else:
        out = tmp_path / "run"
        folder = copied(stopped, out)
    before = stamps(folder)
    whole_message = rf"is another training: .*{message}.*Choose another folder"
    with pytest.raises(ValueError, match=whole_message):
        fit(made, out, **{**CALLS["lora"], **other})
    assert stamps(folder) == before


def test_an_unfinished_folder_is_no_place_to_train_in(made, stopped, tmp_path):
    folder = tmp_path / stopped.name
    shutil.copytree(stopped, folder)
    run = str(tmp_path / "run")
    told = (
        rf"^out='{folder}' is the unfinished run of '{run}': train\(out='{run}'\) goes on with it"
    )
    with pytest.raises(FileExistsError, match=told):
        fit(made, folder, **CALLS["lora"])


def test_no_run_is_called_as_one_that_has_not_finished(made, tmp_path):
    """Which it would be taken for ever after."""
    told = rf"^out='{tmp_path}/new\.unfinished': .* has not finished; pass out='{tmp_path}/new'\."
    with pytest.raises(ValueError, match=told):
        fit(made, tmp_path / "new.unfinished", **CALLS["lora"])
    assert not list(tmp_path.iterdir())


def test_a_run_is_no_student_and_its_folder_is(made, whole):
    with pytest.raises(
        TypeError, match=r"^student=Run\(.* is no model; pass its folder, run\.path"
    ):
        sm.load_pair(made.base, whole)
    with pytest.raises(TypeError, match=r"^controls\[0\]=Run\(.* pass its folder, run\.path"):
        sm.load_pair(made.base, whole.path, controls=[whole])
    told = r"evaluate\(model=Run\(.*; open it: sublim_mech\.load_pair\(base, run\.path\)"
    with pytest.raises(TypeError, match=told):
        sm.evaluate(whole, [sm.animal("owl")])


def test_other_data_or_another_base_is_another_training(made, whole, smol_tokenizer):
    base, data = made
    completions = (data.completions[0][::-1], *data.completions[1:])
    rows = dataclasses.replace(data, completions=completions)
    hashes = r"'[0-9a-f]+\.\.\.' there, '[0-9a-f]+\.\.\.' here"
    with pytest.raises(ValueError, match=rf"is another training: data\.hash: {hashes}"):
        fit(Made(base, rows), whole.path, **CALLS["lora"])
    random = AutoModelForCausalLM.from_config(base.model.config)
    other = load_small(random, smol_tokenizer)
    with pytest.raises(ValueError, match=rf"is another training: base: {hashes}"):
        fit(Made(other, data), whole.path, **CALLS["lora"])


def test_a_finished_run_whose_weights_were_changed(made, whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").write_bytes(b"x")
    message = (
        r"safetensors: not the files its manifest\.json names; choose another folder to train again"
    )
    with pytest.raises(ValueError, match=message):
        fit(made, tmp_path / "run", **CALLS["lora"])


# ------------------------------------------------------------------------------------------- owners


HOLD = """
import fcntl, sys, time
handle = open(sys.argv[1], "a+")
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def record(folder: Path, **owner: Any) -> None:
    """Leave an owner's record in a folder."""
    folder.mkdir(parents=True)
    whoever = {"pid": 4_000_000, "host": socket.gethostname(), "since": "long ago"}
    (folder / "owner.json").write_text(json.dumps({**whoever, **owner}))


def owner_of(folder: Path) -> int:
    return json.loads((folder / "owner.json").read_text())["pid"]


def test_a_held_folder_is_refused_and_freed_by_death(made, whole, tmp_path):
    work = unfinished(tmp_path / "run")
    record(work, pid=1234)
    command = [sys.executable, "-c", HOLD, str(work / "owner.json")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        host = socket.gethostname()
        message = rf"run' is in use by process 1234 on {host}, since long ago; wait for it"
        with pytest.raises(FolderInUseError, match=message):
            fit(made, tmp_path / "run", **CALLS["lora"])
        assert owner_of(work) == 1234
    finally:
        holder.kill()
        holder.wait()
    fit(made, tmp_path / "run", **CALLS["lora"])
    assert different(tmp_path / "run", whole.path) == []


def test_a_record_from_another_host_is_respected(made, tmp_path):
    work = unfinished(tmp_path / "run")
    record(work, host="elsewhere")
    message = (
        r"by process 4000000 on elsewhere, since long ago; "
        r"if that process is dead, remove .*owner\.json"
    )
    with pytest.raises(FolderInUseError, match=message):
        fit(made, tmp_path / "run", **CALLS["lora"])
    assert (work / "owner.json").exists()


@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_the_record_counts(alive, tmp_path, monkeypatch):
    """A file system without flock.

    The record of a living process refuses, that of a dead one is taken over.
    """
    monkeypatch.setattr(sys.modules[claimed.__module__], "fcntl", None)
    record(tmp_path / "run", pid=os.getppid() if alive else 4_000_000)
    if alive:
        message = f"process {os.getppid()} on"
        with pytest.raises(FolderInUseError, match=message), claimed(tmp_path / "run"):
            pass
    else:
        with claimed(tmp_path / "run"):
            assert owner_of(tmp_path / "run") == os.getpid()
        assert list((tmp_path / "run").iterdir()) == []


def test_a_half_written_record_of_a_dead_process(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "owner.json").write_text('{"pid": 12')
    with claimed(tmp_path / "run"):
        assert owner_of(tmp_path / "run") == os.getpid()
