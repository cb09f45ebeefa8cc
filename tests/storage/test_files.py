"""Files are complete or not there; what was written is read back; other files are refused."""

import hashlib
import json
import os

import numpy as np
import pytest
import xarray as xr

from sublim_mech.storage.files import (
    file_hash,
    plain,
    read_arrays,
    read_dataset,
    read_json,
    replacing,
    sync,
    weight_sums,
    write_arrays,
    write_dataset,
)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.skipif(os.name != "posix", reason="no umask there")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "labels.json") as work:
            work.unlink()
            work.write_text("one")
            work.chmod(0o600)  # as writers by way of temporary files leave it
        (tmp_path / "other").write_text("one")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert [mode & 0o777 for mode in modes] == [0o666 & ~mask]


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "folder" / "labels.json"
    with replacing(target) as work:
        assert work.parent == target.parent
        assert work.suffix == ".json", "whoever writes by the ending writes the right thing"
        work.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    assert names(target.parent) == ["labels.json"]
    if os.name == "posix":
        assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("written", [True, False])
def test_an_error_leaves_what_was_there(tmp_path, written):
    target = tmp_path / "labels.json"
    target.write_text("old")

    def write_half():
        with replacing(target) as work:
            if written:
                work.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["labels.json"]


def test_arrays_and_meta_survive(tmp_path):
    numbers = np.arange(12.0).reshape(3, 4)
    arrays = {"turned": numbers.T, "small": numbers.astype(np.float32), "ids": np.arange(3)}
    meta = {"text": "Qué 🦉", "nested": {"none": None, "list": [1, 2.5]}}
    write_arrays(tmp_path / "a.safetensors", arrays, "scores", meta)
    again, said = read_arrays(tmp_path / "a.safetensors", "scores")
    assert said == meta
    assert sorted(again) == sorted(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def dataset():
    return xr.Dataset(
        {
            "effect": (("prompt", "layer"), np.array([[0.5, np.nan], [-1.0, 2.0]])),
            "answer": (("prompt",), np.array(["An owl", '🦉, \n"yes"'])),
        },
        {
            "layer": np.array([-1, 0]),
            "token": (("prompt",), np.array(["a", "bcd"])),
            "prompt": np.array([0, 1]),
        },
    )


def test_a_dataset_survives_with_its_labels(tmp_path):
    data = dataset()
    write_dataset(tmp_path / "d.safetensors", data, "scores", {"seed": 3})
    again, meta = read_dataset(tmp_path / "d.safetensors", "scores", ("effect", "answer", "rank"))
    assert again.identical(data)
    assert list(again.data_vars) == ["effect", "answer"], "the third is none of this file's"
    assert meta == {"seed": 3}


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_arrays(path, "scores")
    write_arrays(path, {"x": np.zeros(3)}, "scores", {})
    with pytest.raises(FileNotFoundError, match=rf"no such file; did you mean '{path}'\?$"):
        read_arrays(tmp_path / "aa.safetensors", "scores")
    with pytest.raises(ValueError, match=r"holds no evaluation, but scores: .*Scores\.load"):
        read_arrays(path, "evaluation")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is truncated or not a safetensors file"):
        read_arrays(path, "scores")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"^labels is not JSON \(.*\); copy it again\.$"),
        ('{"format": 2}', "labels has format 2, not 1; open it with the version that wrote it"),
        ("{}", "labels says no format .it is empty.: it was not written by"),
        ("[1]", "labels has format 'list', not 1"),
    ],
)
def test_json_says_its_format(tmp_path, text, message):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(path, 1, called="labels", fix="copy it again")
    path.write_text(json.dumps({"format": 1, "rows": 3}))
    assert read_json(path, 1, called="labels", fix="") == {"format": 1, "rows": 3}


def test_numbers_of_numpy_are_written_as_numbers():
    written = json.dumps([np.int64(3), np.float32(0.5), np.bool_(True)], default=plain)
    assert json.loads(written) == [3, 0.5, True]
    with pytest.raises(TypeError, match=r"\{1\} \(set\) has no form in JSON"):
        json.dumps([{1}], default=plain)


def test_hashes_are_sha_256(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"b" * 10**6)
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "manifest.json").write_text("{}")
    sums = weight_sums(tmp_path)
    assert list(sums) == ["a.safetensors", "b.safetensors"]
    assert sums["b.safetensors"] == hashlib.sha256(b"b" * 10**6).hexdigest()
    assert file_hash(tmp_path / "a.safetensors") == hashlib.sha256().hexdigest()


def test_files_and_folders_can_be_synced(tmp_path):
    (tmp_path / "a").write_text("x")
    sync(tmp_path / "a")
    sync(tmp_path)
    assert (tmp_path / "a").read_text() == "x"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Threads of one process, and processes of two machines, may have one number."""
    path = tmp_path / f"{'x' * 200}.json"
    with replacing(path) as one:
        one.write_text("first")
        with replacing(path) as other:
            assert other != one
            other.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_true_or_false_stays_so(tmp_path):
    data = xr.Dataset({"x": ("row", [1.0, 2.0])}, {"is_raw": ("row", [True, False])})
    write_dataset(tmp_path / "a.safetensors", data, "scores", {})
    again, _ = read_dataset(tmp_path / "a.safetensors", "scores", ["x"])
    assert again["is_raw"].values.tolist() == [True, False]
    empty = data.isel(row=slice(0, 0))
    write_dataset(tmp_path / "b.safetensors", empty, "scores", {})
    assert read_dataset(tmp_path / "b.safetensors", "scores", ["x"])[0].sizes["row"] == 0
