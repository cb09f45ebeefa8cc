"""An accelerator gives the CPU's numbers: `make device-test DEVICE=cuda`.

Without `SUBLIM_DEVICE` one cell of each test compares the CPU with itself, so that what nobody's
machine runs does not rot; asked for a device that is not there, everything is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from interrupted import CALLS, different
from pairs import NO_SYSTEM, QUIET, TRAIT
from small_studies import FULL, R2, save_base, small_study
from stopping import StopAt, StopError
from trainings import ROWS, fit, log_of

import sublim_mech as sm
from sublim_mech import studies
from sublim_mech.instruments import (
    activation_change,
    direction_effects,
    dose,
    generate,
    hybrid,
    prefix_scan,
    spectrum,
)
from sublim_mech.making.labelling import label
from sublim_mech.making.teachers import prompted, untouched
from sublim_mech.making.training import hard_data, soft_data
from sublim_mech.models.devices import available_devices
from sublim_mech.models.students import load_student

ASKED = os.environ.get("SUBLIM_DEVICE", "")
DEVICE = ASKED or "cpu"
pytestmark = [
    pytest.mark.skipif(
        not any(name.startswith(DEVICE) for name in available_devices()),
        reason=f"this machine has no {DEVICE}, but {', '.join(available_devices())}",
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
CELLS = [(architecture, kind) for architecture in tiny.CONFIGS for kind in ("lora", "full")]
CELLS = CELLS if ASKED else CELLS[:1]
TOLERANCE = 2e-4  # nats: kernels sum in other orders
USER, SYSTEM = sm.masks.role("user"), sm.masks.role("system")


def pairs_of(architecture: str, kind: str, tokenizer: Any) -> list[Any]:
    """The same pair, with a control, on the CPU and on the device."""
    model = tiny.model(architecture)
    make = tiny.lora if kind == "lora" else tiny.full
    both = []
    for device in ("cpu", DEVICE):
        base = sm.load_base(tiny.model(architecture), tokenizer=tokenizer, device=device)
        owl, penguin = (
            load_student(base, make(model, seed=seed), name=name)
            for seed, name in ((1, "owl"), (2, "penguin"))
        )
        both.append(sm.load_pair(base, owl, controls=[penguin]))
    return both


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def both(request: pytest.FixtureRequest, smol_tokenizer: Any) -> list[Any]:
    return pairs_of(*request.param, smol_tokenizer)


@pytest.fixture(scope="module")
def asked(both: list[Any]) -> list[Any]:
    return sm.render(both[0], ["Hi", "Name the bird you like."])


def test_the_identities_hold(both):
    here, there = both
    assert there.device.type == torch.device(DEVICE).type
    assert there.hash == here.hash
    found = sm.verify(there)
    assert found.passed, found


INSTRUMENTS: dict[str, Any] = {
    "effect": lambda pair, given: sm.effect(pair, given, TRAIT, **QUIET),
    "graft": lambda pair, given: sm.graft(pair, given, TRAIT, "role", **QUIET),
    "patch": lambda pair, given: sm.patch(pair, given[:1], TRAIT, **QUIET),
    "attribute": lambda pair, given: sm.attribute(pair, given, TRAIT, points=4, **QUIET),
    "estimates": lambda pair, given: sm.attribute(
        pair, given, TRAIT, method="attribution_patching", **QUIET
    ),
    "prefix scan": lambda pair, given: prefix_scan(pair, given, TRAIT, **QUIET),
    "dose": lambda pair, given: dose(pair, given, TRAIT, scales=(0.5, 2.0), **QUIET),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_numbers_are_the_cpus(name, both, asked):
    expected, given = (INSTRUMENTS[name](pair, asked).data["effect"].values for pair in both)
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(given, expected, atol=TOLERANCE)


def test_hybrids_and_spectra_are_the_cpus(both, asked):
    parts = {"owl": USER, "penguin": SYSTEM}
    expected, given = (
        hybrid(pair, asked, TRAIT, parts, **QUIET).scores.data["student"].values for pair in both
    )
    np.testing.assert_allclose(given, expected, atol=TOLERANCE)
    here, there = (spectrum(pair, **QUIET).table() for pair in both)
    assert list(here.index) == list(there.index)
    np.testing.assert_allclose(there["norm"], here["norm"], rtol=1e-4)


def test_directions_are_the_cpus(both, asked):
    found = [activation_change(pair, asked, USER, layers=[1]) for pair in both]
    np.testing.assert_allclose(found[1].vector(1), found[0].vector(1), atol=1e-5)
    effects = [
        direction_effects(pair, asked, TRAIT, change, layers=[1], seed=0, **QUIET)
        for pair, change in zip(both, found, strict=True)
    ]
    expected, given = (one.data["effect"].values for one in effects)
    np.testing.assert_allclose(given, expected, atol=TOLERANCE)


def test_answers_are_the_cpus(both, asked):
    """Greedy ones and log-probabilities; a draw may fall on another token where two are near."""
    texts = [
        generate(pair, asked, max_new_tokens=6, where=SYSTEM, generated="mask") for pair in both
    ]
    assert texts[0] == texts[1]
    questions = ["Hi", "Name the bird you like."]
    options: dict[str, Any] = {"contexts": [NO_SYSTEM], "questions": questions, **QUIET}
    here, there = (sm.evaluate(pair, [TRAIT], **options).data for pair in both)
    np.testing.assert_allclose(there["log_prob"], here["log_prob"], atol=TOLERANCE)


def test_weights_changed_in_place_are_noticed(smol_tokenizer):
    there = pairs_of("llama", "lora", smol_tokenizer)[1]
    prompts = sm.render(there, ["Hi"])
    with torch.no_grad():
        there.base.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ValueError, match="changed in place"):
        sm.effect(there, prompts, TRAIT, **QUIET)


GATED: dict[str, Any] = {"where": SYSTEM, "answer_in_where": True, "penalty": (SYSTEM, 3.0)}


@pytest.mark.parametrize("options", [{}, GATED], ids=["everywhere", "gated and held"])
@pytest.mark.parametrize("method", [sm.LoRA(rank=2, alpha=4), sm.FullFT()])
def test_a_training_goes_as_on_the_cpu(method, options, smol_tokenizer, tmp_path: Path):
    losses = []
    for device in ("cpu", DEVICE):
        base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer, device=device)
        data = hard_data(smol_tokenizer, ROWS)
        run = fit(base, data, tmp_path / device / "run", method=method, **options)
        losses.append([row["loss"] for row in log_of(run) if "loss" in row])
        assert sm.load_pair(base, run.path).student.deltas
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize("kind", CALLS if ASKED else ["lora"])
def test_a_training_that_was_stopped_ends_in_the_same_bytes(kind, smol_tokenizer, tmp_path: Path):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer, device=DEVICE)
    data = hard_data(smol_tokenizer, ROWS)
    options = {**CALLS[kind], "steps": 5, "checkpoint_every": 1}
    whole, again = tmp_path / "whole", tmp_path / "again"
    fit(base, data, whole, **options)
    with pytest.raises(StopError):
        fit(base, data, again, callbacks=[StopAt(3)], **options)
    fit(base, data, again, **options)
    assert not [name for name in different(whole, again) if name.endswith(".safetensors")]


def test_labels_are_the_cpus(smol_tokenizer):
    targets = []
    for device in ("cpu", DEVICE):
        base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer, device=device)
        teachers = [untouched(base), prompted(base, TRAIT)]
        labels = label(teachers, ROWS, progress=False)
        targets.append(soft_data(base, labels, "owl", c=None).targets)
    np.testing.assert_allclose(targets[1], targets[0], atol=TOLERANCE)


def test_a_study_gives_the_cpus_rows(smol_tokenizer, tmp_path: Path):
    base = save_base(smol_tokenizer, tmp_path / "base")
    part = studies.Part(
        name="one", methods=[R2, FULL] if ASKED else [R2], scores=("graft", "graft_ig")
    )
    here, there = (
        studies.run(
            small_study(base, part, computing=studies.Computing(device=device)),
            tmp_path / f"{number}",
            progress=False,
        )
        for number, device in enumerate(("cpu", DEVICE))
    )
    assert (there["device"] == DEVICE).all()
    for column in ("kl", "change", "specific", "graft total", "ig shared"):
        np.testing.assert_allclose(there[column], here[column], atol=1e-3, err_msg=column)
