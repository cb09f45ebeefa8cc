"""Buffers that are stored with the weights count as they do: in hash, watch and comparison."""

import copy

import architectures
import pytest
import tiny
import torch
from loading import Vocabulary, base, model, saved, student

from sublim_mech.models import load_base, load_student
from sublim_mech.models.buffers import stored_buffers
from sublim_mech.models.configuration import check_config, computed_apart, computing
from sublim_mech.storage.files import read_json


def moved(given):
    """A copy whose first stored buffer is another."""
    other = copy.deepcopy(given)
    name, buffer = next(stored_buffers(other))
    with torch.no_grad():
        buffer += 0.5
    return name, other


def test_a_stored_buffer_makes_another_base(tmp_path):
    """In a router it is the student's (`test_experts`); elsewhere no module has it."""
    name = "Gemma4ForCausalLM"
    given = architectures.model(name)
    tokenizer = Vocabulary(given.get_input_embeddings().weight.shape[0])
    loaded = load_base(given, tokenizer=tokenizer)
    buffer, other = moved(given)
    assert load_base(other, tokenizer=tokenizer).hash != loaded.hash
    for source in (other, saved(other, tmp_path / "other")):
        with pytest.raises(ValueError, match=f"in {buffer}, which is no weight"):
            load_student(loaded, source)
    load_student(loaded, saved(tiny.full(given), tmp_path / "full"))
    near = copy.deepcopy(given)
    with torch.no_grad():
        dict(stored_buffers(near))[buffer].mul_(1 + 1e-5)  # a file's rounding
    load_student(loaded, tiny.full(near))
    experts = load_base(architectures.model("DeepseekV3ForCausalLM"), tokenizer=tokenizer)
    assert load_base(moved(experts.model)[1], tokenizer=tokenizer).hash != experts.hash
    with torch.no_grad():
        dict(stored_buffers(loaded.model))[buffer].add_(1.0)
    with pytest.raises(ValueError, match=f"changed in place since they were loaded .{buffer}"):
        loaded.check_unchanged()


def test_most_models_have_none():
    for name in ("llama", "gpt2"):
        assert dict(stored_buffers(model(name))) == {}


def test_a_model_and_an_adapter_on_it_are_no_adapter_of_another(tmp_path):
    """Of the two the adapter alone would be read, and what the model learnt be lost."""
    both = saved(tiny.full(model()), tmp_path / "both")
    saved(student("llama", "lora"), both)
    with pytest.raises(ValueError, match="has a model and an adapter on it"):
        load_student(base(), both)
    beside_base = saved(copy.deepcopy(model()), tmp_path / "beside")
    saved(student("llama", "lora"), beside_base)
    assert load_student(base(), beside_base).kind == "lora"


def reaching(length, kind="longrope"):
    """A model of one reach; the weights are those of any other."""
    given = copy.deepcopy(model())
    rope = {"rope_type": kind, "original_max_position_embeddings": 64}
    given.config.rope_parameters = {**given.config.rope_parameters, **rope}
    given.config.max_position_embeddings = length
    return given


def test_a_rotary_embedding_may_count_with_how_far_a_model_reaches():
    near, far = reaching(128), reaching(4096)
    assert computed_apart(computing(near), computing(far), training=False) == {
        "max_position_embeddings": (128, 4096)
    }
    with pytest.raises(ValueError, match="max_position_embeddings is 4096"):
        check_config(near.config, far.config, student="s", name="b")
    plain = reaching(128, "default"), reaching(4096, "default")
    assert computed_apart(*map(computing, plain), training=True) == {}
    check_config(plain[0].config, plain[1].config, student="s", name="b")


def test_a_file_of_other_bytes_is_no_json(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"labels is not JSON .*; copy it again"):
        read_json(tmp_path / "a.json", 1, called="labels", fix="copy it again")
