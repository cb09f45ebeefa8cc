"""Which modules an adapter is on, and what PEFT cannot adapt as it believes to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from . import compat
from .deltas import walk


def adapted_modules(model: Any) -> set[str]:
    """Paths of the base's modules that have an adapter, trained or not.

    Args:
        model: a student's, as Hugging Face's or PEFT's own.
    """
    return {path for path, module in walk(compat.inside_peft(model)) if compat.is_adapter(module)}


def check_adapted_linear(name: str, model: Any, odd: Collection[str]) -> None:
    """Refuse an adapter on a linear module that does more than multiply by its matrix: PEFT takes
    it for one that does not, so that the student's own forward fails, or adds something else.

    Args:
        name: of the student.
        model: the student's, as Hugging Face's or PEFT's own.
        odd: paths of such modules (`observing.Observed`).

    Raises:
        ValueError: it adapts one.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    for path, module in walk(inner) if odd else ():
        if path in odd and compat.is_adapter(module):
            own = path.rpartition(".")[2]
            adapter: Any = module
            raise ValueError(
                f"student={name!r} has an adapter on {path}, which is more than a matrix "
                f"({type(adapter.get_base_layer()).__name__}): PEFT's own student fails there, or "
                f"adds something else; train one that leaves it out (target_modules without "
                f"{own!r})."
            )
