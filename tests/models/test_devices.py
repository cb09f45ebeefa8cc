"""Devices: one that this machine has, or an error that lists what it has."""

from __future__ import annotations

import re

import pytest
import torch
from loading import TOKENIZER, base, model, student

from sublim_mech.engine.pair import load_pair
from sublim_mech.models.base import load_base
from sublim_mech.models.devices import available_devices, check_device


@pytest.fixture
def bare(monkeypatch):
    """A machine without accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


@pytest.fixture
def two_cards(bare, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_what_is_there_is_taken(two_cards):
    assert available_devices() == ["cpu", "cuda:0", "cuda:1"]
    assert check_device(None) is None
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert check_device(name) == check_device(torch.device(name)) == torch.device(name)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device='gpu' is no device; torch calls it 'cuda'. This machine has cpu."),
        ("GPU:1", "device='GPU:1' is no device; torch calls it 'cuda:1'. This machine has cpu."),
        ("cdua", "device='cdua' is no device; did you mean 'cuda'? This machine has cpu."),
        ("cuda", "device='cuda' is not there. This machine has cpu."),
        ("cuda:0", "device='cuda:0' is not there. This machine has cpu."),
        (torch.device("cuda"), "device='cuda' is not there. This machine has cpu."),
        ("mps", "device='mps' is not there. This machine has cpu."),
        ("meta", "device='meta' is not there. This machine has cpu."),
        ("cpu:1", "device='cpu:1' is not there. This machine has cpu."),
        ("", "device='' is no device. This machine has cpu."),
    ],
)
def test_what_is_not_there_is_told_with_what_is(device, message, bare):
    whole = f"^{re.escape(message)}$"
    with pytest.raises(ValueError, match=whole):
        load_base(model(), tokenizer=TOKENIZER, device=device)
    with pytest.raises(ValueError, match=whole):
        load_pair(base(), student("llama", "lora"), device=device)


def test_a_card_beyond_the_last(two_cards):
    message = r"device='cuda:2' is not there\. This machine has cpu, cuda:0, cuda:1"
    with pytest.raises(ValueError, match=message):
        check_device("cuda:2")


@pytest.mark.parametrize("device", [0, True, 1.5, ["cpu"]])
def test_what_names_no_device(device):
    with pytest.raises(TypeError, match=r"device=.*: pass a text or a device \(torch\.device\('"):
        load_base(model(), tokenizer=TOKENIZER, device=device)
