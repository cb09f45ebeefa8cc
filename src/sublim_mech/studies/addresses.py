"""Addresses: hashes of what decides a thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

MADE = {
    "lora": ("rank", "alpha", "targets", "dropout", "rslora", "layers", "dora"),
    "full": ("freeze",),
}
TRAINING = (
    "batch_size", "bucket", "schedule", "clip", "weight_decay", "checkpoint_every", "precision",
)  # fmt: skip
COMPUTING = ("threads", "device", "dtype")
"""Options that have always been part of addresses. One that is new is a part of it where it is not
at its default, so that what was made before it came is found again."""


def decisive(record: Any, always: Sequence[str]) -> dict[str, Any]:
    """The options of a configuration that decide what is made: those of `always`, and others that
    are not at their defaults.
    """
    told = {name: getattr(record, name) for name in always}
    for option in fields(record):
        value = getattr(record, option.name)
        if option.name not in told and value != option.default:
            told[option.name] = value
    return told


def hashed(content: Any) -> str:
    """A short SHA-256 of JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
