"""An architecture that cannot be run as it has to be is refused in a sentence, no traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_OURS = Path(__file__).parents[1]
_ACCIDENTS = (RuntimeError, AttributeError, KeyError, IndexError)  # tensors of other shapes, ...
_LONGEST = 240  # characters of another library's message


@contextmanager
def refused(model: Any, doing: str) -> Iterator[None]:
    """What goes wrong inside transformers, PEFT or TransformerLens becomes a ValueError.

    What this library raises itself has said why, and memory that is full says nothing of the
    architecture: both are let through.

    Args:
        model: whose architecture.
        doing: what failed, as the subject of a sentence.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if _OURS in Path(where).parents and type(error) not in _ACCIDENTS:
            raise
        said = " ".join(str(error).split())[:_LONGEST] or "no message"
        raise ValueError(
            f"architecture {type(model).__name__} cannot be analysed: {doing} fails "
            f"({type(error).__name__}: {said})."
        ) from error
