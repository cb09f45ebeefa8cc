"""An adapter in another precision: a run folder of its own, the first one as it was."""

import dataclasses
import hashlib

import pytest
import torch
from comparing import distance, gated_logits, own_logits
from trainings import tensors, weights

from sublim_mech.engine.pair import load_pair
from sublim_mech.making.training.store import store_as
from sublim_mech.models.students import load_student
from sublim_mech.storage.runs import open_run


def test_an_adapter_stored_as_fp16(tiny_llama, lora_run, full_run, tmp_path):
    before = {path.name: path.read_bytes() for path in lora_run.path.iterdir()}
    small = store_as(lora_run, tmp_path / "small", torch.float16)
    assert {path.name for path in small.path.iterdir()} == set(before)
    stored, whole = tensors(small.path), tensors(lora_run.path)
    assert {name: x.dtype for name, x in stored.items()} == dict.fromkeys(whole, torch.float16)
    assert all(torch.equal(x, whole[name].half()) for name, x in stored.items())

    # the manifest differs in what it must and in nothing else
    made, of_whole = small.manifest, lora_run.manifest
    assert open_run(tmp_path / "small").manifest == made
    digest = hashlib.sha256(weights(small)).hexdigest()
    assert made.weights == {"adapter_model.safetensors": digest} != of_whole.weights
    assert made.method == {**of_whole.method, "store": "float16"}
    assert made.content == made.fingerprint() != of_whole.content
    changed = {name: getattr(of_whole, name) for name in ("weights", "method", "content")}
    assert dataclasses.replace(made, **changed) == of_whole

    pair = load_pair(tiny_llama, small.path)
    exact = load_student(tiny_llama, lora_run.path)
    assert pair.student.hash != exact.hash
    assert 0 < distance(gated_logits(pair, pair.student), own_logits(exact.model)) < 1e-2

    message = r"out='.*small' exists; choose another folder"
    with pytest.raises(FileExistsError, match=message):
        store_as(lora_run, tmp_path / "small", torch.float16)
    message = r"run='.*full' is a full run; only adapters are stored in another precision"
    with pytest.raises(ValueError, match=message):
        store_as(full_run, tmp_path / "other", torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert {path.name: path.read_bytes() for path in lora_run.path.iterdir()} == before
