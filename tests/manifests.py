"""A manifest made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sublim_mech.prompts import Context, Trained
from sublim_mech.prompts.shared import FrameToken
from sublim_mech.storage.manifest import Manifest


def rewritten(path: Path, **changes: Any) -> None:
    """A manifest's file as an older version, or an editor, would have left it; None takes a key
    away.
    """
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def made() -> Manifest:
    """A manifest with something in every field."""
    opening = (FrameToken(1, "template"), FrameToken(2, "user"))
    manifest = Manifest(
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
        configurations={"adapter_config.json": "1" * 64},
    )
    return replace(manifest, content=manifest.fingerprint())
