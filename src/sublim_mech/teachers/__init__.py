"""Teachers: models with a trait that write rows (`sample`) or label them (`label`) for students to be trained on."""

from .heads import DIGITS, SupportHead, pad, support_ids, with_support_head
from .labels import Labels, label
from .teacher import BASE, Teacher, prompted, teacher_context, untouched

__all__ = [
    "BASE", "DIGITS", "Labels", "SupportHead", "Teacher", "label", "pad", "prompted", "support_ids", "teacher_context", "untouched",
    "with_support_head",
]  # fmt: skip
