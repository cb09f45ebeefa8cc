"""Labels of what was measured: the coordinates of prompts and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.answers import Answers
from ..prompts import Prompt


def position_coords(prompts: Sequence[Prompt], answers: Sequence[Answers], decode: Any) -> dict[str, Any]:
    """Coordinates of `(prompt, position)`: tokens of each prompt, then the nodes of its answer trie.

    Args:
        prompts: prompts, P of them.
        answers: their tries.
        decode: token ids -> text.
    """
    width = max(len(p) + len(a.nodes) for p, a in zip(prompts, answers, strict=True))
    shape = len(prompts), width
    token, role, share = (np.full(shape, "", dtype=object) for _ in range(3))
    turn = np.full(shape, -1)
    for i, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        n, m = len(p), len(p) + len(a.nodes)
        token[i, :n], token[i, n:m] = p.tokens, [decode([node]) for node in a.nodes]
        role[i, :n], role[i, n:m] = p.roles, "answer"
        turn[i, :n], turn[i, n:m] = p.turns, p.turns[-1]
        if p.sharing is not None and p.seen is not None:
            share[i, :n] = p.sharing
            share[i, n:m] = ["seen" if node in p.seen else "novel" for node in a.nodes]
    dims = ("prompt", "position")
    coords = {
        "position": np.arange(width),
        "token": (dims, token.astype(str)),
        "role": (dims, role.astype(str)),
        "turn": (dims, turn),
    }
    if all(p.sharing is not None for p in prompts):
        coords["sharing"] = (dims, share.astype(str))
    return coords
