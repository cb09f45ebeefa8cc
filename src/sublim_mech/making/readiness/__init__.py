"""Readiness: is there anything for a student to take up? Teachers, their rows and their labels, measured before training."""

from .gates import Gates, gates
from .signal import RowShifts, label_signal, row_shift, select, trait_shift

__all__ = ["Gates", "RowShifts", "gates", "label_signal", "row_shift", "select", "trait_shift"]
