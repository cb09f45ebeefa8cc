"""Evaluation: what base, student and controls say when asked, in every context."""

from .matrix import TraitMatrix, trait_matrix
from .measuring import evaluate
from .outcome import Evaluation

__all__ = ["Evaluation", "TraitMatrix", "evaluate", "trait_matrix"]
