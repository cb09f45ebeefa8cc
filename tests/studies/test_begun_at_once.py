"""Shards that begin one folder at once: whatever one has written so far, the others may open it."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from small_studies import R2, small_study

from sublim_mech.studies import Part
from sublim_mech.studies.store import STORE_FILE, Store
from sublim_mech.studies.written import to_json

STUDY = small_study("no-model", Part(name="p", methods=[R2]))


def beside(monkeypatch, other):
    """Have another process act before and behind every change that this one makes to the disk."""
    inside = []

    def acts():
        if not inside:
            inside.append(True)
            try:
                other()
            finally:
                inside.clear()

    def watched(change):
        def wrapper(*args, **kwargs):
            acts()
            done = change(*args, **kwargs)
            acts()
            return done

        return wrapper

    for owner, name in [
        (Path, "mkdir"), (Path, "touch"), (Path, "write_text"), (os, "replace"), (Path, "replace")
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


def test_a_folder_that_is_being_begun_is_opened_at_every_moment(tmp_path, monkeypatch):
    moments = []

    def opens():
        store = Store(tmp_path / "out")
        moments.append((store.begun, store.folder.exists() and any(store.folder.iterdir())))

    beside(monkeypatch, opens)
    Store(tmp_path / "out").begin(STUDY)
    assert (False, True) in moments, "a moment at which there are files, and no store.json yet"
    assert moments[-1] == (True, True)


def test_what_is_begun_between_two_looks_is_no_folder_of_others(tmp_path, monkeypatch):
    listed = Path.iterdir

    def begun_meanwhile(folder):
        if not (folder / STORE_FILE).exists():
            monkeypatch.undo()
            Store(folder).begin(STUDY)
        return listed(folder)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "iterdir", begun_meanwhile)
    assert Store(tmp_path / "out").begun


def test_a_folder_of_others_is_refused_also_with_what_a_killed_process_left(tmp_path):
    (tmp_path / f".store.{'0' * 16}.json").touch()
    assert not Store(tmp_path).begun
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"is no folder of studies \(it has no store.json\)"):
        Store(tmp_path)


GROWN = replace(STUDY, parts=(*STUDY.parts, Part(name="q", methods=[replace(R2, ranks=(3,))])))
CHANGED = replace(STUDY, parts=(Part(name="p", methods=[replace(R2, ranks=(5,))]),))


@pytest.mark.filterwarnings("ignore:study 'small'. another study of this name")
@pytest.mark.parametrize(("now", "kept"), [(GROWN, []), (CHANGED, [STUDY])])
def test_shards_that_find_another_study_both_write_what_it_is_now(tmp_path, monkeypatch, now, kept):
    """The second shard has its whole turn at one moment of the first one's: at each of them."""
    moment, behind = 0, False
    while not behind:
        folder = tmp_path / str(moment)
        Store(folder).begin(STUDY)
        moments = count()

        def at_its_moment(moment=moment, folder=folder, moments=moments):
            if next(moments) == moment:
                Store(folder).begin(now)

        with monkeypatch.context() as patched:
            beside(patched, at_its_moment)
            Store(folder).begin(now)
        there = {one.name: one.read_text() for one in (folder / "studies").iterdir()}
        assert there.pop("small.json") == to_json(now)
        assert list(there.values()) == [to_json(one) for one in kept]
        moment, behind = moment + 1, next(moments) <= moment
    assert moment > 20
