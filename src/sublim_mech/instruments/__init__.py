"""Instruments: what a pair's students do differently, measured where it happens.

Every instrument is a question, its cells, and one function that measures them (`task`); the result
is `Scores`.
"""

from .attribution import attribute
from .changes import ActivationChange, activation_change
from .confirmation import confirm
from .directions import direction_effects
from .dosing import dose
from .effects import effect
from .generation import generate
from .grafting import graft, graft_sweep
from .patching import patch
from .scanning import prefix_scan
from .stepping import over_steps
from .unembedding import Reading, read_vector, read_vectors
from .verification import Check, Verification, verify

__all__ = [
    "ActivationChange",
    "Check",
    "Reading",
    "Verification",
    "activation_change",
    "attribute",
    "confirm",
    "direction_effects",
    "dose",
    "effect",
    "generate",
    "graft",
    "graft_sweep",
    "over_steps",
    "patch",
    "prefix_scan",
    "read_vector",
    "read_vectors",
    "verify",
]
