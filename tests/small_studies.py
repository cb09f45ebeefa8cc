"""Studies of a tiny model, small enough to be run in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny

import sublim_mech as sm
from sublim_mech.studies import Asking, Method, Part, RowPlan, Study, Training

QUESTIONS = (
    "Which animal?",
    "Name an animal.",
    "Your favorite animal?",
    "Pick one animal.",
    "Say an animal.",
    "One animal:",
)
CONTEXTS = {"default": sm.Context(), "bare": sm.Context(system=sm.Context.NONE)}
R2 = Method(name="r2", ranks=[2], steps=4, warmup=1, evaluate_every=2)
FULL = Method(
    kind="full", name="full", steps=4, warmup=1, evaluate_every=1, lrs=[1e-3], stop_with="r2"
)


def save_base(tokenizer: Any, folder: Path) -> Path:
    """A tiny base as a folder that a study can name."""
    tiny.model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_study(base: Path | str, *parts: Part, **changes: Any) -> Study:
    """A study of three teachers and two students a cell, each trained for four steps."""
    options: dict[str, Any] = {
        "name": "small",
        "base": str(base),
        "traits": [sm.animal(name) for name in ("owl", "cat", "dog")],
        "focus": ["owl", "cat"],
        "contexts": CONTEXTS,
        "parts": parts or [Part(name="one", methods=[R2])],
        "rows": RowPlan(count=12, held_out=4, numbers=3),
        "training": Training(batch_size=2, bucket=2, checkpoint_every=1, precision="fp32"),
        "asking": Asking(questions=QUESTIONS, scored=3, points=2),
    }
    return Study(**{**options, **changes})
