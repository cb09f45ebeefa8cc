"""Ray actors do what processes do: a real cluster of this machine, where Ray is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket

import pandas as pd
import pytest
from killing import one_killed
from small_studies import R2, small_study

from sublim_mech import studies
from sublim_mech.__main__ import main
from sublim_mech.studies import Computing, Part
from sublim_mech.studies.crew import Crew, WorkerDiedError, held_by
from sublim_mech.studies.ray_actors import Actor, _needs, _room
from sublim_mech.studies.store import Store

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='no Ray here: pip install "sublim-mech[ray]"'
)

# ------------------------------------------------------------------------------------- without Ray


def test_without_ray_the_extra_is_named(base_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    study = small_study(base_folder)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sublim-mech\[ray\]"'):
        studies.run(study, tmp_path / "out", ray=True, progress=False)
    file = str(tmp_path / "study.toml")
    studies.write_study(study, file)
    assert main(["run", file, "--out", str(tmp_path / "out"), "--ray", "--quiet"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert 'pip install "sublim-mech[ray]"' in told[0]


@pytest.mark.parametrize(
    ("device", "threads", "there", "room"),
    [
        ("cpu", 1, {"CPU": 6.0}, 6),
        ("cpu", 4, {"CPU": 6.0}, 1),
        ("cuda", 1, {"CPU": 6.0, "GPU": 2.0}, 2),
        ("cuda", 4, {"CPU": 6.0, "GPU": 2.0}, 1),
        ("cuda", 1, {"CPU": 6.0}, 0),
    ],
)
def test_a_cluster_has_room_for_as_many_as_cores_and_cards_allow(device, threads, there, room):
    study = small_study("base", computing=Computing(threads=threads, device=device))
    assert _room(there, _needs(study)) == room


def test_a_card_by_its_number_is_refused():
    with pytest.raises(ValueError, match="write device='cuda'"):
        _needs(small_study("base", computing=Computing(device="cuda:1")))


def test_a_dead_workers_task_is_free_and_given_up_the_second_time(base_folder, tmp_path):
    study = small_study(base_folder)
    store = Store(tmp_path / "out")
    store.begin(study)
    said: list[str] = []
    crew = Crew(study, store, 2, said.append)
    task = crew.tasks.ordered[0]

    def hold(host):
        folder = store.folder / "claims" / task.address
        folder.mkdir(exist_ok=True)
        (folder / "owner.json").write_text(json.dumps({"pid": 7, "host": host}))

    hold("other")
    assert held_by(store, 7, "here") is None  # the same number on another machine
    assert held_by(store, 7, "other") == task.address
    assert held_by(store, None, None) is None
    crew.lost("actor 7 died", 7, "other", by_itself=False)
    assert store.owner(task) is None
    assert not store.failed()
    hold("other")
    crew.lost("actor 7 died", 7, "other", by_itself=False)
    assert store.failed() == {task.address}
    assert said[-1] == f"actor 7 died; {task.title} is given up; another takes its place"
    with pytest.raises(WorkerDiedError, match="outside any task"):
        crew.lost("worker 8 died", 8, "here", by_itself=True)
    for _ in range(4):  # twice as often as there are workers
        crew.lost("actor 9 died", 9, "here", by_itself=False)
    with pytest.raises(WorkerDiedError, match="outside any task"):
        crew.lost("actor 9 died", 9, "here", by_itself=False)
    assert crew.outcome(shard=studies.running.Shard(), steal=False).waiting == 2


def test_an_actor_works_from_the_folder_that_paths_are_told_from(
    base_folder, tmp_path, monkeypatch
):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    done = []
    monkeypatch.setattr(
        "sublim_mech.studies.ray_actors.carry_out", lambda given: done.append(os.getcwd())
    )
    here = str(base_folder)
    for folder in (here, str(tmp_path / "not on this machine")):
        Actor({"from": folder}).work()
    assert done == [here, here]
    assert Actor({}).who() == (os.getpid(), socket.gethostname())


# --------------------------------------------------------------------------------- a real cluster


@pytest.fixture(scope="module")
def study(base_folder):
    return small_study(base_folder, Part(name="p", methods=[R2], row_seeds=[0, 1, 2]))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@needs_ray
@pytest.mark.science
def test_actors_make_the_rows_that_one_process_processes_and_shards_make(
    study, tmp_path, offline, capfd
):
    import ray

    one = studies.run(study, tmp_path / "one", progress=False)
    two = studies.run(study, tmp_path / "two", workers=2, progress=False)
    for i in (0, 1):
        three = studies.run(study, tmp_path / "three", shard=f"{i}/2", progress=False)
    handler = signal.getsignal(signal.SIGTERM)
    file = str(tmp_path / "study.toml")
    studies.write_study(study, file)
    out = str(tmp_path / "four")
    assert main(["run", file, "--out", out, "--ray", "local", "--workers", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["rows"] == len(one)
    four = studies.rows(study, out)
    for other in (two, three, four):
        pd.testing.assert_frame_equal(one, other)
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == handler
    at_work = {path.stem for path in (tmp_path / "four/spent").iterdir()}
    assert len(at_work) == 2  # both did something


@needs_ray
@pytest.mark.science
def test_a_killed_actor_costs_its_task_and_no_row(study, tmp_path, offline, capfd):
    import ray

    one = studies.run(study, tmp_path / "one", progress=False)
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        with one_killed(tmp_path / "out") as killed:
            again = studies.run(study, tmp_path / "out", ray=True)
        pd.testing.assert_frame_equal(one, again)
        told = capfd.readouterr().err
        assert f"Ray actor {killed[0]} on {socket.gethostname()} died" in told
        assert "another takes its place" in told
        assert ray.is_initialized()  # it was there before, and stays
        with pytest.raises(ValueError, match="ray='auto': this process is connected"):
            studies.run(study, tmp_path / "out", ray="auto", progress=False)
        beyond = small_study(study.base, computing=Computing(threads=64))
        with pytest.raises(ValueError, match="each takes 64 processor cores"):
            studies.run(beyond, tmp_path / "beyond", ray=True, progress=False)
        with pytest.raises(FileNotFoundError, match="no such base"):  # as without Ray
            studies.run(
                small_study(tmp_path / "no such base"), tmp_path / "none", ray=True, progress=False
            )
    finally:
        ray.shutdown()


@needs_ray
@pytest.mark.science
def test_a_cluster_that_is_not_there_is_told_in_a_line(study, tmp_path, offline, capsys):
    file = str(tmp_path / "study.toml")
    studies.write_study(study, file)
    assert main(["run", file, "--out", str(tmp_path / "o"), "--ray", "auto", "--quiet"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("--ray='auto': no such cluster can be reached")
