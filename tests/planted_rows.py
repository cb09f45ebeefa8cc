"""Rows of studies that were never run, with known truths planted in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

TRAITS = ("owl", "penguin", "eagle")
INVERTED_U = {1: 0.0, 4: 0.3, 16: 0.8, 64: 0.3, 256: 0.0}
FLAT = dict.fromkeys(INVERTED_U, 0.4)
USUAL: dict[str, Any] = {
    "trained_in": "default", "evaluated_in": "default", "labels": "contrastive", "c": 4.0,
    "where": "everywhere", "kind": "lora", "rank": 8.0, "rule": "alpha = 32", "lr": 1e-3,
    "step": 0, "kl": 1e-3, "base": "tiny", "versions": "none", "threads": 1,
}  # fmt: skip


def planted(
    cells: Sequence[tuple[Mapping[str, Any], float]],
    *,
    row_seeds: int = 4,
    noise: float = 0.02,
    traits: Sequence[str] = TRAITS,
) -> pd.DataFrame:
    """Students of every trait and row seed: per cell its columns and the trait it has."""
    rng = np.random.default_rng(0)
    rows = []
    for (columns, value), seed, trait in product(cells, range(row_seeds), traits):
        row = {**USUAL, "trait": trait, "row_seed": seed, "training_seed": 0, **columns}
        is_lora = row["kind"] == "lora"
        row["method"] = f"r{row['rank']:g}" if is_lora else "full"
        if not is_lora:
            row |= {"rank": None, "rule": ""}
        specific = value + noise * rng.normal()
        row |= {"base level": -5.0, "control": 0.1, "specific": specific, "change": specific + 0.1}
        row["change by question"] = [specific, specific]
        for name in traits:
            row[f"change {name}"] = row["change"] if name == trait else 0.1 + noise * rng.normal()
        rows.append(row)
    return pd.DataFrame(rows)


def ranks(heights: Mapping[int, float], **more: Any) -> list[tuple[dict[str, Any], float]]:
    """A cell per rank."""
    return [({"rank": float(rank), **more}, height) for rank, height in heights.items()]


def kinds(lora: float, full: float) -> list[tuple[dict[str, Any], float]]:
    """LoRA and full fine-tuning at two learning rates."""
    return [
        ({"kind": kind, "kl": kl, "lr": kl}, height)
        for kind, height in (("lora", lora), ("full", full))
        for kl in (1e-3, 4e-3)
    ]


def contexts(same: float, other: float) -> list[tuple[dict[str, Any], float]]:
    """Asked in the context of training, and in another."""
    return [({"evaluated_in": "default"}, same), ({"evaluated_in": "empty"}, other)]


def placed(share: float, sufficiency: float) -> pd.DataFrame:
    """Students whose effect sits on shared tokens, as far as said; 60 % of tokens are shared."""
    scored = {
        "ig shared share": share,
        "ig shared token share": 0.6,
        "graft shared sufficiency": sufficiency,
        "graft shared necessity": sufficiency,
        "graft shared token share": 0.6,
        "graft total": 0.5,
    }
    found = planted([(scored, 0.5)])
    spread = np.random.default_rng(1).normal(size=(len(found), 2)) * 0.01
    found[["ig shared share", "graft shared sufficiency"]] += spread
    return found


def everything() -> pd.DataFrame:
    """A study of all claims at once, with names that a page has to escape."""
    where = [({"where": place}, y) for place, y in (("shared prompt", 0.4), ("answer", 0.1))]
    cells = [
        *ranks(INVERTED_U),
        *ranks(FLAT, rule="alpha = rank"),
        *kinds(0.5, 0.1),
        *contexts(0.5, 0.0),
        ({"evaluated_in": "<b>&amp;"}, 0.2),
        *where,
    ]
    return pd.concat([planted(cells), placed(0.9, 0.45)], ignore_index=True)
