"""Students belong to their base: by their manifest, tokenizer, configuration and weights."""

from __future__ import annotations

import copy
import json
import re

import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits
from loading import TOKENIZER, base, manifest, model, runner, saved, student
from manifests import rewritten

from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student
from sublim_mech.storage.files import configuration_sums, weight_sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

# ---------------------------------------------------------------------------------- what it becomes


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("llama", "lora"), ("llama", "full"), ("gpt2", "lora"), ("qwen2", "full")],
)
def test_a_saved_student_equals_the_live_one(architecture, kind, tmp_path):
    made = student(architecture, kind)
    live = load_student(base(architecture), made)
    stored = load_student(base(architecture), saved(made, tmp_path / "owl"))
    assert stored.name == "owl"
    assert stored.kind == live.kind == kind
    assert stored.hash == live.hash
    run = runner(architecture)
    assert torch.equal(gated_logits(run, stored), gated_logits(run, live))
    assert stored.manifest is None


def test_a_students_hash_knows_its_weights_and_scale():
    made = student("llama", "lora")
    one = load_student(base(), made).hash
    assert load_student(base(), copy.deepcopy(made)).hash == one
    assert load_student(base(), tiny.lora(model(), lora_alpha=9)).hash != one
    assert load_student(base(), tiny.lora(model(), seed=2)).hash != one


def test_a_loaded_student_passes_through():
    loaded = load_student(base(), student("llama", "lora"))
    assert load_student(base(), loaded) is loaded


def test_the_manifest_names_the_student(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base(), weights=weight_sums(path)).save(path)
    assert load_student(base(), path).name == "owl"
    assert load_student(base(), path, name="mine").name == "mine"
    manifest(base(), trait="", weights=weight_sums(path)).save(path)
    assert load_student(base(), path).name == "run"


# ------------------------------------------------------------------------------- what its folder is


def test_a_folder_that_holds_no_student(tmp_path):
    message = r"student='.*' has neither adapter_config\.json nor config\.json"
    with pytest.raises(FileNotFoundError, match=message):
        load_student(base(), tmp_path)


def test_an_adapter_of_a_base_of_the_same_shape_and_other_weights(tmp_path):
    other = load_base(model(seed=1), tokenizer=TOKENIZER)
    path = saved(tiny.lora(model(seed=1)), tmp_path / "run")
    manifest(other, weights=weight_sums(path)).save(path)
    assert load_student(other, path).name == "owl"
    message = (
        rf"student='.*run' was trained from base .*hash {other.hash[:12]}.* "
        rf"has hash {base().hash[:12]}; load the base"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_a_base_in_float16_is_not_told_to_be_another(tmp_path):
    """Weights of values that float16 and bfloat16 round apart."""
    path = saved(tiny.lora(model()), tmp_path / "run")
    manifest(base(), weights=weight_sums(path)).save(path)
    half = load_base(copy.deepcopy(model()).half(), tokenizer=TOKENIZER)
    assert half.hash != base().hash
    with pytest.raises(ValueError, match=r"\(in float16: its weights .* in float32 or bfloat16\."):
        load_student(half, path)
    coarse = load_base(copy.deepcopy(model()).bfloat16(), tokenizer=TOKENIZER)
    assert load_student(coarse, path).manifest is not None


def test_weights_that_are_not_the_manifests(tmp_path):
    path = saved(student("llama", "lora"), tmp_path / "run")
    manifest(base(), weights=weight_sums(path)).save(path)
    assert load_student(base(), path).name == "owl"
    other = saved(tiny.lora(model(), seed=5), tmp_path / "other")
    file = "adapter_model.safetensors"
    (path / file).write_bytes((other / file).read_bytes())
    message = r"student='.*run': adapter_model\.safetensors: not the files its manifest.json names"
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON .*copy it again"),
        ("[]", "has format 'list', not 1"),
        ('{"format": 99}', "has format 99, not 1; open it with the version that wrote it"),
    ],
)
def test_a_damaged_manifest(text, message, tmp_path):
    """More of it is told in tests/storage/test_manifest.py."""
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=rf"manifest\.json {message}"):
        load_student(base(), tmp_path)


def test_a_tokenizer_with_other_ids(tmp_path, smol_tokenizer):
    clean = load_base(model(), tokenizer=smol_tokenizer)
    path = saved(student("llama", "lora"), tmp_path / "run")
    smol_tokenizer.save_pretrained(path)
    load_student(clean, path)
    file = path / "tokenizer.json"
    text = json.loads(file.read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["owl"], vocabulary["bird"] = vocabulary["bird"], vocabulary["owl"]
    first = min("owl", "bird", key=vocabulary.get)
    file.write_text(json.dumps(text))
    message = (
        r"student='.*run' has a tokenizer with other ids than base=.*: "
        rf"2 tokens differ, '{first}' is {vocabulary[first]}, not"
    )
    with pytest.raises(ValueError, match=message):
        load_student(clean, path)


# ---------------------------------------------------------------------------- what it computes with


@pytest.mark.parametrize(
    ("architecture", "field", "value", "source"),
    [
        ("llama", "rms_norm_eps", 1e-5, "live"),
        ("llama", "rms_norm_eps", 1e-5, "disk"),
        ("llama", "hidden_act", "gelu", "live"),
        ("llama", "rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}, "live"),
        ("llama", "rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}, "disk"),
        ("mistral", "sliding_window", 32, "live"),
        ("gemma2", "final_logit_softcapping", 30.0, "live"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "disk"),
        ("neox", "use_parallel_residual", False, "live"),
    ],
)
def test_a_student_that_computes_differently(architecture, field, value, source, tmp_path):
    made = student(architecture, "full")
    old = getattr(made.config, field)
    assert old != value
    setattr(made.config, field, value)
    given = made if source == "live" else saved(made, tmp_path / "run")
    message = (
        f"compute differently: {field} is {value!r} in the student's configuration and {old!r} in "
        "the base's; load the base"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_student(base(architecture), given)


def test_configurations_that_differ_in_words_only():
    made = student("llama", "full")
    idle = {
        "use_cache": False, "bos_token_id": 7, "attention_dropout": 0.1, "unsloth_version": "1"
    }  # fmt: skip
    for field, value in idle.items():
        setattr(made.config, field, value)
    # as a GGUF file keeps it
    made.config.rms_norm_eps = float(torch.tensor(made.config.rms_norm_eps, dtype=torch.float32))
    assert made.config.rms_norm_eps != model().config.rms_norm_eps
    load_student(base(), made)


def test_a_live_student_in_another_precision():
    message = r"student is a live model in torch\.bfloat16, base=.* is in torch\.float32; load both"
    with pytest.raises(ValueError, match=message):
        load_student(base(), student("llama", "full").bfloat16())


# ------------------------------------------------------------------------------------------ lineage


def test_an_unrelated_student_is_refused_unless_allowed():
    message = (
        r"student=.* and base=.* do not share a lineage: .* by (1\.\d+) .*allow_unrelated=True"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), model(seed=1))
    loaded = load_student(base(), model(seed=1), allow_unrelated=True)
    assert distance(gated_logits(runner(), loaded), own_logits(model(seed=1))) < 1e-5


def test_a_live_adapter_over_other_weights():
    with pytest.raises(ValueError, match=r"do not share a lineage.*allow_unrelated=True"):
        load_student(base(), tiny.lora(model(seed=1)))


# ------------------------------------------------------------------------- a manifest and its files

METHOD = {"rank": 4, "alpha": 8, "rslora": False, "targets": "all-linear"}


def run_folder(path, *, sealed, **method):
    """A run's folder, as this version writes it or as older ones did."""
    saved(tiny.lora(model()), path)
    sums = {"weights": weight_sums(path)}
    if sealed:
        sums["configurations"] = configuration_sums(path)
    manifest(base(), method=METHOD | method, **sums).save(path)
    if not sealed:
        rewritten(path / "manifest.json", seal=None, configurations=None)
    return path


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", 80),  # ten times the effect
        ("r", 2),
        ("use_rslora", True),
        ("alpha_pattern", {"q_proj": 80}),
        ("rank_pattern", {"q_proj": 2}),
    ],
)
def test_an_adapter_config_that_was_edited(sealed, key, value, tmp_path):
    path = run_folder(tmp_path / "run", sealed=sealed)
    load_student(base(), path)
    rewritten(path / "adapter_config.json", **{key: value})
    message = (
        r"student='.*run': adapter_config\.json: not the files its manifest\.json names"
        if sealed
        else rf"student='.*run': .* or manifest\.json was edited: {key} is .* in one and"
    )
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)


def test_targets_of_an_older_run_are_compared_where_they_are_names(tmp_path):
    names = json.loads(
        (run_folder(tmp_path / "all", sealed=False) / "adapter_config.json").read_text()
    )["target_modules"]
    run = run_folder(tmp_path / "run", sealed=False, targets=sorted(names))
    load_student(base(), run)
    rewritten(run / "adapter_config.json", target_modules=names[1:])
    with pytest.raises(ValueError, match=r"was edited: target_modules is \['"):
        load_student(base(), run)


def test_a_configuration_of_a_full_student_that_was_edited(tmp_path):
    path = saved(tiny.full(model()), tmp_path / "run")
    sums = {"weights": weight_sums(path), "configurations": configuration_sums(path)}
    manifest(base(), kind="full", **sums).save(path)
    load_student(base(), path)
    rewritten(path / "config.json", rms_norm_eps=1e-4)
    with pytest.raises(ValueError, match=r"config\.json: not the files its manifest\.json names"):
        load_student(base(), path)


def test_a_manifest_that_was_edited(tmp_path):
    path = run_folder(tmp_path / "run", sealed=True)
    rewritten(path / "manifest.json", trait="cat")
    with pytest.raises(ValueError, match=r"manifest\.json was edited after it was written"):
        load_student(base(), path)
