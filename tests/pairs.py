"""Tiny pairs, and the plain Hugging Face forwards that the library's numbers are held against."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tiny
import torch

import sublim_mech as sm
from sublim_mech.engine.forward import Gates
from sublim_mech.instruments.task import Task, prepare

TRAIT = sm.animal("owl")  # "owl" is one token, "Owl" two, "Owls" three: the answer trie has nodes
LONG = sm.Trait.noun("zyzzyva")  # every form has three tokens or more: the trie is deep
CAT = sm.Trait("cat", forms=("cat", "Cat"))  # one token per form: nothing is fed after the prompt
QUIET = {"progress": False}
NO_SYSTEM = sm.Context(system=sm.Context.NONE)

PAIRS = (("llama", "lora"), ("gpt2", "full"), ("gemma3", "full"), ("opt", "lora"))
"""Where an identity is tested: rotary and learned positions, windows, fused and odd projections.

`verify` runs on all architectures (`test_verification`), and so do all kinds of students
(`test_architectures`).
"""


def make_pair(architecture: str, kind: str, tokenizer: Any, **options: Any) -> Any:
    """A pair of the test's own; it may break its models."""
    base = tiny.model(architecture)
    student = tiny.lora(base, **options) if kind == "lora" else tiny.full(base)
    return sm.load_pair(base, student, tokenizer=tokenizer)


@functools.cache
def shared_pair(architecture: str, kind: str, tokenizer: Any) -> Any:
    """A pair that all tests share, because none of them changes it."""
    return make_pair(architecture, kind, tokenizer)


@functools.cache
def far_pair(architecture: str, kind: str, tokenizer: Any) -> Any:
    """A shared pair of peaked models, so that a KL between them is far above rounding."""
    base = tiny.model(architecture)
    base.get_output_embeddings().weight.data *= 10
    student = tiny.lora(base, std=0.2) if kind == "lora" else tiny.full(base, scale=0.2)
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


def answer_ids(tokenizer: Any, prompt: Any, text: str) -> list[int]:
    """Token ids of an answer, from the tokenizer alone."""
    return tokenizer(prompt.lead + text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def string_log_prob(model: Any, ids: Sequence[int], answer: Sequence[int]) -> float:
    """log P of a string of tokens after a prompt, by one plain forward."""
    steps = model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].double().log_softmax(-1)
    return float(sum(steps[len(ids) + k - 1, token] for k, token in enumerate(answer)))


def brute_force(model: Any, tokenizer: Any, prompt: Any, trait: Any = TRAIT) -> float:
    """log P of a trait by one plain forward per form, without trie, mask or hooks."""
    answers = [answer_ids(tokenizer, prompt, form) for form in trait.forms]
    # what only continues another form is part of it
    disjoint = [a for a in answers if not any(b != a and b == a[: len(b)] for b in answers)]
    values = [string_log_prob(model, prompt.ids, answer) for answer in disjoint]
    return float(torch.tensor(values, dtype=torch.float64).logsumexp(0))


@torch.no_grad()
def whole_run(
    pair: Any, prompt: Any, trait: Any = TRAIT, *, gates: Any = None, edits: Any = None
) -> float:
    """A metric of one prompt from one whole forward, without branching."""
    task = prepare(pair, [prompt], trait)
    logits = pair.run(task.batch([0]), gates=gates, edits=edits).logits
    return float(task.value([0], logits))


@torch.no_grad()
def recorded(pair: Any, prompt: Any, key: Any, trait: Any = TRAIT, *, gates: Any = None) -> Any:
    """One activation of one prompt with its answers, `(1, slot, ...)`."""
    task = prepare(pair, [prompt], trait)
    return pair.run(task.batch([0]), gates=gates, record=[key]).activations[key]


def put(donor: torch.Tensor, *places: Any) -> Any:
    """An edit that takes some places of an activation, such as `(0, 7)`, from a donor's."""

    def edit(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        for place in places:
            hidden[place] = donor[place]
        return hidden

    return edit


def one_cell(task: Task, pair: Any, *, layer: int, slot: int) -> torch.Tensor:
    """Gates `(1, slot, module)` open at one layer and slot of a task's first prompt."""
    layers = [pair.sites.modules[path].layer for path in pair.delta]
    gates = torch.zeros(1, task.size(0), len(layers))
    gates[0, slot] = torch.tensor([float(one == layer) for one in layers])
    return gates


def student_gates(pair: Any, values: Any = 1.0) -> Gates:
    """Gates of the pair's student."""
    return Gates(pair.student, values)


@torch.no_grad()
def plain_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Next-token logits of the model's own forward, `(token, vocab)`."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
