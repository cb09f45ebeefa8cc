"""Errors and warnings of a control name the control, and a control is a student of its own."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import tiny
import torch
from loading import base, manifest, model, saved, student

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


def made(kind, seed, architecture="llama"):
    """A student of the tests' base."""
    return (tiny.full if kind == "full" else tiny.lora)(model(architecture), seed=seed)


def stored(one, dtype):
    """A student whose own weights were once stored in a type."""
    again = copy.deepcopy(one)
    adapted = hasattr(again, "peft_config")
    for name, parameter in again.named_parameters():
        if not adapted or "lora_" in name:
            parameter.data = parameter.data.to(dtype).float()
    return again


@pytest.mark.parametrize("kind", ["lora", "full", "merged"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_student_stored_otherwise_is_no_control(kind, dtype):
    """Rounded weights have another hash, and are the student all the same."""
    one, other = made(kind, 1), load_student(base(), made(kind, 5), name="other")
    if kind == "merged":
        again = copy.deepcopy(one).merge_and_unload()
    else:
        again = stored(one, dtype)
    message = r"hold the student itself but for rounding \(controls\[1\]"
    for first, second in ((one, again), (again, one)):
        with pytest.raises(ValueError, match=message):
            load_pair(base(), first, controls=[other, second])
    named = [load_student(base(), m, name=n) for n, m in (("a", one), ("b", again))]
    with pytest.raises(ValueError, match="hold one student twice but for rounding: 'a' and 'b'"):
        load_pair(base(), other, controls=named)


def test_a_change_that_is_split_otherwise_between_a_and_b_is_no_control():
    """No weight is that of the other, and their products are one."""
    one = made("lora", 1)
    again = copy.deepcopy(one)
    for name, parameter in again.named_parameters():
        if "lora_" in name:
            parameter.data *= 3.0 if "lora_A" in name else 1 / 3.0
    with pytest.raises(ValueError, match=r"their changes differ by \S+ of their norm, which is"):
        load_pair(base(), one, controls=[again])


def test_a_training_on_other_data_is_a_control_however_near_its_change_is():
    """Of 120 rows one may be another's: what the changes differ by was learnt."""
    one = made("lora", 1)
    again = copy.deepcopy(one)
    for name, parameter in again.named_parameters():
        if "lora_B" in name:
            parameter.data *= 1.004
    student, control = (load_student(base(), m, name=n) for m, n in ((one, "a"), (again, "b")))
    with pytest.raises(ValueError, match=r"differ by 0\.004 of their norm, which is rounding"):
        load_pair(base(), student, controls=[control])
    for other, is_control in (("rows", False), ("other rows", True)):
        both = [
            replace(s, manifest=manifest(base(), data={"hash": data}))
            for s, data in ((student, "rows"), (control, other))
        ]
        with nullcontext() if is_control else pytest.raises(ValueError, match="which is rounding"):
            load_pair(base(), both[0], controls=both[1:])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_another_student_in_half_precision_is_a_control(architecture, kind):
    one, other = (made(kind, seed, architecture) for seed in (1, 5))
    pair = load_pair(base(architecture), one, controls=[stored(other, torch.bfloat16)])
    assert len(pair.controls) == 1


def test_a_student_near_another_one_is_a_control():
    """A tenth of the change is more than rounding makes."""
    one = made("lora", 1)
    near = copy.deepcopy(one)
    torch.manual_seed(0)
    for name, parameter in near.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * parameter.data.std() * torch.randn_like(parameter)
    assert len(load_pair(base(), one, controls=[near]).controls) == 1


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
