"""The instruments' speed.

Exact sweeps against the tools one would use without them, gradients against exact sweeps.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching

import sublim_mech as sm
from sublim_mech.engine.pair import ModelPair
from sublim_mech.prompts import Prompt

from .models import CAT, OWL, gpt2_small, smollm2
from .rows import Row, race, row

SEED = 0
QUIET: dict[str, Any] = {"progress": False}


@row("patch_gpt2")
def patch_gpt2() -> Row:
    """Layer x position patching on GPT-2-small."""
    pair, prompt, weights = gpt2_small()
    return patching_row(pair, prompt, f"GPT-2-small ({weights})", repeats=1)


@row("patch_smollm2")
def patch_smollm2() -> Row:
    """Layer x position patching on SmolLM2-135M."""
    pair, prompt = smollm2()
    return patching_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", repeats=1)


def patching_row(pair: ModelPair, prompt: Prompt, what: str, *, repeats: int) -> Row:
    """`patch` at resid_pre against TransformerLens' own sweep: one full forward per cell."""
    base, student = pair.base_bridge(), pair.student_bridge()
    ids = torch.tensor([prompt.ids])
    forms = one_token_forms(pair, prompt)

    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1].log_softmax(-1)[forms].logsumexp(0)

    def wanted(name: str) -> bool:
        return name.endswith("hook_resid_pre")

    @torch.no_grad()
    def theirs() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            _, cache = student.run_with_cache(ids, names_filter=wanted)
            grid = patching.get_act_patch_resid_pre(base, ids, cache, metric)
        return (grid - metric(base(ids))).numpy()

    def ours() -> np.ndarray:
        scores = sm.patch(pair, [prompt], CAT, site="resid_pre", **QUIET)
        return scores.data["effect"].values[0, 0]

    @torch.no_grad()
    def one_cell() -> None:
        base(ids)

    # a forward per cell, and the donor's and the recipient's own
    depth, size = pair.sites.n_layers, len(prompt)
    done = race(ours, theirs, piece=one_cell, pieces=depth * size + 2, repeats=repeats)
    return done.row(
        f"patch resid_pre, {depth} layers x {size} tokens, {what}",
        "transformer_lens.patching.get_act_patch_resid_pre",
        5,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=f"largest effect {np.abs(done.our_value).max():.3g} nats",
    )


@row("graft_sweep")
def graft_sweep() -> Row:
    """Layer x position grafts on SmolLM2-135M, all cells, against PEFT on some of them."""
    pair, prompt = smollm2()
    return grafting_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", cells=200, repeats=1)


def grafting_row(pair: ModelPair, prompt: Prompt, what: str, *, cells: int, repeats: int) -> Row:
    """`graft_sweep` against one PEFT forward per cell whose LoRA branch is masked.

    PEFT's side computes a random sample of the cells.
    """
    depth, size = pair.sites.n_layers, len(prompt)
    chosen = np.random.default_rng(SEED).permutation(depth * size)[:cells]
    ids, forms = torch.tensor([prompt.ids]), one_token_forms(pair, prompt)

    @torch.no_grad()
    def value(layer: int | None, token: int) -> float:
        mask = torch.zeros(1, size, 1)
        mask[0, token] = 1
        with masked_lora(pair.student.model, lambda at: mask if at == layer else 0.0):
            logits = pair.student.model(input_ids=ids, use_cache=False).logits[0, -1]
        return float(logits.log_softmax(-1)[forms].logsumexp(0))

    base = value(None, 0)

    def theirs() -> np.ndarray:
        return np.array([value(*divmod(int(cell), size)) for cell in chosen]) - base

    def ours() -> np.ndarray:
        sweep = sm.instruments.graft_sweep
        scores = sweep(pair, [prompt], CAT, layers=range(depth), **QUIET)
        return scores.data["effect"].values[0, 0].ravel()[chosen]

    count = depth * size
    done = race(
        ours,
        theirs,
        piece=lambda: value(0, 0),
        pieces=count,
        repeats=repeats,
        scale=count / len(chosen),
    )
    return done.row(
        f"graft_sweep, {depth} layers x {size} tokens, {what}",
        "one PEFT forward per cell, LoRA branch masked",
        5,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=(
            f"ours: all {count} cells; theirs: {len(chosen)} random cells (seed {SEED}), time "
            "scaled to all, compared on these; "
            f"largest effect {np.abs(done.our_value).max():.3g} nats"
        ),
    )


@row("graft_ig")
def graft_ig() -> Row:
    """Graft IG against the exact graft sweep, SmolLM2-135M."""
    pair, prompt = smollm2()
    return attribution_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", points=8, repeats=1)


def attribution_row(
    pair: ModelPair, prompt: Prompt, what: str, *, points: int, repeats: int
) -> Row:
    """Graft IG of all layer x module x position cells against the exact sweep of layer x position.

    With their agreement.
    """

    def cells(effect: Any) -> np.ndarray:
        return effect.isel(model=0, prompt=0).transpose("layer", "position").values

    def ours() -> np.ndarray:
        scores = sm.attribute(pair, [prompt], OWL, method="graft_ig", points=points, **QUIET)
        return cells(scores.data["effect"].sum("module"))

    def exact(measure: Any) -> np.ndarray:
        scores = sm.instruments.graft_sweep(pair, [prompt], OWL, measure=measure, **QUIET)
        return cells(scores.data["effect"])

    done = race(ours, lambda: exact("sufficiency"), repeats=repeats)
    mean = (done.their_value + exact("necessity")) / 2
    total = float(sm.effect(pair, [prompt], OWL, **QUIET).total.values[0])
    agreement = {
        f"{kind} with {name}": round(correlation(done.our_value, grid, kind), 4)
        for name, grid in (("sufficiency", done.their_value), ("mean of both", mean))
        for kind in ("pearson", "spearman")
    }
    said = "; ".join(f"{key} {value:.3f}" for key, value in agreement.items())
    depth, size = done.their_value.shape
    return done.row(
        f"graft IG, {points} points, all cells, {what}",
        f"our exact graft_sweep (sufficiency), {depth} layers x {size} slots",
        8,
        # completeness: the cells add up to the total effect
        max_abs_diff=abs(float(done.our_value.sum()) - total),
        tolerance=0.01 * abs(total),
        note=f"difference: sum of cells against the total effect of {total:.3g} nats; {said}",
        more=agreement,
    )


# ------------------------------------------------------------------------------------------ helpers


def one_token_forms(pair: ModelPair, prompt: Prompt) -> list[int]:
    """The token of each form of CAT after a prompt."""
    tokens = []
    for form in CAT.forms:
        ids = pair.tokenizer(prompt.lead + form, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"trait {CAT.name!r} has a form of several tokens here; the reference reads one."
            )
        tokens.append(ids[0])
    return tokens


@contextmanager
def masked_lora(model: Any, mask: Callable[[int], Tensor | float]) -> Iterator[None]:
    """While the context lasts, LoRA branches are multiplied by the mask of their layer."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if not (hasattr(module, "lora_B") and len(module.lora_B)):
                continue
            block = re.search(r"\.(?:layers|h)\.(\d+)\.", path)
            factor = 0.0 if block is None else mask(int(block[1]))
            branch = module.lora_B[model.active_adapter]
            handle = branch.register_forward_hook(_multiply(factor))
            stack.callback(handle.remove)
        yield


def _multiply(factor: Tensor | float) -> Callable[..., Tensor]:
    return lambda module, args, output: output * factor


def correlation(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    """Pearson or Spearman correlation of two grids, cell by cell."""
    first, second = pd.Series(a.ravel()), pd.Series(b.ravel())
    if kind == "spearman":
        first, second = first.rank(), second.rank()
    return float(first.corr(second))
