"""Mechanistic analysis of fine-tuned students: where does the behaviour they acquired live?

The sentence this library is made for:

    pair = load_pair(base, student, controls=[...])          # models
    prompts = sharing(render(pair.tokenizer, trait.questions), trained_on=pair.training_prompts)
    effect, graft_by_role, patch, attribute                  # how much of it is there, and at which tokens
    concentration(scores, on="shared")                       # more than the token share?

Students are made with `numbers` (prompts and rows), `teachers` (who writes or labels them) and `train`, and asked with `evaluate`.
"""

from . import masks
from .engine.pair import load_pair
from .evaluation.measuring import evaluate
from .instruments.attribution import attribute
from .instruments.confirmation import confirm
from .instruments.generation import generate
from .instruments.grafting import effect, graft, graft_by_role, graft_by_sharing, graft_sweep
from .instruments.patching import patch
from .instruments.verification import verify
from .making import numbers, teachers, training
from .making.training import FullFT, LoRA, train
from .metrics import own_minus_others
from .models.base import load_base
from .models.students import load_student
from .prompts.chat import DEFAULT, EMPTY, NONE, PLAIN, Context, render
from .prompts.sharing import sharing
from .prompts.traits import Trait, animal
from .results.shares import concentration
from .results.scores import Scores

__version__ = "0.1.0"

__all__ = [
    "DEFAULT", "EMPTY", "NONE", "PLAIN", "Context", "FullFT", "LoRA", "Scores", "Trait", "animal", "attribute", "concentration",
    "confirm", "effect", "evaluate", "generate", "graft", "graft_by_role", "graft_by_sharing", "graft_sweep",
    "load_base", "load_pair", "load_student", "masks", "numbers", "own_minus_others", "patch", "render", "sharing", "teachers", "train",
    "training", "verify",
]  # fmt: skip
