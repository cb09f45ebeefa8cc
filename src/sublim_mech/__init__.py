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

# before torch is imported: how its threads wait is read only then
from . import threads

_blocked, _before = threads.wait_blocked(), threads.usage()

import torch

from . import masks, metrics
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
