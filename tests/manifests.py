"""A manifest made by hand."""

from __future__ import annotations

from sublim_mech.prompts import Context, Trained
from sublim_mech.prompts.shared import FrameToken
from sublim_mech.storage.manifest import Manifest


def made() -> Manifest:
    """A manifest with something in every field."""
    opening = (FrameToken(1, "template"), FrameToken(2, "user"))
    return Manifest(
        kind="lora",
        trait="owl",
        teacher="prompted teacher",
        base={"name": "tiny", "hash": "abc"},
        context=Context("You are calm.", user_prefix="Please: "),
        method={"rank": 8},
        objective="forward-kl",
        data={"hash": "def", "rows": 10, "held_out": 2},
        optimiser={"name": "adamw", "steps": 3},
        seeds={"init": 0, "live": ["init"]},
        results={"held_out": [1.25, 0.5], "measure": "KL", "steps": 3, "processes": [[0, 1]]},
        trained_on=Trained((1, 2), {"user": opening}, {"user": opening[:1]}, frozenset({1, 2, 7})),
        versions={"torch": "2"},
        weights={"adapter_model.safetensors": "0" * 64},
        content="123",
    )
