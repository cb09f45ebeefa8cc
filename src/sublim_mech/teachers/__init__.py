"""Teachers: models with a trait that write rows (`sample`) or label them (`label`) for students to be trained on."""

from .gates import Gates, gates
from .heads import DIGITS, SupportHead, pad, support_ids
from .label_store import Labels, tokenizer_hash
from .label_views import RowLabels
from .labels import label
from .running import log_probs, read_rows
from .sampling import sample, sampler
from .signal import RowShifts, label_signal, row_shift, select, trait_shift
from .steering import randomly_steered, steered, steering_vectors
from .teacher import (
    BASE,
    Teacher,
    control_rows,
    fine_tuned,
    neutral,
    prompted,
    teacher_context,
    trait_rows,
    untouched,
)

__all__ = [
    "BASE", "DIGITS", "Gates", "Labels", "RowShifts", "gates", "label_signal", "row_shift", "select", "trait_shift",
    "RowLabels", "SupportHead", "Teacher", "label", "log_probs", "pad", "prompted", "read_rows",
    "support_ids", "teacher_context", "tokenizer_hash", "untouched",
    "control_rows", "fine_tuned", "neutral", "randomly_steered", "sample", "sampler", "steered", "steering_vectors", "trait_rows",
]  # fmt: skip
