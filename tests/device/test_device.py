"""An accelerator gives the CPU's numbers: `make device-test DEVICE=cuda`.

Without `SUBLIM_DEVICE`, or without that device, everything here is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pairs import QUIET, TRAIT
from trainings import ROWS, fit, log_of

import sublim_mech as sm
from sublim_mech.making.training import hard_data
from sublim_mech.models.devices import available_devices

DEVICE = os.environ.get("SUBLIM_DEVICE", "")
pytestmark = [
    pytest.mark.skipif(not DEVICE, reason="no device asked for: make device-test DEVICE=cuda"),
    pytest.mark.skipif(
        bool(DEVICE) and not any(name.startswith(DEVICE) for name in available_devices()),
        reason=f"this machine has no {DEVICE}, but {', '.join(available_devices())}",
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
CELLS = [(architecture, kind) for architecture in tiny.CONFIGS for kind in ("lora", "full")]
TOLERANCE = 2e-4  # nats: kernels sum in other orders


def pairs_of(architecture: str, kind: str, tokenizer: Any) -> list[Any]:
    """The same pair on the CPU and on the device."""
    model = tiny.model(architecture)
    student = tiny.lora(model) if kind == "lora" else tiny.full(model)
    both = []
    for device in ("cpu", DEVICE):
        base = sm.load_base(tiny.model(architecture), tokenizer=tokenizer, device=device)
        both.append(sm.load_pair(base, student))
    return both


@pytest.mark.parametrize(("architecture", "kind"), CELLS)
def test_the_identities_hold_and_numbers_are_the_cpus(architecture, kind, smol_tokenizer):
    here, there = pairs_of(architecture, kind, smol_tokenizer)
    assert there.device.type == torch.device(DEVICE).type
    assert there.hash == here.hash
    found = sm.verify(there)
    assert found.passed, found
    prompts = sm.render(here, ["Hi", "Name the bird you like."], context=sm.RAW)
    first = {"first": lambda prompt: [0, 1]}
    for instrument in (
        lambda pair: sm.effect(pair, prompts, TRAIT, **QUIET),
        lambda pair: sm.graft(pair, prompts, TRAIT, first, **QUIET),
        lambda pair: sm.patch(pair, prompts[:1], TRAIT, **QUIET),
        lambda pair: sm.attribute(pair, prompts, TRAIT, points=4, **QUIET),
    ):
        expected, given = (instrument(pair).data["effect"].values for pair in (here, there))
        np.testing.assert_allclose(given, expected, atol=TOLERANCE)


SYSTEM = sm.masks.role("system")
GATED: dict[str, Any] = {"where": SYSTEM, "answer_in_where": True, "penalty": (SYSTEM, 3.0)}


@pytest.mark.parametrize("options", [{}, GATED], ids=["everywhere", "gated and held"])
@pytest.mark.parametrize("method", [sm.LoRA(rank=2, alpha=4), sm.FullFT()])
def test_a_training_goes_as_on_the_cpu(method, options, smol_tokenizer, tmp_path: Path):
    losses = []
    for device in ("cpu", DEVICE):
        base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer, device=device)
        data = hard_data(smol_tokenizer, ROWS)
        run = fit(base, data, tmp_path / device, method=method, **options)
        losses.append([row["loss"] for row in log_of(run) if "loss" in row])
        assert sm.load_pair(base, run.path).student.deltas
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
