"""Arms of the causal test: the tokens at which a student is trained, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..masks import from_name
from ..prompts import ANSWER

EVERYWHERE = "everywhere"
"""Where a student is trained: at all tokens."""

ARMS: Mapping[str, str | None] = {
    EVERYWHERE: None,
    "shared": "shared",
    "not shared": "not shared",
    "prompt": "everything",
    "answer": ANSWER,
}
"""Each with the mask that `train(where=)` takes: shared prompt tokens only, the other prompt
tokens, all prompt tokens, the answer's own tokens only; none for `everywhere`. The answer's own
tokens are closed in the arms of the prompt."""


def gated(where: str) -> bool:
    """Whether students of an arm have gates."""
    return ARMS[where] is not None


def options_of(where: str) -> dict[str, Any]:
    """What `train` takes for an arm."""
    name = ARMS[where]
    return {} if name is None else {"where": from_name(name), "answer_in_where": False}
