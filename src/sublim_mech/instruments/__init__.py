"""Instruments: what a pair's students do differently, measured where it happens.

Every instrument is a question, its cells, and one function that measures them (`task`); the result
is `Scores`.
"""

from .attribution import attribute
from .beside import side_by_side
from .changes import ActivationChange, activation_change
from .confirmation import confirm
from .directions import direction_effects
from .dosing import dose
from .effects import effect
from .extracting import extract_lora
from .generation import generate
from .grafting import graft, graft_sweep
from .hybrids import hybrid
from .intruding import intruder_cost, intruders
from .patching import patch
from .scanning import prefix_scan
from .singular_vectors import SingularReadings, read_singular
from .spectra import spectrum
from .stepping import over_steps, step_pairs
from .subspaces import alignment
from .unembedding import Reading, read_vector, read_vectors
from .verification import Check, Verification, verify

__all__ = [
    "ActivationChange",
    "Check",
    "Reading",
    "Verification",
    "activation_change",
    "SingularReadings",
    "alignment",
    "attribute",
    "confirm",
    "direction_effects",
    "dose",
    "effect",
    "extract_lora",
    "generate",
    "graft",
    "graft_sweep",
    "hybrid",
    "over_steps",
    "patch",
    "prefix_scan",
    "read_vector",
    "read_vectors",
    "intruder_cost",
    "intruders",
    "read_singular",
    "side_by_side",
    "spectrum",
    "step_pairs",
    "verify",
]
