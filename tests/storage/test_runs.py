"""Run folders appear when they are complete, and open."""

import os
from pathlib import Path

import pytest
from manifests import made

from sublim_mech.storage.runs import Run, finish, new_folder, open_run, unfinished


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_a_folder_appears_when_it_is_complete(tmp_path, durable, mask, monkeypatch):
    before = os.umask(mask)
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("set for all threads"))
    target = tmp_path / "runs" / "owl"
    with new_folder(target, durable=durable) as work:
        monkeypatch.undo()
        os.umask(before)
        (work / "weights").write_text("w")
        (work / "weights").chmod(0o600)  # as writers by way of temporary files leave it
        assert work.parent == target.parent
        assert not target.exists()
    assert names(tmp_path / "runs") == ["owl", "owl/weights"]
    if os.name == "posix":
        assert target.stat().st_mode & 0o777 == 0o777 & ~mask
        assert (target / "weights").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fill_half():
        with new_folder(tmp_path / "owl") as work:
            (work / "weights").write_text("w")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fill_half()
    assert names(tmp_path) == []


def test_a_finished_run_keeps_what_others_need(tmp_path):
    target = tmp_path / "v1.5" / "owl"
    work = unfinished(target)
    assert work == tmp_path / "v1.5" / "owl.unfinished"
    kept = ["manifest.json", "log.jsonl", "snapshots/step-2/manifest.json"]
    removed = [
        "inputs.json", "owner.json", "checkpoints/step-1/state.pt", ".half/weights", ".file",
        "snapshots/.half/weights",
    ]  # fmt: skip
    for name in kept + removed:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("")
    finish(work, target)
    assert not work.exists()
    assert names(target) == sorted([*kept, "snapshots", "snapshots/step-2"])


def test_a_finished_run_need_not_have_what_only_training_needs(tmp_path):
    (tmp_path / "owl.unfinished").mkdir()
    finish(tmp_path / "owl.unfinished", tmp_path / "owl")
    assert (tmp_path / "owl").is_dir()


def test_a_run_opens_with_its_snapshots_in_order(tmp_path):
    made().save(tmp_path)
    for step in ("0010", "0002"):
        (tmp_path / "snapshots" / f"step-{step}").mkdir(parents=True)
    run = open_run(str(tmp_path))
    assert run == Run(Path(tmp_path), made())
    assert list(run.snapshots.items()) == [
        (2, tmp_path / "snapshots" / "step-0002"),
        (10, tmp_path / "snapshots" / "step-0010"),
    ]
    assert repr(run) == f"Run({str(tmp_path)!r}, lora, held-out 1.25000 -> 0.50000 in 3 steps)"


def test_what_is_no_run_says_so_and_whether_one_is_under_way(tmp_path):
    target = tmp_path / "owl"
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no manifest\.json\.$"):
        open_run(target)
    (tmp_path / "owls").mkdir()
    near = rf"it has no manifest\.json; did you mean '{tmp_path}/owls'\?$"
    with pytest.raises(FileNotFoundError, match=near):
        open_run(target)
    unfinished(target).mkdir()
    message = r"owl\.unfinished is a training that has not finished: the same call of train\("
    with pytest.raises(FileNotFoundError, match=message):
        open_run(target)
