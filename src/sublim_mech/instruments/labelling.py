"""Labels of what was measured: coordinates of prompts, positions and layers, and the record.

No model runs here: whatever had to be measured is handed in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..engine.answers import Answers
from ..engine.pair import ModelPair
from ..prompts.chat import Prompt
from ..results.arrays import name_layers
from ..results.record import BaseSource, Compute, Record, StudentSource
from ..results.scores import Scores

if TYPE_CHECKING:
    from .task import Task


def label_scores(
    task: Task,
    kind: str,
    effect: tuple[tuple[str, ...], np.ndarray],
    *,
    base: np.ndarray,
    student: np.ndarray,
    coords: Mapping[str, Any],
    options: Mapping[str, Any],
    compute: Compute | None,
) -> Scores:
    """Label arrays and note where they come from.

    Args:
        task: what was measured.
        kind: one of `results.kinds.KINDS`.
        effect: (dimensions after `model`, array `(model, *dimensions)`).
        base: `(model, prompt)` metric of the base.
        student: `(model, prompt)` metric of each student.
        coords: coordinates of the further dimensions.
        options: what the instrument was asked for, by the record's fields.
        compute: what the floating-point type costs, where it is not that of the weights.
    """
    dims, cells = effect
    prompts, decode = task.prompts, task.pair.tokenizer.decode
    positions = position_coords(prompts, task.answers, decode) if "position" in dims else {}
    data = xr.Dataset(
        {
            "effect": (("model", *dims), cells.astype(np.float64)),
            "base": (("model", "prompt"), base),
            "student": (("model", "prompt"), student),
        },
        {
            "model": np.array(list(task.pair.students)),
            "prompt": np.arange(len(prompts)),
            "question": ("prompt", np.array([prompt.question for prompt in prompts])),
            **positions,
            **coords,
        },
    )
    n_layers, source = task.pair.sites.n_layers, origin(task.pair)
    record = Record(
        metric=task.metric.name,
        unit=task.metric.unit,
        base=BaseSource(**source["base"]),
        students={name: StudentSource(**entry) for name, entry in source["students"].items()},
        contexts=context_texts(prompts),
        n_layers=n_layers,
        versions=source["versions"],
        command=source["command"],
        compute=compute,
        **options,
    )
    return Scores(name_layers(data, n_layers), kind, record)


def origin(pair: ModelPair) -> dict[str, Any]:
    """Where numbers come from, as JSON: models and their hashes, versions, the command."""
    students = {
        name: {
            "name": student.name,
            "kind": student.kind,
            "hash": student.hash,
            "teacher": "unknown" if student.manifest is None else student.manifest.teacher,
        }
        for name, student in pair.students.items()
    }
    packages = ("sublim_mech", "torch", "transformers", "transformer-lens", "peft")
    return {
        "base": {"name": pair.base.name, "hash": pair.base.hash},
        "students": students,
        "versions": {name: version(name) for name in packages},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def context_texts(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The contexts of prompts as texts, each once."""
    return tuple(dict.fromkeys(str(prompt.context.to_json()) for prompt in prompts))


def position_coords(
    prompts: Sequence[Prompt],
    answers: Sequence[Answers],
    decode: Callable[[list[int]], str],
) -> dict[str, Any]:
    """Coordinates of `(prompt, position)`: tokens of each prompt, then the nodes of its answers.

    Args:
        prompts: prompts, P of them.
        answers: their tries.
        decode: token ids -> text.

    Returns:
        `position`, `token`, `role`, `turn`, and `sharing` where all prompts are marked. Past a
        shorter prompt texts are empty and the turn is -1.
    """
    width = max(len(p) + len(a.nodes) for p, a in zip(prompts, answers, strict=True))
    shape = len(prompts), width
    token, role, sharing = (np.full(shape, "", dtype=object) for _ in range(3))
    turn = np.full(shape, -1)
    for row, (prompt, trie) in enumerate(zip(prompts, answers, strict=True)):
        asked = slice(len(prompt))
        answered = slice(len(prompt), len(prompt) + len(trie.nodes))
        token[row, asked] = prompt.tokens
        token[row, answered] = [decode([node]) for node in trie.nodes]
        role[row, asked], role[row, answered] = prompt.roles, "answer"
        turn[row, asked], turn[row, answered] = prompt.turns, prompt.turns[-1]
        if prompt.sharing is not None and prompt.seen is not None:
            sharing[row, asked] = prompt.sharing
            seen = [node in prompt.seen for node in trie.nodes]
            sharing[row, answered] = np.where(seen, "seen", "novel")
    dims = ("prompt", "position")
    coords = {
        "position": np.arange(width),
        "token": (dims, token.astype(str)),
        "role": (dims, role.astype(str)),
        "turn": (dims, turn),
    }
    if all(prompt.sharing is not None for prompt in prompts):
        coords["sharing"] = (dims, sharing.astype(str))
    return coords
