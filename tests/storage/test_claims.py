"""One process at a time holds a folder."""

import json
import os
import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest

from sublim_mech.storage import claims
from sublim_mech.storage.claims import FolderInUseError, claimed

HOLD = """
import sys
from pathlib import Path
from sublim_mech.storage.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
posix = pytest.mark.skipif(claims.fcntl is None, reason="no locks here")


def record(folder):
    return json.loads((folder / "owner.json").read_text())


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_makes_the_folder_says_whose_it_is_and_ends(tmp_path):
    folder = tmp_path / "labels" / "run.unfinished"
    with claimed(folder):
        owner = record(folder)
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert sorted(owner) == ["host", "pid", "since"]
    assert list(folder.iterdir()) == []
    with claimed(folder), pytest.raises(FolderInUseError), claimed(folder):
        pass
    assert list(folder.iterdir()) == []


def test_a_claim_ends_with_an_error_too(tmp_path):
    with pytest.raises(KeyError), claimed(tmp_path):
        raise KeyError
    with claimed(tmp_path):
        pass


def test_the_refusal_says_who_and_what_to_do(tmp_path):
    folder = tmp_path / "run.unfinished"
    with claimed(folder):
        since = record(folder)["since"]
        message = (
            f"out={str(tmp_path / 'run')!r} is in use by process {os.getpid()} on "
            f"{socket.gethostname()}, since {since}; wait for it, or choose another folder."
        )
        with pytest.raises(FolderInUseError) as error, claimed(folder):
            pass
        assert str(error.value) == message


def test_a_folder_that_was_renamed_meanwhile_keeps_its_files(tmp_path):
    """A run that finishes takes its record away and renames the folder; both are gone by then."""
    with claimed(tmp_path / "run.unfinished"):
        (tmp_path / "run.unfinished" / "owner.json").unlink()
        (tmp_path / "run.unfinished").rename(tmp_path / "run")
        (tmp_path / "run" / "manifest.json").write_text("{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "manifest.json"]


def test_a_record_that_went_between_opening_and_locking_is_opened_anew(tmp_path, monkeypatch):
    """Its owner finished just then: a lock on what is gone would hold nothing."""
    folder, lock, times = tmp_path / "run", claims._flock, []

    def lock_late(handle):
        if not times:
            (folder / claims.OWNER_FILE).unlink()
        times.append(None)
        return lock(handle)

    monkeypatch.setattr(claims, "_flock", lock_late)
    with claims.claimed(folder):
        assert '"pid"' in (folder / claims.OWNER_FILE).read_text()
    assert len(times) == 2


def test_a_record_of_somebody_else_is_not_taken_away(tmp_path):
    with claimed(tmp_path):
        (tmp_path / "owner.json").unlink()
        (tmp_path / "owner.json").write_text("another's")
    assert (tmp_path / "owner.json").read_text() == "another's"


def test_another_process_holds_it_until_it_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=f"process {holder.pid} on"), claimed(tmp_path):
            pass
    finally:
        holder.kill()  # however it ends: its record stays behind
        holder.communicate()
    assert record(tmp_path)["pid"] == holder.pid
    with claimed(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("locks", [pytest.param(True, marks=posix), False])
@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_an_unreadable_record_holds_nothing(tmp_path, monkeypatch, locks, text):
    if not locks:
        monkeypatch.setattr(claims, "fcntl", None)
    (tmp_path / "owner.json").write_text(text)
    with claimed(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("locks", [pytest.param(True, marks=posix), False])
def test_a_record_of_another_host_is_believed(tmp_path, monkeypatch, locks, dead):
    if not locks:
        monkeypatch.setattr(claims, "fcntl", None)
    owner = {"pid": dead, "host": "elsewhere", "since": "yesterday"}
    (tmp_path / "owner.json").write_text(json.dumps(owner))
    message = f"on elsewhere, since yesterday; if that process is dead, remove {tmp_path}"
    with pytest.raises(FolderInUseError, match=message), claimed(tmp_path):
        pass
    assert record(tmp_path) == owner


@pytest.mark.parametrize("locks", [pytest.param(True, marks=posix), False])
@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_the_record_of_a_living_process_counts(
    tmp_path, monkeypatch, locks, alive, dead
):
    if not locks:
        monkeypatch.setattr(claims, "fcntl", None)
    pid = os.getppid() if alive else dead
    owner = {"pid": pid, "host": socket.gethostname(), "since": "yesterday"}
    (tmp_path / "owner.json").write_text(json.dumps(owner))
    refused = alive and not locks  # a lock that nobody holds says more than a record
    expectation = pytest.raises(FolderInUseError, match="wait for it") if refused else nullcontext()
    with expectation, claimed(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("damaged", "who"),
    [
        (b'{"host": "elsewhere"}', "another process on elsewhere;"),
        (b'{"host": "elsewhere", "pid": "x"}', "another process on elsewhere;"),
        (b'{"host": "elsewhere", "pid": 7}', "process 7 on elsewhere;"),
    ],
)
def test_a_damaged_record_of_another_host_still_counts(tmp_path, damaged, who):
    (tmp_path / "owner.json").write_bytes(damaged)
    with pytest.raises(FolderInUseError, match=who), claimed(tmp_path):
        pass
    assert (tmp_path / "owner.json").read_bytes() == damaged


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"[1]", b'{"pid": "x"}', b"{", b""])
def test_a_record_that_says_nothing_holds_nothing(tmp_path, damaged):
    (tmp_path / "owner.json").write_bytes(damaged)
    with claimed(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()


def test_a_longer_record_of_a_dead_owner_is_replaced_as_a_whole(tmp_path, dead):
    longer = {"pid": dead, "host": socket.gethostname(), "since": "long ago" * 50}
    (tmp_path / "owner.json").write_text(json.dumps(longer))
    with claimed(tmp_path):
        assert record(tmp_path)["pid"] == os.getpid()
