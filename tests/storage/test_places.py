"""Where nothing can be written, and where something else stands: one message, and no advice that
would lose anything.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from loading import base

import sublim_mech
from sublim_mech.models.students import load_student
from sublim_mech.storage.claims import claimed
from sublim_mech.storage.files import make_folder, replacing
from sublim_mech.storage.runs import new_folder, open_run, unfinished

IMPOSSIBLE = ("/proc/nothing/x", "/dev/null/x", "/sys/x/y")


def places():
    """Where this system makes no folder, whoever asks."""
    found = []
    for place in IMPOSSIBLE:
        try:
            Path(place).mkdir(parents=True)
        except OSError:
            found.append(place)
    return found


@pytest.mark.parametrize("place", [*places(), "x" * 300])
def test_where_no_folder_can_be_made_all_writers_say_so_alike(place, tmp_path):
    target = tmp_path / place  # an absolute one stays what it is
    with pytest.raises((PermissionError, FileExistsError)) as caught:
        make_folder(target / "in", "out", target)
    assert str(caught.value).startswith(f"out={str(target)!r}: ")
    writers = {
        "path": lambda: replacing(target / "scores.safetensors").__enter__(),
        "folder": lambda: new_folder(target / "run").__enter__(),
        "out": lambda: claimed(unfinished(target / "run")).__enter__(),
    }
    for argument, write in writers.items():
        with pytest.raises((PermissionError, FileExistsError)) as caught:
            write()
        said = str(caught.value)
        assert said.startswith(f"{argument}=")
        assert "choose another folder" in said
        assert ".unfinished" not in said


def test_a_training_that_has_not_finished_is_told_wherever_it_is_looked_for(tmp_path):
    work = unfinished(tmp_path / "owl")
    work.mkdir()
    for path in (tmp_path / "owl", work):
        for look in (open_run, lambda path: load_student(base(), path)):
            with pytest.raises(FileNotFoundError) as caught:
                look(path)
            said = str(caught.value)
            assert f"{work} is a training that has not finished: the same call of train" in said
    with pytest.raises(FileNotFoundError) as caught:
        load_student(base(), tmp_path / "cat")
    assert "not finished" not in str(caught.value)


def test_no_message_advises_to_remove_what_is_there():
    """Of what stands in the way nobody knows whose it is."""
    source = Path(sublim_mech.__file__).parent
    for file in source.rglob("*.py"):
        for line in re.findall(r"exists[^\n]*remove it", file.read_text(), re.IGNORECASE):
            raise AssertionError(f"{file.name}: {line}")
