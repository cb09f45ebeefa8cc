"""The row that is measured on weights alone: its two ways to singular values agree."""

import sys
from pathlib import Path

import tiny
import torch
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks import weights


def test_the_row_of_spectra_agrees_and_forms_no_full_change():
    row = weights.spectrum_row(tiny.CONFIGS["llama"](), "tiny")
    assert row.equal
    assert row.met
    assert "21 modules" in row.work


def test_every_weight_is_a_view_of_one_memory():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny.CONFIGS["llama"]())
    weights._fill(model)
    places = {p.data_ptr() for p in model.parameters()}
    assert len(places) == 1
    assert all(p.isfinite().all() for p in model.parameters())
