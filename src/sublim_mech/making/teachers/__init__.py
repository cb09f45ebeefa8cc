"""Teachers: models with a trait that write rows (`sample`) or read them (`log_probs`)."""

from .prompting import neutral, prompted, teacher_context, untouched
from .reading import log_probs, read_rows
from .sampling import sample, sampler
from .serving import vllm_sampler, vllm_version
from .steering import randomly_steered, steered, steering_vectors
from .teacher import BASE, Teacher
from .tuning import control_rows, fine_tuned, trait_rows

__all__ = [
    "BASE",
    "Teacher",
    "control_rows",
    "fine_tuned",
    "log_probs",
    "neutral",
    "prompted",
    "randomly_steered",
    "read_rows",
    "sample",
    "sampler",
    "steered",
    "steering_vectors",
    "teacher_context",
    "trait_rows",
    "untouched",
    "vllm_sampler",
    "vllm_version",
]
