"""Scores: labelled effects with their record, their tables, pictures and files. No torch here.

Figures and token pages are made by `plots`, `bars`, `heatmaps` and `page`, which draw with matplotlib
and are imported when something is drawn.
"""

from .kinds import KINDS, Kind
from .record import Record
from .scores import Scores
from .shares import Concentration, concentration

__all__ = ["KINDS", "Concentration", "Kind", "Record", "Scores", "concentration"]
