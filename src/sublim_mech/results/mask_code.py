"""Cells of scores as the Python that gives their mask, so that an advice can be pasted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arrays import ScoreArrays

MASKS = "sm.masks"


def of_tokens(kind: str, name: str) -> str:
    """The mask of a role or a class of sharing.

    Args:
        kind: `role` or `sharing`, as masks are called.
        name: of the role or the class.

    Example:
        >>> from sublim_mech.results.mask_code import of_tokens
        >>> of_tokens("role", "template")
        "sm.masks.role('template')"
    """
    return f"{MASKS}.{kind}({name!r})"


def of_selection(scores: ScoreArrays) -> str:
    """The mask of the cells that `sel` chose, one factor per axis; empty where these are all."""
    factors = [
        _FACTORS[axis](scores, np.atleast_1d(chosen).tolist())
        for axis, chosen in scores.selected.items()
        if axis in _FACTORS
    ]
    return " & ".join(factors)


def _layers(scores: ScoreArrays, layers: Sequence[int]) -> str:
    """Blocks by number; what lies outside them by the modules that are there."""
    blocks = [layer for layer in layers if 0 <= layer < scores.record.n_layers]
    parts = [f"{MASKS}.layers({_numbers(blocks)})"] if blocks else []
    outside = [layer for layer in layers if layer not in blocks]
    names = dict.fromkeys(name for layer in outside for name in _modules_at(scores, layer))
    if names:
        parts.append(_modules(scores, list(names)))
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _modules_at(scores: ScoreArrays, layer: int) -> list[str]:
    """The modules that have cells in a layer."""
    effect = scores.data["effect"].sel(layer=layer)
    if "module" not in effect.dims:
        return [str(scores.selected["module"])]
    others = [dim for dim in effect.dims if dim != "module"]
    there = effect.notnull().any(others)
    return [str(name) for name in effect["module"].values[there.values]]


def _modules(scores: ScoreArrays, names: Sequence[str]) -> str:
    return f"{MASKS}.modules({', '.join(map(repr, names))})"


def _positions(scores: ScoreArrays, positions: Sequence[int]) -> str:
    """Positions that all prompts have; else a function, for a mask refuses what a prompt lacks."""
    lengths = scores.prompt_tokens
    if lengths is not None and max(positions) < int(lengths.min()):
        return f"{MASKS}.positions({', '.join(map(str, positions))})"
    of_prompt = f"lambda prompt: [i for i in {_numbers(positions)} if i < len(prompt)]"
    return f"{MASKS}.as_mask({of_prompt}, 'these positions')"


def _part(function: str) -> Callable[[ScoreArrays, Sequence[Any]], str]:
    """What chooses parts of a pair that is split; numbers stand there as such."""

    def code(scores: ScoreArrays, labels: Sequence[Any]) -> str:
        given = [int(one) if str(one).isdigit() else str(one) for one in labels]
        return f"{MASKS}.{function}({', '.join(map(repr, given))})"

    return code


def _students(scores: ScoreArrays, names: Sequence[str]) -> str:
    return f"{MASKS}.student({', '.join(map(repr, names))})"


_FACTORS: dict[str, Callable[[ScoreArrays, Sequence[Any]], str]] = {
    "layer": _layers,
    "module": _modules,
    "band": _part("band"),
    "head": _part("head"),
    "whose": _students,
    "position": _positions,
}
"""By the axis that was selected on."""


def _numbers(numbers: Sequence[int]) -> str:
    """Rising numbers: a range where they are three or more in a row."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and list(numbers) == list(range(first, last + 1)):
        return f"range({first}, {last + 1})"
    return repr(list(numbers))
