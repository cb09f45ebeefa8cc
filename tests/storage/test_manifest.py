"""Manifests survive, say what determines a result, and are refused when damaged."""

import json
from dataclasses import fields, replace

import pytest
from manifests import made

from sublim_mech.prompts import Context
from sublim_mech.storage.manifest import Manifest


def test_a_manifest_survives(tmp_path):
    manifest = made()
    manifest.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path / "elsewhere") is None


def test_a_manifest_written_before_contents_were_hashed_loads(tmp_path):
    made().save(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    del data["content"]
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    assert Manifest.load(tmp_path) == replace(made(), content="")


# the base's name, and what was measured or wrote it, determine nothing
NO_INPUTS = {"results", "trained_on", "versions", "weights", "content", "format", "base"}
OTHER = {
    "kind": "full",
    "trait": "cat",
    "teacher": "steered",
    "context": Context(Context.NONE),
    "method": {"rank": 9},
    "objective": "ce",
    "data": {"hash": "other"},
    "optimiser": {"lr": 1.0},
    "seeds": {"live": ["data"]},
}


def test_the_fingerprint_is_that_of_all_inputs_and_of_nothing_else():
    manifest = made()
    assert {field.name for field in fields(Manifest)} - NO_INPUTS == set(OTHER)
    changed = [replace(manifest, **{name: value}) for name, value in OTHER.items()]
    changed.append(replace(manifest, base={"name": "tiny", "hash": "other"}))
    assert len({m.fingerprint() for m in (manifest, *changed)}) == 1 + len(changed)
    renamed = replace(
        manifest,
        base={"name": "elsewhere", "hash": "abc"},
        results={},
        versions={},
        weights={},
        content="",
    )
    assert renamed.fingerprint() == manifest.fingerprint()


def test_inputs_are_those_of_the_manifest_that_was_written(tmp_path):
    manifest = replace(made(), method={"targets": ("q", "v")})
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path).inputs() == manifest.inputs()
    assert manifest.inputs()["method"] == {"targets": ["q", "v"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r"unknown keys \['colour'\], missing keys \[\]; known keys are"),
        ({"trait": None}, r"unknown keys \[\], missing keys \['trait'\]"),
        ({"format": 2}, "has format 2, not 1"),
        ({"context": {"text": "x"}}, "its context or trained_on cannot be read"),
        ({"trained_on": {"prefix": [1]}}, "its context or trained_on cannot be read"),
        ({"trained_on": 3}, "its context or trained_on cannot be read"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, change, message):
    """A value of None takes the key away."""
    made().save(tmp_path)
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    message = "is not JSON .*; copy it again or delete it to load the weights alone"
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)
