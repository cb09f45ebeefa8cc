"""Scores: labelled effects with their record, their tables, pictures and files. No torch here.

Pictures beyond `Scores.plot` are in `bars`, `heatmaps` and `page`.
"""

from .comparing import compare
from .kinds import KINDS, Kind
from .page import save_page, token_page
from .record import Compute, Confirmation, Record
from .scores import Scores
from .shares import Concentration, concentration
from .stability import Reliability, reliability

__all__ = [
    "KINDS",
    "Compute",
    "Concentration",
    "Confirmation",
    "Kind",
    "Record",
    "Reliability",
    "Scores",
    "compare",
    "concentration",
    "reliability",
    "save_page",
    "token_page",
]
