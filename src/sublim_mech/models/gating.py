"""Where a student's weights act, for students that were trained to act at chosen tokens only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..prompts import Prompt, Trained, mark_sharing
from ..storage.manifest import Manifest
from .names import Module

ONLY_AT = "its weights are on only at"
"""How notes say it; `results.record.GATED` finds it in them."""

OPENED = "here they are on everywhere"
"""Of a student that is opened without the gates it was trained under; `results.record.OPENED`."""


@dataclass(frozen=True)
class TrainedGates:
    """The gates that a student was trained under (`training.gates_of`).

    Attributes:
        mask: the name of the mask of prompt tokens.
        answer: whether the answer's own tokens were open: `open`, `closed`, or `only` where the
            mask is of them.
        cells: from a marked prompt and the model's modules to the open cells of its tokens,
            `(token, module)` bool, and of the answer's own tokens, `(module,)` bool.
        trained_on: by which prompts are marked, so that masks by sharing work.
        recorded: what the manifest keeps of them.
    """

    mask: str
    answer: str
    cells: Callable[[Prompt, Sequence[Module]], tuple[np.ndarray, np.ndarray]]
    trained_on: Trained
    recorded: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return gates_in_words(self.recorded)

    def hash_with(self, weights: str) -> str:
        """Content hash of a student of these weights under these gates."""
        said = json.dumps(self.recorded, sort_keys=True)
        return hashlib.sha256(f"{weights} {said}".encode()).hexdigest()

    def at(self, prompt: Prompt, modules: Sequence[Module], nodes: int = 0) -> np.ndarray:
        """The open cells of a prompt and of so many answer tokens behind it, `(slot, module)`."""
        (marked,) = mark_sharing([prompt], self.trained_on)
        of_prompt, of_answer = self.cells(marked, modules)
        return np.concatenate([of_prompt, np.tile(of_answer, (nodes, 1))])


def gates_in_words(recorded: dict[str, Any]) -> str:
    """What a manifest keeps of the gates, in words: `"shared" prompt tokens, answer closed`."""
    if recorded["answer"] == "only":
        return f"{recorded['mask']!r}, the answer's own tokens"
    return f"{recorded['mask']!r} of the prompt, answer {recorded['answer']}"


def gates_notes(
    name: str, manifest: Manifest | None, gates: TrainedGates | None
) -> tuple[str, ...]:
    """What has to be read with scores of a student that was trained at chosen cells only.

    Raises:
        ValueError: gates that are not those of its manifest.
    """
    recorded = None if manifest is None else manifest.method.get("where")
    if gates is None:
        if recorded is None or (recorded["mask"], recorded["answer"]) == ("everything", "open"):
            return ()  # on everywhere, as here
        return (
            f"trained with its weights on only at {gates_in_words(recorded)}; {OPENED} "
            "(gates=training.gates_of(run) closes the rest, of a control where it is "
            "loaded: models.load_student(base, path, gates=...))",
        )
    if recorded != gates.recorded:
        trained, instead = "everywhere", "leave them out"
        if recorded is not None:
            trained = f"at {gates_in_words(recorded)}"
            instead = "pass training.gates_of(its run)"
        raise ValueError(
            f"gates: {gates}, but student={name!r} was trained {trained}; {instead} (those of a "
            "control are given where it is loaded: models.load_student(base, path, gates=...)), "
            "or ask where other cells matter with graft."
        )
    return (f"as in training, {ONLY_AT} {gates}",)
