"""Manifests survive, say what determines a result, and are refused when damaged."""

from dataclasses import fields, replace

import pytest
from manifests import made, rewritten

from sublim_mech.prompts import Context
from sublim_mech.storage.files import configuration_sums, weight_sums
from sublim_mech.storage.manifest import Manifest


def test_a_manifest_survives(tmp_path):
    manifest = made()
    manifest.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path / "elsewhere") is None


def test_a_manifest_written_before_contents_were_hashed_loads(tmp_path):
    made().save(tmp_path)
    rewritten(tmp_path / "manifest.json", content=None, configurations=None, seal=None)
    assert Manifest.load(tmp_path) == replace(made(), content="", configurations={})


def test_a_manifest_written_before_it_was_sealed_loads(tmp_path):
    made().save(tmp_path)
    # its context had no date either
    context = made().context.to_json()
    rewritten(tmp_path / "manifest.json", configurations=None, seal=None, context=context)
    assert Manifest.load(tmp_path) == replace(made(), configurations={})


@pytest.mark.parametrize(
    ("age", "change"),
    [
        # everything in it is sealed
        ({}, {"trait": "cat"}),
        ({}, {"teacher": "fine-tuned teacher"}),
        ({}, {"results": {"steps": 4}}),
        ({}, {"weights": {}}),
        ({}, {"configurations": {}}),
        ({}, {"content": ""}),
        # the seal is not all that says so
        ({"seal": None}, {"method": {"rank": 9}}),
        # what determines the result had a hash before
        ({"seal": None, "configurations": None}, {"method": {"rank": 9}}),
        ({"seal": None, "configurations": None}, {"base": {"name": "tiny", "hash": "abd"}}),
    ],
)
def test_an_edited_manifest_is_told_as_edited(tmp_path, age, change):
    made().save(tmp_path)
    rewritten(tmp_path / "manifest.json", **age, **change)
    with pytest.raises(ValueError, match=r"manifest\.json was edited after it was written"):
        Manifest.load(tmp_path)


def test_files_that_are_not_those_of_the_manifest(tmp_path):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text(name)
    sums = {
        "weights": weight_sums(tmp_path), "configurations": configuration_sums(tmp_path)
    }  # fmt: skip
    manifest, older = replace(made(), **sums), replace(made(), **sums | {"configurations": {}})
    assert manifest.changed_files(tmp_path) == older.changed_files(tmp_path) == []
    (tmp_path / "adapter_config.json").write_text("other")
    assert manifest.changed_files(tmp_path) == ["adapter_config.json"]
    assert older.changed_files(tmp_path) == []
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "more.safetensors").write_text("")
    told = ["adapter_model.safetensors (not there)", "more.safetensors (not named)"]
    assert older.changed_files(tmp_path) == told


# the base's name, and what was measured or wrote it, determine nothing
NO_INPUTS = {
    "results", "trained_on", "versions", "weights", "content", "configurations", "format", "base",
    "prompts",
}  # fmt: skip
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
    older = {"seal": None, "configurations": None, "content": None}
    rewritten(tmp_path / "manifest.json", **older, **change)
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    message = "is not JSON .*; copy it again or delete it to load the weights alone"
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)
