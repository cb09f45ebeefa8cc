"""An architecture that cannot be run as it has to be is refused in a sentence, no traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_OURS = Path(__file__).parents[1]
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
        # (what torch says of shapes in a line of ours is no reason of ours)
        if _OURS in Path(where).parents and type(error) not in (RuntimeError, IndexError):
            raise
        said = " ".join(str(error).split())[:_LONGEST] or "no message"
        raise ValueError(
            f"architecture {type(model).__name__} cannot be analysed: {doing} fails "
            f"({type(error).__name__}: {said})."
        ) from error


def check_apart(name: str, changed: Iterable[str]) -> None:
    """Refuse a student that changes a module and what stands inside it: one gate would count twice.

    Raises:
        ValueError: a module holds parameters of its own beside modules that change too.
    """
    paths = sorted(changed)
    for outer in paths:
        inner = next((path for path in paths if path.startswith(f"{outer}.")), None)
        if inner is not None:
            raise ValueError(
                f"student={name!r} changes {outer}, which has parameters of its own, and {inner} "
                "inside it: what the two add cannot be told apart by token; train a student that "
                "leaves one of them as it is."
            )
