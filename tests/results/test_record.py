"""The record: what is written is read again, older files included; what is not known is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from safetensors import safe_open

from sublim_mech.results.record import Compute, Forms, Record, StudentSource
from sublim_mech.results.scores import Scores

OLD = Path(__file__).parents[1] / "data" / "scores"
"""Files of 0.1.0 before the record had named fields, and what their scores printed."""


def through_json(record):
    return Record.from_json(json.loads(json.dumps(record.to_json())))


@pytest.mark.parametrize("name", synthetic.all_scores())
def test_a_record_is_read_as_it_was_written(name):
    record = synthetic.all_scores()[name].record
    assert through_json(record) == record


def test_every_field_is_read_as_it_was_written():
    record = replace(
        synthetic.confirmed(synthetic.gradient()).record,
        compute=Compute("bfloat16", 0.013),
        points=8,
        measure="sufficiency",
        direction="both",
        answer_gate={"sufficiency": 0.0, "necessity": 1.0},
        donor_contexts=("{}",),
        donors="prompts 1234, position_map 'aligned'",
        sets={"last": "positions(-1)"},
        selected={"layer": [1, 2], "head": 3},
        minus=("log P(cat)", "log P(dog)"),
        minus_measured=("TraitMetric(cat)", "TraitMetric(dog)"),
        measured="TraitMetric(owl)",
        forms=(
            Forms("owl", ("owl", "owls", "Owl"), {"owls": "owl"}, ("owls",)),
            Forms("cat", ("cat",)),
        ),
        training_context="{}",
        spans="word",
        refined=2,
        copies=3,
        unread=1,
        notes=("a student equals its base",),
        where="user",
        hybrid="the base",
        run="runs/owl",
        step_hashes={"20": "1", "40": "2"},
        students={"student": StudentSource("owl", "lora", "1", "prompted", data="numbers")},
    )
    empty = [name for name, value in vars(record).items() if value in (None, "", 0, (), {})]
    assert not empty  # a field added later belongs above
    assert through_json(record) == record


def test_fields_that_do_not_apply_are_not_written():
    assert set(synthetic.effect().record.to_json()) == {
        "metric",
        "unit",
        "base",
        "students",
        "contexts",
        "n_layers",
        "versions",
        "command",
    }


# -------------------------------------------------------------------------------------- older files


def stored(name):
    """The arrays and the metadata of an old file, as any other tool reads them."""
    with safe_open(str(OLD / f"{name}.safetensors"), "np") as handle:
        arrays = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        return arrays, json.loads(handle.metadata()["sublim_mech.scores"])


@pytest.mark.parametrize("name", ["activation_ig", "sweep"])
def test_files_from_before_the_record_load_equal(name):
    scores = Scores.load(OLD / f"{name}.safetensors")
    arrays, meta = stored(name)
    assert isinstance(meta["provenance"], dict)
    assert scores.kind == meta["kind"]
    assert scores.record.to_json() == meta["provenance"]
    for key, values in arrays.items():
        np.testing.assert_array_equal(scores.data[key].values, values)
    labels = {key: entry.get("values") for key, entry in meta["variables"].items()}
    assert "answer" not in np.unique(labels["sharing"])  # seen or novel they were called
    for p, roles in enumerate(labels["role"]):
        names = zip(roles, labels["sharing"][p], strict=True)
        labels["sharing"][p] = [role if role == "answer" else name for role, name in names]
    for key, entry in meta["variables"].items():
        assert scores.data[key].dims == tuple(entry["dims"])
        if "values" in entry:
            assert scores.data[key].values.tolist() == labels[key]
    assert set(scores.data.variables) == {*meta["variables"], "layer_name"}
    assert repr(scores) + "\n" == (OLD / f"{name}.txt").read_text()


def test_layers_of_older_files_are_named_from_the_depth():
    sweep = Scores.load(OLD / "sweep.safetensors")
    assert sweep.data["layer"].values.tolist() == [2, 3]
    assert sweep.layer_names() == ["2", "final"]
    assert sweep.block_names() == ["blocks.2", "ln_final+unembed"]
    assert Scores.load(OLD / "activation_ig.safetensors").layer_names() == ["0", "1", "2"]


def test_fields_of_older_files_have_their_names():
    record = Scores.load(OLD / "activation_ig.safetensors").record
    assert (record.method, record.points, record.site) == ("activation_ig", 2, "resid_pre")
    assert list(record.students) == ["student", "control: cat"]
    assert isinstance(record.students["student"], StudentSource)
    assert record.students["student"].teacher == "unknown"
    assert record.confirmation.k == 3
    assert len(record.confirmation.cells) == 6
    assert (record.measure, record.minus, record.selected) == (None, (), {})


# ----------------------------------------------------------------------------------- other versions


def test_unknown_fields_are_named_with_the_version_that_wrote_them():
    written = synthetic.confirmed(synthetic.gradient()).record.to_json()
    written["versions"] = {"sublim_mech": "7.1"}
    said = "has no field {}.*written by sublim_mech 7.1; open them with that version"
    with pytest.raises(ValueError, match="Record " + said.format("'sites'; did you mean 'site'")):
        Record.from_json({**written, "sites": []})
    for part in ("base", "confirmation"):
        changed = {**written, part: {**written[part], "weather": "fine"}}
        with pytest.raises(ValueError, match=said.format("'weather'")):
            Record.from_json(changed)
    students = {"student": {**written["students"]["student"], "weather": "fine"}}
    with pytest.raises(ValueError, match="StudentSource " + said.format("'weather'")):
        Record.from_json({**written, "students": students})


def test_missing_fields_are_named():
    written = synthetic.effect().record.to_json()
    del written["metric"], written["students"]
    with pytest.raises(ValueError, match=r"Record lacks metric, students; .* 0\.1\.0"):
        Record.from_json(written)
