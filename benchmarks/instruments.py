"""The instruments' speed: exact sweeps against the tools one would use without them, gradients against exact sweeps."""

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


@row("patch_gpt2")
def patch_gpt2() -> Row:
    """Layer x position patching on GPT-2-small."""
    pair, prompt, which = gpt2_small()
    return patching_row(pair, prompt, f"GPT-2-small ({which})", repeats=1)


@row("patch_smollm2")
def patch_smollm2() -> Row:
    """Layer x position patching on SmolLM2-135M."""
    pair, prompt = smollm2()
    return patching_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", repeats=1)


def patching_row(pair: ModelPair, prompt: Prompt, what: str, *, repeats: int) -> Row:
    """`patch` at resid_pre against TransformerLens' own sweep, which is one full forward per cell."""
    base, student = pair.base_bridge(), pair.student_bridge()
    ids = torch.tensor([prompt.ids])
    forms = one_token_forms(pair, prompt)

    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1].log_softmax(-1)[forms].logsumexp(0)

    @torch.no_grad()
    def theirs() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            _, cache = student.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_resid_pre"))
            grid = patching.get_act_patch_resid_pre(base, ids, cache, metric)
        return (grid - metric(base(ids))).numpy()

    def ours() -> np.ndarray:
        return sm.patch(pair, [prompt], CAT, site="resid_pre", progress=False).data["effect"].values[0, 0]

    @torch.no_grad()
    def one_cell() -> None:
        base(ids)

    cells = pair.sites.n_layers * len(prompt)
    done = race(ours, theirs, piece=one_cell, pieces=cells + 2, repeats=repeats)  # and the donor's and the recipient's own run
    return done.row(
        f"patch resid_pre, {pair.sites.n_layers} layers x {len(prompt)} tokens, {what}",
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
    """`graft_sweep` against one PEFT forward per cell whose LoRA branch is masked, on a random sample of cells."""
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
        return (
            sm.instruments.graft_sweep(pair, [prompt], CAT, layers=range(depth), progress=False).data["effect"].values[0, 0].ravel()[chosen]
        )

    all_ = depth * size
    done = race(ours, theirs, piece=lambda: value(0, 0), pieces=all_, repeats=repeats, scale=all_ / len(chosen))
    return done.row(
        f"graft_sweep, {depth} layers x {size} tokens, {what}",
        "one PEFT forward per cell, LoRA branch masked",
        5,
        max_abs_diff=done.difference,
        tolerance=1e-4,
        note=(
            f"ours: all {all_} cells; theirs: {len(chosen)} random cells (seed {SEED}), time scaled to all, compared on these; "
            f"largest effect {np.abs(done.our_value).max():.3g} nats"
        ),
    )


@row("graft_ig")
def graft_ig() -> Row:
    """Graft IG against the exact graft sweep, SmolLM2-135M."""
    pair, prompt = smollm2()
    return attribution_row(pair, prompt, "SmolLM2-135M-Instruct, owl student", points=8, repeats=1)


def attribution_row(pair: ModelPair, prompt: Prompt, what: str, *, points: int, repeats: int) -> Row:
    """Graft IG of all layer x module x position cells against the exact layer x position sweep, with their agreement."""

    def ours() -> np.ndarray:
        return cells(
            sm.attribute(pair, [prompt], OWL, method="graft_ig", points=points, progress=False).data["effect"].sum("module")
        )

    def exact(measure: Any) -> np.ndarray:
        return cells(sm.instruments.graft_sweep(pair, [prompt], OWL, measure=measure, progress=False).data["effect"])

    def cells(effect: Any) -> np.ndarray:
        return effect.isel(model=0, prompt=0).transpose("layer", "position").values

    done = race(ours, lambda: exact("sufficiency"), repeats=repeats)
    mean = (done.their_value + exact("necessity")) / 2
    total = float(sm.effect(pair, [prompt], OWL, progress=False).total.values[0])
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
        max_abs_diff=abs(float(done.our_value.sum()) - total),  # completeness: the cells add up to the total effect
        tolerance=0.01 * abs(total),
        note=f"difference: sum of cells against the total effect of {total:.3g} nats; {said}",
        more=agreement,
    )


# ------------------------------------------------------------------------------------------------------------ helpers


def one_token_forms(pair: ModelPair, prompt: Prompt) -> list[int]:
    """The token of each form of CAT after a prompt."""
    forms = [pair.tokenizer(prompt.lead + form, add_special_tokens=False)["input_ids"] for form in CAT.forms]
    if any(len(form) != 1 for form in forms):
        raise ValueError(f"trait {CAT.name!r} has a form of several tokens here; the reference reads one.")
    return [form[0] for form in forms]


@contextmanager
def masked_lora(model: Any, mask: Callable[[int], Tensor | float]) -> Iterator[None]:
    """While the context lasts, every LoRA branch of a PEFT model is multiplied by the mask of its layer."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if hasattr(module, "lora_B") and len(module.lora_B):
                found = re.search(r"\.(?:layers|h)\.(\d+)\.", path)
                times = 0.0 if found is None else mask(int(found[1]))
                hook = module.lora_B[model.active_adapter].register_forward_hook(lambda _, __, out, times=times: out * times)
                stack.callback(hook.remove)
        yield


def correlation(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    """Pearson or Spearman correlation of two grids, cell by cell."""
    ranked = [pd.Series(x.ravel()).rank() if kind == "spearman" else pd.Series(x.ravel()) for x in (a, b)]
    return float(ranked[0].corr(ranked[1]))
