"""What users annotate with: the types that public functions take and give."""

from .engine.answers import Answers
from .engine.forward import Gates
from .engine.pair import ModelPair
from .engine.runner import Runner
from .evaluation.matrix import TraitMatrix
from .evaluation.outcome import Evaluation
from .instruments.changes import ActivationChange
from .instruments.position_maps import PositionMap
from .instruments.singular_vectors import SingularReadings
from .instruments.unembedding import Reading
from .instruments.verification import Verification
from .making.labelling import Labels, RowLabels
from .making.numbers import Ask, Parsed, Row, Rows
from .making.readiness import Divergence, Readiness, RowShifts
from .making.teachers import Teacher
from .making.training import TrainingData
from .masks import Mask, Occurrence, Where
from .metrics import At, Metric
from .models.base import Base
from .models.deltas import Delta, LowRank, Replaced
from .models.gating import TrainedGates
from .models.sites import Sites
from .models.students import Student
from .prompts import Message, Prompt, Trained
from .results.alignments import Alignment
from .results.extractions import Extraction
from .results.hybrids import Hybrid
from .results.intruders import Intruders
from .results.scores import Scores
from .results.shares import Concentration
from .results.spectra import Spectrum
from .storage.manifest import Manifest
from .storage.runs import Run

__all__ = [
    "ActivationChange",
    "Alignment",
    "Answers",
    "Ask",
    "At",
    "Base",
    "Concentration",
    "Delta",
    "Divergence",
    "Evaluation",
    "Extraction",
    "Gates",
    "Hybrid",
    "Intruders",
    "Labels",
    "LowRank",
    "Manifest",
    "Mask",
    "Message",
    "Metric",
    "ModelPair",
    "Occurrence",
    "Parsed",
    "PositionMap",
    "Prompt",
    "Readiness",
    "Reading",
    "Replaced",
    "Row",
    "RowLabels",
    "RowShifts",
    "Rows",
    "Run",
    "Runner",
    "Scores",
    "SingularReadings",
    "Sites",
    "Spectrum",
    "Student",
    "Teacher",
    "Trained",
    "TrainedGates",
    "TrainingData",
    "TraitMatrix",
    "Verification",
    "Where",
]
