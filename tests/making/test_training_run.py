"""A run folder: what it holds, what its manifest says, and that other tools open it."""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from comparing import distance, gated_logits, own_logits, snapshot
from peft import PeftModel
from stopping import StopError
from trainings import HELD_OUT, fit, labelled, small_base, tensors
from transformers import AutoModelForCausalLM, AutoTokenizer

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.making.training import FullFT, LoRA, loop, order, soft_data
from sublim_mech.making.training import run as running
from sublim_mech.models.base import load_base
from sublim_mech.models.students import load_student
from sublim_mech.prompts import Trained
from sublim_mech.storage.manifest import Manifest
from sublim_mech.storage.runs import open_run

ROOT = Path(__file__).parents[2]

# ------------------------------------------------------------------------------------- the manifest


def test_a_run_folder_holds_nothing_but_safetensors_and_text(either_run):
    kind = either_run.manifest.kind
    names = {path.name for path in either_run.path.iterdir()}
    of_kind = {
        "lora": {"adapter_model.safetensors", "adapter_config.json"},
        "full": {"model.safetensors", "config.json"},
    }
    assert names >= {*of_kind[kind], "manifest.json", "log.jsonl"}
    suffixes = {Path(name).suffix for name in names}
    assert suffixes <= {".safetensors", ".json", ".jsonl", ".jinja"}
    assert [path.name for path in either_run.path.parent.iterdir()] == [kind]


def test_the_manifest_says_how_the_run_was_made(either_run, tiny_llama, taught):
    made = either_run.manifest
    low_rank = made.kind == "lora"
    assert Manifest.load(either_run.path) == made == open_run(either_run.path).manifest
    assert (made.trait, made.teacher) == (
        "owl",
        "contrastive teacher, c=4, against 2 others: prompted teacher",
    )
    assert (made.base["name"], made.base["hash"]) == (tiny_llama.name, tiny_llama.hash)
    assert made.computing["dtype"] == "float32"
    assert made.computing["config"]["rms_norm_eps"] == tiny_llama.model.config.rms_norm_eps
    assert made.objective == "forward KL on support"
    assert made.data == {
        "hash": taught.hash,
        "rows": 16,
        "held_out": 4,
        "held_out_hash": None,
        "subsample": None,
        "support": list(taught.support),
    }
    of_lora = {
        "rank": 4,
        "alpha": 32,
        "targets": "all-linear",
        "dropout": 0.0,
        "rslora": False,
        "layers": None,
        "dora": False,
    }
    options = of_lora if low_rank else {"freeze": []}
    assert made.method == {**options, "store": "float32"}
    assert made.optimiser == {
        "name": "AdamW",
        "lr": 1e-2 if low_rank else 3e-3,
        "schedule": "linear",
        "warmup": 1,
        "clip": 1.0,
        "batch_size": 4,
        "steps": 12,
        "precision": "fp32",
        "stop_at": None,
        "evaluate_every": 5,
        "weight_decay": 0.0,
        "accumulate": 1,
        "bucket": 1,
        "order": "one seeded permutation of the rows after the other",
        "padding": 16,
        "snapshots": [],
        "gradient_checkpointing": False,
    }
    trained = taught.prompts[:-HELD_OUT], taught.completions[:-HELD_OUT]
    assert made.trained_on == Trained.of(*trained)
    assert made.content == made.fingerprint()
    (file,) = either_run.path.glob("*.safetensors")
    assert made.weights == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert set(made.versions) == {"torch", "transformers", "peft", "sublim_mech"}
    before, after = made.results["held_out"]
    assert f"held-out {before:.5f} -> {after:.5f} in 12 steps" in repr(either_run)


def test_a_manifest_with_every_kind_of_value_comes_back_equal(
    tiny_llama, strong_labels, smol_tokenizer, tmp_path
):
    context = sm.Context(system="Be brief.", user_prefix="Hi. ")
    about = dataclasses.replace(strong_labels.about, context=context, prompts={})
    dressed = dataclasses.replace(strong_labels, about=about)
    data = soft_data(smol_tokenizer, dressed, "owl")
    method = LoRA(rank=2, targets=("q_proj", "v_proj"))
    run = fit(tiny_llama, data, tmp_path / "run", method=method, stop_at=0.01)
    assert open_run(run.path).manifest == run.manifest
    assert run.manifest.context == context
    assert set(load_student(tiny_llama, run.path).deltas) == {
        f"model.layers.{layer}.self_attn.{projection}"
        for layer in range(tiny.LAYERS)
        for projection in ("q_proj", "v_proj")
    }


STORED = json.loads((ROOT / "tests" / "data" / "training_inputs.json").read_text())
"""What determined three runs of 07a543a (`Manifest.inputs`), and their content hashes."""


@pytest.mark.parametrize("name", STORED)
def test_equal_calls_have_the_content_hash_they_always_had(
    name, small, hard, tmp_path, monkeypatch
):
    """Else finished runs of an earlier version would be taken for other trainings."""
    # rows that are measured on and trained on were no error then
    monkeypatch.setattr(order, "_check_apart", lambda data, division, given: None)
    calls = {
        "defaults": (hard, {"method": None}),
        "all options": (
            labelled(hard, "listed"),
            {
                "method": LoRA(rank=2, alpha=4, targets=["q_proj"], layers=[0, 2], rslora=True),
                "objective": "reverse-kl",
                "lr": 1e-3,
                "accumulate": 2,
                "bucket": 2,
                "schedule": "cosine",
                "clip": None,
                "weight_decay": 0.1,
                "stop_at": 0.0,
                "snapshots": "log",
                "checkpoint_every": 1,
                "subsample": 10,
                "init_seed": 1,
                "order_seed": 2,
                "subsample_seed": 3,
                "precision": "bf16",
                "gradient_checkpointing": True,
                "store": torch.bfloat16,
            },
        ),
        "full, measured on other rows": (
            labelled(hard, "top-k"),
            {"method": FullFT(freeze="norms"), "held_out": labelled(hard, "full")},
        ),
    }
    data, options = calls[name]
    made = fit(small, data, tmp_path / "run", steps=2, **options).manifest
    # the base's weights are torch's random numbers, which other versions may draw otherwise
    inputs, content = STORED[name]["inputs"], STORED[name]["content"]
    as_before = dataclasses.replace(made, base={**made.base, "hash": inputs["base"]})
    assert as_before.inputs() == inputs
    assert as_before.fingerprint() == content


def test_manifests_older_than_the_content_hash_still_open():
    run = open_run(ROOT / "examples" / "students" / "owl")
    assert run.manifest.content == ""
    assert run.snapshots == {}


# -------------------------------------------------------------------------------------- other tools


def test_a_run_opens_in_plain_peft_and_transformers(tiny_llama, lora_run, full_run):
    adapted = PeftModel.from_pretrained(tiny.model("llama"), lora_run.path).eval()
    tuned = AutoModelForCausalLM.from_pretrained(full_run.path, dtype=torch.float32).eval()
    for run, plain in ((lora_run, adapted), (full_run, tuned)):
        pair = load_pair(tiny_llama, run.path)
        assert pair.student.kind == run.manifest.kind
        assert pair.student.name == "owl"
        expected = own_logits(plain)
        assert torch.equal(own_logits(pair.student.model), expected)
        assert distance(gated_logits(pair, pair.student), expected) < 1e-5
        assert distance(own_logits(tiny_llama.model), expected) > 0.01
        assert pair.training_prompts == run.manifest.trained_on
    tokenizer = AutoTokenizer.from_pretrained(full_run.path)
    assert tokenizer("12, 34")["input_ids"] == tiny_llama.tokenizer("12, 34")["input_ids"]
    assert tokenizer.chat_template == tiny_llama.tokenizer.chat_template


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_gpt2_runs_open_too(method, real_hard, smol_tokenizer, tmp_path):
    base = load_base(tiny.model("gpt2"), tokenizer=smol_tokenizer)
    run = fit(base, real_hard, tmp_path / "run", method=method, lr=3e-3, steps=2)
    pair = load_pair(base, run.path)
    if method.kind == "lora":
        plain = PeftModel.from_pretrained(tiny.model("gpt2"), run.path).eval()
    else:
        plain = AutoModelForCausalLM.from_pretrained(run.path, dtype=torch.float32).eval()
    expected = own_logits(plain)
    assert distance(gated_logits(pair, pair.student), expected) < 1e-5
    assert distance(own_logits(base.model), expected) > 1e-3


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
def test_weights_are_stored_in_the_precision_asked_for(method, small, hard, tmp_path):
    run = fit(small, hard, tmp_path / "run", method=method, store=torch.bfloat16, lr=1e-2)
    assert {tensor.dtype for tensor in tensors(run.path).values()} == {torch.bfloat16}
    assert run.manifest.method["store"] == "bfloat16"
    assert load_student(small, run.path).kind == run.manifest.kind


@pytest.mark.parametrize("store", [torch.float32, torch.bfloat16])
def test_a_tied_model_is_stored_tied(store, hard, smol_tokenizer, tmp_path):
    base = small_base(smol_tokenizer, "qwen2")
    options = {"lr": 1e-3, "steps": 2, "store": store}
    run = fit(base, hard, tmp_path / "run", method=FullFT(), **options)
    assert "lm_head.weight" not in tensors(run.path)
    model = AutoModelForCausalLM.from_pretrained(run.path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_run_of_another_base_is_refused(lora_run, smol_tokenizer):
    other = load_base(tiny.model("llama", seed=1), tokenizer=smol_tokenizer)
    message = r"was trained from base 'LlamaForCausalLM' \(hash .*load the base it was trained from"
    with pytest.raises(ValueError, match=message):
        load_pair(other, lora_run.path)


# ---------------------------------------------------------------------------- what leaves no folder


def test_a_folder_without_manifest_is_no_run(tmp_path):
    message = r"path='.*' is no run folder: it has no manifest\.json"
    with pytest.raises(FileNotFoundError, match=message):
        open_run(tmp_path)


def test_an_existing_folder_is_not_overwritten(small, hard, tmp_path):
    (tmp_path / "run").mkdir()
    message = r"out='.*run' exists and is not a run .*; choose another folder"
    with pytest.raises(FileExistsError, match=message):
        fit(small, hard, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def stop(*args: Any, **kwargs: Any) -> None:
    raise StopError


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Manifest, "save"),
        (PeftModel, "save_pretrained"),
        (loop, "collate"),
        (running, "check_finite"),
    ],
)
def test_an_interrupted_training_leaves_nothing(owner, name, small, hard, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(owner, name, stop)
    before = snapshot(small.model)
    with pytest.raises(StopError):
        fit(small, hard, tmp_path / "runs" / "run")
    runs = tmp_path / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []
    assert list(scratch.iterdir()) == []
    assert snapshot(small.model) == before
