"""Taking over a task: what its dead holder left in folders it was at work in keeps nobody out."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack

import pytest
from small_studies import R2, small_study

from sublim_mech.storage.claims import claimed
from sublim_mech.storage.runs import unfinished
from sublim_mech.studies import Part, Tasks
from sublim_mech.studies.running import SILENT, work
from sublim_mech.studies.store import Store
from sublim_mech.studies.tasks import LabelsTask, SampledTask, StudentTask

STUDY = small_study(
    "none",
    Part(name="labelled", methods=[R2]),
    Part(name="written", methods=[R2], labels=["sampled"]),
)
KINDS = (LabelsTask, SampledTask, StudentTask)


def inside(store, task):
    """The folder that whoever makes a task holds for itself, where its kind has one."""
    target = store.path(task)
    match task:
        case LabelsTask():
            return target
        case SampledTask():
            return unfinished(target) / "held_out"
        case StudentTask():
            return unfinished(target)
    return None


class Maker:
    """Makes nothing of a task but its name, and holds folders as labels and trainings do."""

    def __init__(self, store):
        self.store = store

    def ready(self, task):
        pass

    def do(self, task):
        with ExitStack() as stack:
            if (held := inside(self.store, task)) is not None:
                stack.enter_context(claimed(held))
        target = self.store.path(task)
        if task.stage in ("labels", "sampled", "students"):
            target.mkdir(exist_ok=True)
            (target / "labels.json").touch()
        else:
            target.touch()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A begun study, whose workers may look around a few times."""
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        assert len(looks) < 20, "it waits for ever"

    monkeypatch.setattr("sublim_mech.studies.running.time.sleep", sleep)
    monkeypatch.setattr("sublim_mech.studies.running.DYING", 0.0, raising=False)
    store = Store(tmp_path / "out")
    store.begin(STUDY)
    return store


def leave(folder):
    """The record of a process elsewhere that has been silent for long."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "owner.json"
    record.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "then"}))
    then = time.time() - 2 * SILENT
    os.utime(record, (then, then))
    return record


def first(tasks, kind):
    return next(task for task in tasks.ordered if isinstance(task, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_steal_takes_over_whatever_a_dead_holder_was_at_work_in(kind, store):
    tasks = Tasks(STUDY)
    task = first(tasks, kind)
    leave(store.folder / "claims" / task.address)
    inner = leave(inside(store, task))
    outcome = work(tasks, store, Maker(store), steal=True)
    assert (outcome.failed, outcome.waiting) == ([], 0)
    assert not inner.exists()


def test_what_the_message_says_to_remove_is_all_that_has_to_be(store):
    tasks = Tasks(STUDY)
    task = first(tasks, StudentTask)
    record = leave(store.folder / "claims" / task.address)
    leave(inside(store, task))
    said: list[str] = []
    assert work(tasks, store, Maker(store), say=said.append).waiting > 0
    (advice,) = [line for line in said if "if it is dead" in line]
    assert advice.endswith(f"remove {record}")
    record.unlink()
    outcome = work(tasks, store, Maker(store))
    assert (outcome.failed, outcome.waiting) == ([], 0)


def test_a_holder_that_is_alive_is_told_and_the_rest_goes_on(store):
    tasks = Tasks(STUDY)
    task = first(tasks, StudentTask)
    with claimed(inside(store, task)):
        outcome = work(tasks, store, Maker(store))
    ((title, told),) = outcome.failed
    assert title == task.title
    assert "is in use by process" in told
    assert store.has(tasks.runs[-1].task)
    assert not store.has(task)


def test_a_holder_that_ends_is_waited_for(store, monkeypatch):
    monkeypatch.setattr("sublim_mech.studies.running.DYING", 30.0)
    tasks = Tasks(STUDY)
    task = first(tasks, StudentTask)
    with ExitStack() as alive:
        alive.enter_context(claimed(inside(store, task)))
        monkeypatch.setattr("sublim_mech.studies.running.time.sleep", lambda _: alive.close())
        outcome = work(tasks, store, Maker(store))
    assert (outcome.failed, outcome.waiting) == ([], 0)


def test_a_folder_in_use_elsewhere_is_no_task_that_somebody_holds(store):
    """What is refused within a task that is ours is a failure, and told."""
    tasks = Tasks(STUDY)
    task = first(tasks, LabelsTask)
    leave(inside(store, task))
    store.inherit = lambda task: None
    outcome = work(tasks, store, Maker(store))
    assert task.title in dict(outcome.failed)
