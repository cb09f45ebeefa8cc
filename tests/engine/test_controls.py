"""Errors and warnings of a control name the control, and a control is a student of its own."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from loading import base, model, saved, student

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.students import load_student


@pytest.fixture
def good(tmp_path):
    return saved(tiny.lora(model(), seed=2), tmp_path / "cat")


def spoil(path, kind):
    """A control's folder, spoilt."""
    if kind == "missing":
        return path / "nowhere"
    if kind == "no configuration":
        (path / "adapter_config.json").unlink()
    elif kind == "truncated":
        file = path / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "rank":
        file = path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 3}))
    elif kind == "no configuration object":
        (path / "adapter_config.json").write_text("[]")
    return path


KINDS = ("missing", "no configuration", "truncated", "rank", "no configuration object")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_a_control_is_told_of_the_control(kind, good, tmp_path):
    wrong = spoil(good, kind)
    fine = saved(tiny.lora(model(), seed=3), tmp_path / "dog")
    with pytest.raises((ValueError, OSError)) as of_student:
        load_pair(base(), wrong)
    with pytest.raises((ValueError, OSError)) as of_control:
        load_pair(base(), student("llama", "lora"), controls=[fine, wrong])
    assert "student" in str(of_student.value).partition("=")[0].partition(":")[0]
    said = str(of_control.value)
    assert said.startswith("controls[1]")
    assert "student=" not in said
    assert said == str(of_student.value).replace("student", "controls[1]", 1)
    assert type(of_control.value) is type(of_student.value)


def test_an_adapter_that_is_no_control_is_told_by_its_own_argument():
    several = tiny.lora(model())
    several.add_adapter("cat", several.peft_config["default"])
    with pytest.raises(ValueError, match=r"^control_adapters\[0\]='dog' is no adapter of the stud"):
        load_pair(base(), several, adapter="default", control_adapters=["dog"])


@pytest.mark.parametrize("how", ["copied", "named"])
def test_a_copy_of_a_control_is_no_second_control(how, good, tmp_path):
    copy = tmp_path / "other" / "wolf"
    shutil.copytree(good, copy)
    controls = [good, copy]
    if how == "named":
        controls = [load_student(base(), good, name=name) for name in ("a", "b")]
    with pytest.raises(
        ValueError, match=r"hold one student twice: '.*' and '.*' have the same wei"
    ):
        load_pair(base(), student("llama", "lora"), controls=controls)


def test_a_control_of_alpha_zero_controls_for_nothing(tmp_path):
    path = saved(tiny.lora(model(), seed=2), tmp_path / "cat")
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 0}))
    with pytest.warns(UserWarning, match=r"controls\[0\]='cat': equals its base.*lora_alpha is 0"):
        pair = load_pair(base(), student("llama", "lora"), controls=[path])
    assert any(
        "control cat: equals its base" in note and "it controls for nothing" in note
        for note in pair.notes()
    )


def test_a_control_that_cannot_be_gated_is_told_as_one(monkeypatch):
    from sublim_mech.models.sites import Sites

    def refuse(self, name, deltas):
        if name == "cat":
            raise ValueError(f"student={name!r} changes what cannot be gated.")

    monkeypatch.setattr(Sites, "check_gated", refuse)
    cat = load_student(base(), tiny.lora(model(), seed=2), name="cat")
    with pytest.raises(ValueError, match=r"^controls\[0\]='cat' changes what"):
        load_pair(base(), student("llama", "lora"), controls=[cat])
    assert torch.is_grad_enabled()
