"""Instruments: what a pair's students do differently, measured where it happens.

Every instrument is a question, its cells, and one function that measures them (`task`); the result
is `Scores`.
"""

from .attribution import attribute
from .confirmation import confirm
from .effects import effect
from .generation import generate
from .grafting import graft, graft_sweep
from .hybrids import Hybrid, hybrid
from .patching import patch
from .verification import Check, Verification, verify

__all__ = [
    "Check",
    "Hybrid",
    "Verification",
    "attribute",
    "confirm",
    "effect",
    "generate",
    "graft",
    "graft_sweep",
    "hybrid",
    "patch",
    "verify",
]
