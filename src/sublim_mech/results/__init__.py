"""Scores: labelled effects with their record, their tables, pictures and files. No torch here.

Pictures beyond `Scores.plot` are in `bars`, `heatmaps` and `page`.
"""

from .alignments import Alignment
from .beside import SideBySide
from .comparing import compare
from .curves import crossings, linearity
from .extractions import Extraction
from .hybrids import Hybrid
from .intruders import IntruderCost, Intruders
from .kinds import KINDS, Kind
from .page import save_page, token_page
from .record import Compute, Confirmation, Record
from .scores import Scores
from .shares import Concentration, concentration
from .spectra import Spectrum
from .stability import Reliability, reliability

__all__ = [
    "KINDS",
    "Alignment",
    "Compute",
    "Concentration",
    "Confirmation",
    "Extraction",
    "Hybrid",
    "IntruderCost",
    "Intruders",
    "Kind",
    "Record",
    "Reliability",
    "Scores",
    "SideBySide",
    "Spectrum",
    "compare",
    "concentration",
    "crossings",
    "linearity",
    "reliability",
    "save_page",
    "token_page",
]
