"""Instruments: what a pair's students do differently, measured where it happens.

Every instrument is a question, its cells, and one function that measures them (`task`); the result
is `Scores`.
"""

from .attribution import attribute
from .confirmation import confirm
from .effects import effect
from .extracting import extract_lora
from .generation import generate
from .grafting import graft, graft_sweep
from .intruding import intruder_cost, intruders
from .patching import patch
from .singular_vectors import SingularReadings, read_singular
from .spectra import spectrum
from .subspaces import alignment
from .unembedding import Reading, read_vector, read_vectors
from .verification import Check, Verification, verify

__all__ = [
    "Check",
    "Reading",
    "SingularReadings",
    "Verification",
    "alignment",
    "attribute",
    "confirm",
    "effect",
    "extract_lora",
    "generate",
    "graft",
    "graft_sweep",
    "intruder_cost",
    "intruders",
    "patch",
    "read_singular",
    "read_vector",
    "read_vectors",
    "spectrum",
    "verify",
]
