"""What a model must be: finite, plain, in safetensors, a model at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from loading import (
    TOKENIZER,
    WEIGHTS,
    Vocabulary,
    base,
    broken,
    edit,
    model,
    resized,
    saved,
    student,
)
from torch import Tensor, nn

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.base import load_base
from sublim_mech.models.checks import PICKLES, check_length
from sublim_mech.models.hashing import weights_hash
from sublim_mech.models.students import load_student

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


# ------------------------------------------------------------------------------------------- finite


def poison(tensors: dict[str, Tensor]) -> None:
    next(reversed(tensors.values())).view(-1)[-1] = float("nan")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_nan_weights(kind, tmp_path):
    path = broken(kind, tmp_path / "run", lambda p: edit(p / WEIGHTS[kind], poison))
    where = "lora_B" if kind == "lora" else "model.norm.weight"
    message = rf"student='run' has NaN or infinite weights in .*{where}.*checkpoint is unusable"
    with pytest.raises(ValueError, match=message):
        load_student(base(), path)
    if kind == "full":
        message = r"base='run' has NaN or infinite weights in model\.norm\.weight;"
        with pytest.raises(ValueError, match=message):
            load_base(path, tokenizer=TOKENIZER)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_in_live_models(value):
    bad = student("llama", "full")
    with torch.no_grad():
        for name in ("gate_proj", "up_proj", "down_proj"):
            for layer in bad.model.layers:
                layer.mlp.get_submodule(name).weight[0, 0] = value
    message = r"student='LlamaForCausalLM' .*layers\.0\.mlp\.gate_proj\.weight.* and 6 more"
    with pytest.raises(ValueError, match=message):
        load_student(base(), bad)
    message = "base='LlamaForCausalLM' has NaN or infinite weights"
    with pytest.raises(ValueError, match=message):
        load_base(bad, tokenizer=TOKENIZER)


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("size", [0, 5, 1000, -4])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_truncated_weights(kind, size, tmp_path):
    def cut(path: Path) -> None:
        file = path / WEIGHTS[kind]
        os.truncate(file, size if size >= 0 else file.stat().st_size + size)

    path = broken(kind, tmp_path / "run", cut)
    fault = "is truncated or not a safetensors file .*copy it again"
    with pytest.raises(ValueError, match=rf"^student: .*{WEIGHTS[kind]} {fault}"):
        load_student(base(), path)
    if kind == "full":
        with pytest.raises(ValueError, match=rf"^base: .* {fault}"):
            load_base(path, tokenizer=TOKENIZER)


class Evil:
    """Unpickling this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickles_are_named_and_never_opened(tmp_path):
    mark = tmp_path / "opened"
    for kind, name in (("lora", "adapter_model.bin"), ("full", "pytorch_model.bin")):
        path = broken(kind, tmp_path / kind, lambda p, kind=kind: (p / WEIGHTS[kind]).unlink())
        torch.save(Evil(mark), path / name)
        fault = rf"{kind}' holds pickled weights \({name}\).*convert them to safetensors"
        with pytest.raises(ValueError, match=rf"^student='.*{fault}"):
            load_student(base(), path)
    with pytest.raises(ValueError, match=rf"^base='.*{fault}"):
        load_base(tmp_path / "full", tokenizer=TOKENIZER)
    assert PICKLES == (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    for suffix in PICKLES:
        torch.save(Evil(mark), tmp_path / f"model{suffix}")
        fault = "' is a pickle, which is never opened here; pass a"
        with pytest.raises(ValueError, match=rf"^base='.*{fault} directory"):
            load_base(tmp_path / f"model{suffix}", tokenizer=TOKENIZER)
        with pytest.raises(ValueError, match=rf"^student='.*{fault} folder"):
            load_student(base(), tmp_path / f"model{suffix}")
    assert not mark.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert mark.exists()  # the trap was set


def test_quantised_checkpoints(tmp_path):
    path = saved(student("llama", "full"), tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    for mark in (
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
    ):
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": mark}))
        message = (
            rf"='.*run' is quantised \(quantization_config: {mark['quant_method']}\)"
            ".*pass the checkpoint it was made from"
        )
        with pytest.raises(ValueError, match="^student" + message):
            load_student(base(), path)
        with pytest.raises(ValueError, match="^base" + message):
            load_base(path, tokenizer=TOKENIZER)


def test_quantised_live_models():
    marked, packed = student("llama", "full"), student("llama", "full")
    packed.model.layers[0].mlp.up_proj.weight = nn.Parameter(
        torch.zeros(48, 32, dtype=torch.uint8), requires_grad=False
    )
    marked.config.quantization_config = {"quant_method": "awq", "bits": 4}
    for bad, message in (
        (marked, r"is quantised \(quantization_config: awq\)"),
        (packed, r"is quantised: model\.layers\.0\.mlp\.up_proj\.weight is torch\.uint8"),
    ):
        with pytest.raises(ValueError, match=rf"^base='LlamaForCausalLM' {message}"):
            load_base(bad, tokenizer=TOKENIZER)
        with pytest.raises(ValueError, match=rf"^student='LlamaForCausalLM' {message}"):
            load_student(base(), bad)
    # transformers' mark on tensors that it has dequantised exactly
    marked.config.quantization_config = {"quant_method": "gguf"}
    loaded = load_base(marked, tokenizer=TOKENIZER)
    assert loaded.hash == weights_hash(student("llama", "full"))


# -------------------------------------------------------------------------------- what it is at all


@pytest.mark.parametrize("source", [None, "", 7])
def test_things_that_are_no_model(source):
    with pytest.raises(
        TypeError, match=rf"^base={source!r} is no model; pass a hub id, a directory"
    ):
        load_base(source)
    with pytest.raises(
        TypeError, match=rf"^student={source!r} is no model; pass an adapter or checkpoint folder"
    ):
        load_pair(base(), source)


def test_more_positions_than_the_model_has():
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=16))
    check_length(model, 16, "this")
    check_length(SimpleNamespace(config=SimpleNamespace()), 10**6, "this")
    with pytest.raises(ValueError, match=r"^this needs 17 positions, the model has 16; shorten"):
        check_length(model, 17, "this")


# --------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(
    ("rows", "tokenizer", "told"),
    [
        (49152, Vocabulary(400), "49152 rows, it has 400 ids for them"),
        (49152, Vocabulary(24000, added=500), "49152 rows, it has 24500 ids for them"),
        (
            384,
            Vocabulary(400),
            r"384 rows, 16 of its 400 ids are beyond them \(the largest is 399\)",
        ),
        (
            384,
            Vocabulary(385),
            r"384 rows, 1 of its 385 ids are beyond them \(the largest is 384\)",
        ),
    ],
)
def test_a_tokenizer_of_another_model(rows, tokenizer, told):
    message = (
        rf"the tokenizer does not fit base='LlamaForCausalLM': the model's embedding has {told}; "
        r"pass the tokenizer the model was trained with \(tokenizer=\.\.\.\)"
    )
    with pytest.raises(ValueError, match=message):
        load_base(resized(vocab_size=rows), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("rows", "tokenizer"),
    [
        (384, Vocabulary(384)),
        (384, Vocabulary(259)),  # ByT5
        (384, Vocabulary(256, added=3)),
        (384, Vocabulary(384, added=1)),  # Gemma-3's image token, in its text models
    ],
)
def test_a_tokenizer_of_a_padded_vocabulary(rows, tokenizer):
    assert load_base(resized(vocab_size=rows), tokenizer=tokenizer).tokenizer is tokenizer


def test_the_tokenizer_beside_the_weights_must_fit_too(tmp_path, smol_tokenizer):
    saved(resized(vocab_size=99), tmp_path)
    smol_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"does not fit base=.* has 99 rows, 49053 of its 49152 ids"
    ):
        load_base(tmp_path)


@pytest.mark.parametrize("tokenizer", ["gpt2", object(), 3])
def test_what_is_no_tokenizer(tokenizer):
    with pytest.raises(
        TypeError, match=r"tokenizer is (a str|an object|an int); pass the model's own"
    ):
        load_base(model(), tokenizer=tokenizer)
