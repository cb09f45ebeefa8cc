"""Running: whatever happens on the way, the rows are the same."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time

import pandas as pd
import pytest
from small_studies import FULL, R2, small_study

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.storage.runs import unfinished
from sublim_mech.studies import DiskFullError, Part, Tasks
from sublim_mech.studies.making import Worker
from sublim_mech.studies.running import SILENT, Shard, work
from sublim_mech.studies.store import Store


def copied(made, tmp_path):
    """A folder of the study that may be changed."""
    return shutil.copytree(made.out, tmp_path / "out")


def test_finished_work_is_not_done_again(made, tmp_path, monkeypatch):
    out = copied(made, tmp_path)
    monkeypatch.setattr(Worker, "do", lambda *_: pytest.fail("something was made again"))
    monkeypatch.setattr(Worker, "ready", lambda *_: pytest.fail("the base was loaded"))
    again = studies.run(made.study, out, progress=False)
    pd.testing.assert_frame_equal(again, made.rows)
    assert studies.status(made.study, out).finished


@pytest.mark.parametrize("stage", ["rows", "answers", "scores", "students"])
def test_what_is_lost_is_made_again_to_the_same_rows(stage, made, tmp_path):
    out = copied(made, tmp_path)
    if stage == "students":
        one = made.rows[made.rows["method"] == "full"]["student"].iloc[0]
        shutil.rmtree(out / stage / one)
    else:
        shutil.rmtree(out / stage)
    shutil.rmtree(out / "rows", ignore_errors=True)
    again = studies.run(made.study, out, progress=False)
    pd.testing.assert_frame_equal(again, made.rows)


def test_a_damaged_row_is_set_aside_and_made_again(made, tmp_path):
    out = copied(made, tmp_path)
    bad = out / "rows" / f"{made.rows['run'][0]}.parquet"
    bad.write_bytes(b"")
    assert studies.status(made.study, out).counts["damaged"] == 1
    with pytest.warns(UserWarning, match=f"{bad.name} was damaged"):
        again = studies.run(made.study, out, progress=False)
    pd.testing.assert_frame_equal(again, made.rows)


def test_the_advice_on_a_damaged_student_helps(made, tmp_path):
    out = copied(made, tmp_path)
    shutil.rmtree(out / "rows")
    shutil.rmtree(out / "answers")
    student = made.rows[(made.rows["method"] == "r2") & (made.rows["part"] == "plain")].iloc[0]
    folder = out / "students" / student["student"]
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="nothing to copy"):
        studies.run(made.study, out, progress=False)
    why = studies.status(made.study, out).failures[0]["error"]
    assert f"remove {str(folder)!r} and run the study with retry=True" in why
    shutil.rmtree(folder)
    again = studies.run(made.study, out, retry=True, progress=False)
    pd.testing.assert_frame_equal(again[made.rows.columns], made.rows, check_dtype=False)


def test_a_failing_run_is_reported_and_stops_no_other(made, tmp_path, monkeypatch):
    out = copied(made, tmp_path)
    shutil.rmtree(out / "rows")
    student = made.rows[(made.rows["method"] == "r2") & (made.rows["part"] == "plain")].iloc[0]
    shutil.rmtree(out / "students" / student["student"])
    shutil.rmtree(out / "answers")
    train = Worker._train

    def fails(self, task):
        raise ValueError("first line\nthe loss became nan")

    monkeypatch.setattr(Worker, "_train", fails)
    with pytest.warns(UserWarning, match="1 of .* the loss became nan"):
        rows = studies.run(made.study, out, progress=False)
    of_it = made.rows[["student", "controls"]].eq(student["student"]).any(axis=1)
    left = made.rows[~of_it].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows[left.columns], left, check_dtype=False)
    reached = studies.status(made.study, out)
    assert reached.counts["failed"] == len(made.rows) - len(left)
    (failure,) = reached.failures
    assert failure["error"] == "ValueError: the loss became nan"
    assert "Traceback" in failure["trace"]
    assert "the loss became nan" in repr(reached)

    # it stays failed until it is asked for again
    monkeypatch.setattr(Worker, "_train", train)
    with pytest.warns(UserWarning, match="retry=True"):
        studies.run(made.study, out, progress=False)
    again = studies.run(made.study, out, retry=True, progress=False)
    pd.testing.assert_frame_equal(again, made.rows)


def test_two_shards_do_all_runs_once_and_no_shard_more(base_folder, tmp_path):
    study = small_study(base_folder, Part(name="p", methods=[R2], row_seeds=[0, 1]))
    one, two = (studies.run(study, tmp_path / "o", shard=f"{i}/2", progress=False) for i in (0, 1))
    runs = [run.task.address for run in Tasks(study).runs]
    assert one["run"].tolist() == [run for run in runs if Shard(0, 2).has(run)]
    assert two["run"].tolist() == runs


def test_shards_that_steal_leave_nothing(base_folder, tmp_path):
    study = small_study(base_folder)
    rows = studies.run(study, tmp_path / "o", shard="1/5", steal=True, progress=False)
    assert len(rows) == 2


@pytest.mark.parametrize("text", ["2/2", "0/0", "a/b", "1", "-1/2", "1/2/3"])
def test_a_shard_beyond_its_count_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="shard="):
        studies.run(small_study("base"), tmp_path / "o", shard=text)
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------- owners


def hold(out, task, *, host, beat=0.0):
    folder = out / "claims" / task.address
    folder.mkdir(parents=True)
    owner = {"pid": 1, "host": host, "since": "2026-01-01T00:00:00"}
    (folder / "owner.json").write_text(json.dumps(owner))
    then = time.time() - beat
    os.utime(folder / "owner.json", (then, then))


@pytest.fixture
def nearly(made, tmp_path):
    """All but one row."""
    out = copied(made, tmp_path)
    task = Tasks(made.study).runs[0].task
    (out / task.file).unlink()
    return out, task


def test_a_dead_process_of_this_machine_holds_nothing(nearly, made):
    out, task = nearly
    hold(out, task, host=socket.gethostname())
    pd.testing.assert_frame_equal(studies.run(made.study, out, progress=False), made.rows)


def test_what_all_runs_share_begins_none_of_them(made, tmp_path):
    """The base's answers are there, of the students nothing."""
    shutil.copy(made.out / "store.json", tmp_path)
    store = Store(tmp_path)
    tasks = Tasks(made.study)
    shared = {run.task.base for run in tasks.runs}
    for task in shared:
        own = Store(made.out).path(task)
        place = store.path(task)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own, place)
    assert all(store.has(task) for task in shared)
    assert set(studies.status(made.study, tmp_path).counts) == {"open"}
    student = next(run.task.own.student for run in tasks.runs)
    unfinished(store.path(student)).mkdir(parents=True)
    assert studies.status(made.study, tmp_path).counts["begun"] >= 1


def test_a_silent_owner_elsewhere_is_told_left_and_taken_over(nearly, made):
    out, task = nearly
    hold(out, task, host="elsewhere", beat=2 * SILENT)
    said: list[str] = []
    store = Store(out)
    outcome = work(Tasks(made.study), store, Worker(made.study, store), say=said.append)
    assert outcome.waiting == 1
    assert len(said) == 1
    assert "elsewhere, which gave no sign of life for 30 minutes" in said[0]
    reached = studies.status(made.study, out)
    assert reached.counts["stale"] == 1
    assert "process 1 on elsewhere" in repr(reached)
    again = studies.run(made.study, out, steal=True, progress=False)
    pd.testing.assert_frame_equal(again, made.rows)


def test_two_that_claim_one_run_do_it_once(nearly, made, monkeypatch):
    out, task = nearly
    store = Store(out)
    with store.claim(task):
        assert studies.status(made.study, out).counts["running"] == 1
        other = Store(out)
        monkeypatch.setattr("sublim_mech.studies.running.time.sleep", stop)
        with pytest.raises(StopError):  # it waits: the owner is at work
            work(Tasks(made.study), other, Worker(made.study, other))
    assert not other.has(task)


class StopError(Exception):
    pass


def stop(_):
    raise StopError


# ------------------------------------------------------------------------------------------ folders


def test_a_folder_of_something_else_or_of_another_version_is_refused(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(FileExistsError, match="no folder of studies"):
        studies.run(made.study, tmp_path / "mine")
    out = copied(made, tmp_path)
    (out / "store.json").write_text('{"format": 99, "bases": {}}')
    for call in (studies.run, studies.status, studies.rows):
        with pytest.raises(ValueError, match=r"format 99, not 1; open it with the version"):
            call(made.study, out)


def test_another_base_under_the_same_name_is_refused(made, tmp_path):
    out = copied(made, tmp_path)
    shutil.rmtree(out / "answers")
    about = json.loads((out / "store.json").read_text())
    about["bases"] = dict.fromkeys(about["bases"], "0" * 64)
    (out / "store.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="has other weights"):
        studies.run(made.study, out, progress=False)
    assert not list((out / "failed").iterdir())


def test_contexts_that_render_to_one_text_are_named(base_folder, tmp_path):
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    contexts = {"default": sm.Context(), "spelled out": sm.Context(system=system)}
    with pytest.raises(ValueError, match="contexts 'default' and 'spelled out'"):
        studies.run(small_study(base_folder, contexts=contexts), tmp_path / "o", progress=False)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_error_and_no_failed_run(error, nearly, made, monkeypatch):
    out, _ = nearly

    def full(*_):
        raise error

    monkeypatch.setattr(Worker, "do", full)
    with pytest.raises(DiskFullError, match=r"no space left on the disk of .* what is finished"):
        studies.run(made.study, out, progress=False)
    assert not list((out / "failed").iterdir())


def test_running_leaves_the_number_of_threads(nearly, made):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        studies.run(made.study, nearly[0], progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_study_of_both_kinds_is_planned_as_it_is(made, base_folder):
    planned = studies.plan(made.study, made.out, base=sm.load_base(str(base_folder)))
    assert planned.finished == planned.runs == len(made.rows)
    assert planned.seconds == 0
    assert planned.bytes == 0
    fresh = studies.plan(made.study, base=sm.load_base(str(base_folder)))
    assert {name: stage.to_do for name, stage in fresh.stages.items()} == {
        name: stage.made for name, stage in planned.stages.items()
    }
    assert FULL.stop_with  # the twins of full fine-tunes are counted once
    assert fresh.stages["students"].to_do == 6


def test_who_waits_looks_once_for_what_many_wait_for(base_folder, tmp_path, monkeypatch):
    """While somebody else makes the labels, students that need them are not looked for."""
    study = small_study(base_folder, Part(name="p", methods=[R2], training_seeds=range(20)))
    store = Store(tmp_path / "o")
    store.begin(study)
    tasks = Tasks(study)
    looked: list[str] = []
    has = Store.has

    def counted(self, task):
        looked.append(task.address)
        return has(self, task)

    for task in tasks.ordered:
        if not task.needs:
            hold(store.folder, task, host="elsewhere")
    monkeypatch.setattr(Store, "has", counted)
    monkeypatch.setattr("sublim_mech.studies.running.time.sleep", stop)
    worker = Worker(study, store)
    monkeypatch.setattr(worker, "ready", lambda task: None)
    with pytest.raises(StopError):
        work(tasks, store, worker)
    assert len(tasks.ordered) > 100
    assert sorted(looked) == sorted(t.address for t in tasks.ordered if not t.needs)
