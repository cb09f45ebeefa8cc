"""Checkpoints are read whole and as they stand."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits
from loading import TOKENIZER, base, broken, edit, model, saved, student
from torch import Tensor

from sublim_mech.engine.runner import open_runner
from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
BF16, FP16 = torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("architecture", "kind", "dtype"),
    [
        ("llama", "lora", BF16),
        ("gpt2", "full", BF16),
        ("gemma2", "lora", BF16),
        ("gpt2", "lora", FP16),
        ("gemma2", "full", FP16),
    ],
)
def test_half_precision_checkpoints_are_read_as_they_stand(architecture, kind, dtype, tmp_path):
    """Stored in half precision: exact when computed in fp32, else within its own rounding."""
    mine, made = tiny.model(architecture), student(architecture, kind)
    for p in {*mine.parameters(), *made.parameters()}:
        p.data = p.data.to(dtype)  # not the buffers: rotary frequencies are never stored
    folders = saved(mine, tmp_path / "base"), saved(made, tmp_path / "student")
    expected = own_logits(mine.float()), own_logits(made.float())

    loaded = load_base(folders[0], tokenizer=TOKENIZER)
    read = load_student(loaded, folders[1])
    parameters = [*loaded.model.parameters(), *read.model.parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
    runner = open_runner(loaded)
    assert distance(gated_logits(runner, None), expected[0]) < 1e-5
    assert distance(gated_logits(runner, read), expected[1]) < 1e-5

    low = load_base(folders[0], tokenizer=TOKENIZER, dtype=dtype)
    assert low.hash == loaded.hash
    read = load_student(low, folders[1])
    assert distance(gated_logits(open_runner(low), read).float(), expected[1]) < 0.1


def test_a_base_directory_equals_the_live_model(tmp_path, smol_tokenizer):
    saved(model(), tmp_path / "base")
    smol_tokenizer.save_pretrained(tmp_path / "base")
    loaded = load_base(tmp_path / "base")
    assert (loaded.hash, loaded.name) == (base().hash, "base")
    assert torch.equal(own_logits(loaded.model), own_logits(model()))
    assert loaded.tokenizer("an owl")["input_ids"] == smol_tokenizer("an owl")["input_ids"]
    half = load_base(tmp_path / "base", tokenizer=TOKENIZER, dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert half.hash == base().hash


def lose(tensors: dict[str, Tensor]) -> None:
    tensors.pop(next(k for k in tensors if "layers.1" in k))


def test_missing_weights_are_not_made_up(tmp_path):
    full = broken("full", tmp_path / "full", lambda p: edit(p / "model.safetensors", lose))
    message = r"student='.*full' lacks 1 weight \(model\.layers\.1\..*copy it again"
    with pytest.raises(ValueError, match=message):
        load_student(base(), full)
    with pytest.raises(ValueError, match=r"base='.*full' lacks 1 weight"):
        load_base(full, tokenizer=TOKENIZER)


def test_tensors_without_a_place_are_told(tmp_path):
    """A bias that the configuration does not have; not the buffers that older versions wrote."""

    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    full = broken("full", tmp_path / "full", lambda p: edit(p / "model.safetensors", add))
    said = (
        r"1 tensor of its files \(model\.layers\.0\.self_attn\.q_proj\.bias, \.\.\.\) has no place"
    )
    with pytest.warns(UserWarning, match=f"base='.*full': {said}"):
        load_base(full, tokenizer=TOKENIZER)
    with pytest.warns(UserWarning, match=f"student='.*full': {said}"):
        load_student(base(), full)


def test_a_model_with_an_adapter_beside_it_is_no_base(tmp_path):
    """transformers puts the two into one."""
    both = saved(model(), tmp_path / "both")
    saved(student("llama", "lora"), both)
    with pytest.raises(ValueError, match="has an adapter beside the model"):
        load_base(both, tokenizer=TOKENIZER)


def test_folders_that_hold_no_base(tmp_path):
    message = r"base='.*' holds no model\*\.safetensors; pass a folder"
    with pytest.raises(FileNotFoundError, match=message):
        load_base(tmp_path, tokenizer=TOKENIZER)
    no_config = broken("full", tmp_path / "run", lambda p: (p / "config.json").unlink())
    message = r"base='.*run': the weights do not fit its config\.json"
    with pytest.raises(ValueError, match=message):
        load_base(no_config, tokenizer=TOKENIZER)
    bad_config = broken("full", tmp_path / "bad", lambda p: (p / "config.json").write_text("{"))
    with pytest.raises(FileNotFoundError, match=r"base='.*bad' cannot be loaded: .*JSON"):
        load_base(bad_config, tokenizer=TOKENIZER)
    no_tokenizer = saved(model(), tmp_path / "other")
    message = r"(?s)base='.*other' has no tokenizer .*; pass tokenizer="
    with pytest.raises(FileNotFoundError, match=message):
        load_base(no_tokenizer)


def test_weights_of_another_shape_than_the_configuration(tmp_path):
    path = saved(student("llama", "full"), tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ValueError, match=r"base='.*run': the weights do not fit its config\.json"):
        load_base(path, tokenizer=TOKENIZER)
