"""Mechanistic analysis of fine-tuned students: where does the behaviour they acquired live?

The sentence this library is made for:

    pair = load_pair(base, student, controls=[...])          # models, and how they were trained
    prompts = render(pair, trait.questions)                  # as in training, marked by it
    effect, graft(sets="role"), patch, attribute             # how much of it is there, and at which
    tokens concentration(scores, on="shared")                       # more than the token share?

Students are made with `numbers` (prompts and rows), `teachers` (who writes or labels them) and
`train`, and asked with `evaluate`. What a first notebook does not need is reached by its folder:
`instruments`, `making`, `results`, `prompts`, `models`, `engine`.
"""

from typing import TYPE_CHECKING

# before torch is imported: how its threads wait is read only then
from . import threads

_blocked, _before = threads.wait_blocked(), threads.usage()

import torch

from . import hints, masks, metrics
from .engine.pair import load_pair
from .evaluation.measuring import evaluate
from .instruments import attribute, confirm, effect, graft, patch, verify
from .making import numbers, teachers, training
from .making.training import FullFT, LoRA, train
from .models.base import load_base
from .prompts import RAW, Context, Trait, animal, mark_sharing, render
from .results.scores import Scores
from .results.shares import concentration

threads.say_what_is_busy(_before, torch.get_num_threads(), blocked=_blocked)

__version__ = "0.1.0"

__all__ = [
    "RAW",
    "Context",
    "FullFT",
    "LoRA",
    "Scores",
    "Trait",
    "animal",
    "attribute",
    "concentration",
    "confirm",
    "effect",
    "evaluate",
    "graft",
    "load_base",
    "load_pair",
    "mark_sharing",
    "masks",
    "metrics",
    "numbers",
    "patch",
    "render",
    "teachers",
    "train",
    "training",
    "verify",
]

_FOLDERS = (
    "models", "prompts", "results", "instruments",
    "training", "teachers", "numbers", "metrics", "masks",
)  # fmt: skip

if not TYPE_CHECKING:  # which is to refuse what is not there

    def __getattr__(name: str) -> None:
        """Near names of what is not there, also of what stands in a folder."""
        called = {"studies": "from sublim_mech import studies"}  # which is not loaded by itself
        for of in _FOLDERS:
            there = vars(globals()[of])
            own = [one for one, it in there.items() if getattr(it, "__module__", "").endswith(of)]
            called |= {one: f"{of}.{one}" for one in there.get("__all__", own) if one[0] != "_"}
        called |= {one: one for one in __all__}
        near = hints.nearest(name, [name] if name in called else called, called) or "."
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{near}")
