"""Readiness: is there anything for a student to take up?

Teachers, their rows and their labels, measured before training.
"""

from .assessing import assess
from .diverging import Divergence, divergence
from .report import Readiness
from .shifts import RowShifts, row_shift, select
from .signal import label_signal, trait_shift

__all__ = [
    "Divergence",
    "Readiness",
    "RowShifts",
    "assess",
    "divergence",
    "label_signal",
    "row_shift",
    "select",
    "trait_shift",
]
