"""What checks shapes while the tests run: beartype, on the annotations that have any.

Annotations without shapes are left to mypy: with them checked as well, a caller's mistake would
end in beartype's message instead of ours, and the tests are about ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype

MODULES = ["sublim_mech.engine", "sublim_mech.instruments", "sublim_mech.metrics"]


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping decorates with: it hands a stand-in with a function's annotations."""
    annotations = function.__annotations__
    function.__annotations__ = {name: kept for name, kept in annotations.items() if has_shape(kept)}
    return beartype(function)


def has_shape(annotation: Any) -> bool:
    """Whether a jaxtyping annotation stands in it anywhere."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(annotation))
