"""Estimates in half precision: what is added to an activation is of the activation's type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT

import sublim_mech as sm
from sublim_mech import masks
from sublim_mech.results.rounding import known_to
from sublim_mech.results.scores import Scores

ROW = {"sets": {"row": masks.everything()}, "answer_in_sets": True}


def strong_pair(tokenizer: Any, dtype: torch.dtype) -> Any:
    base = tiny.model("llama")
    with torch.no_grad():
        for p in base.parameters():
            if p.dim() > 1:
                p *= 2
    base = base.to(dtype)
    student = tiny.lora(base, std=0.2).to(dtype)
    return sm.load_pair(base, student, tokenizer=tokenizer, allow_unrelated=True)


@pytest.fixture(scope="module")
def half(smol_tokenizer: Any) -> Any:
    return strong_pair(smol_tokenizer, torch.bfloat16)


@pytest.fixture(scope="module")
def single(smol_tokenizer: Any) -> Any:
    return strong_pair(smol_tokenizer, torch.float32)


def check(half: Any, single: Any, prompts: Any, site: str, points: Any) -> None:
    """The numbers of single precision but for rounding, which a patch of the row has as well."""
    options = {"method": "activation_ig", "site": half.sites.hook_name(site, 1), **QUIET}
    found = []
    for pair in (half, single):
        effect = sm.attribute(pair, prompts[:1], TRAIT, points=points, **options).data["effect"]
        found.append(effect.values[np.isfinite(effect.values)])
    ours, expected = found
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.08 * np.abs(expected).max())
    assert np.corrcoef(ours, expected)[0, 1] > 0.99
    row = sm.patch(half, prompts[:1], TRAIT, site=site, layers=[1], **ROW, **QUIET)
    if "head" not in row.data["effect"].dims:  # else of one head after the other
        assert ours.sum() == pytest.approx(row.data["effect"].item(), abs=0.03)


def test_what_one_prompt_is_known_to_holds(half: Any, single: Any, prompts: Any, tmp_path) -> None:
    """Effects in bfloat16 are those of fp32 to within what the scores say, and they say it."""
    ours, exact = (sm.effect(pair, prompts, TRAIT, **QUIET) for pair in (half, single))
    apart = np.abs(ours.total.values - exact.total.values).max()
    # rounding shows, though a model of two layers makes less of it than one of thirty
    assert known_to(ours) / 200 < apart < known_to(ours)
    ours.save(tmp_path / "ours.safetensors")
    again = Scores.load(tmp_path / "ours.safetensors")
    assert again.record.base.dtype == "bfloat16"
    assert f"models in bfloat16: up to {known_to(ours):.2g} nats" in repr(again)
    assert "models in" not in repr(exact)


@pytest.mark.parametrize(("site", "points"), [("resid_pre", 8), ("mlp_out", "auto"), ("z", "auto")])
def test_activation_ig_is_that_of_single_precision(site, points, half, single, prompts):
    check(half, single, prompts, site, points)


@pytest.mark.science
@pytest.mark.parametrize("points", ["auto", 8])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "v"])
def test_activation_ig_of_every_site_runs_in_float16(site, points, single, prompts, smol_tokenizer):
    check(strong_pair(smol_tokenizer, torch.float16), single, prompts, site, points)
