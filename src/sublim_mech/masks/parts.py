"""Masks of the parts that a pair is split into: singular bands, attention heads, students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import checked
from ..models.names import Module, part_order
from .mask import Mask, mask_of_modules, whole_number


@checked
def band(*bands: int | str) -> Mask:
    """These bands of singular directions, in every matrix that has them; for a pair that is split
    by them, `pair.split("band", bands=...)`.

    Args:
        bands: bands from 0, that of the largest singular values; `"tail"` for what lies behind the
            last one; `"rest"` for what is no matrix (norms, biases, embeddings) or not decomposed.

    Raises:
        ValueError: none is given; when applied, the pair is not split by bands or has no such band.

    Example:
        >>> mask = sm.masks.band(0) & sm.masks.layers(1)
        >>> cells = pair.split("band", bands=2).cells()
        >>> [cell.part.band for cell, on in zip(cells, mask(prompts[0], cells)[0]) if on][:3]
        [0, 0, 0]
    """
    return _mask("band", bands, "pair.split('band', bands=8)")


@checked
def head(*heads: int | str) -> Mask:
    """These attention heads: their rows of the query, key and value projections, and their columns
    of the output projection; for a pair that is split by them, `pair.split("head")`.

    Keys and values that several heads share (grouped-query attention) belong to no single head:
    those of the first group are `"kv 0"`, a part of its own.

    Args:
        heads: heads from 0, in every layer; `"kv 0"`, ...; `"rest"` for what is no head's
            projection.

    Raises:
        ValueError: none is given; when applied, the pair is not split by heads or has no such head.

    Example:
        >>> mask = sm.masks.head(0, "kv 0") & sm.masks.layers(1)
        >>> mask.name
        'heads 0, kv 0 & layer 1'
    """
    return _mask("head", heads, "pair.split('head')")


@checked
def student(*names: str) -> Mask:
    """The differences of these students; for a pair in which they are one, `pair.split("student")`.

    Args:
        names: names of students (`Student.name`).

    Raises:
        ValueError: none is given; when applied, the pair is not split by students or has no such
            student.

    Example:
        >>> (sm.masks.student("owl") & sm.masks.role("system")).name
        'student owl & system'
    """
    return _mask("student", names, "pair.split('student')")


def _mask(by: str, labels: Sequence[Any], split: str) -> Mask:
    """The cells whose part has one of these labels."""
    called = f"{by}({', '.join(map(repr, labels))})"
    if not labels:
        raise ValueError(f"{by}() is empty; give at least one.")
    wanted = [one if isinstance(one, str) else whole_number(one, by) for one in labels]

    def inside(modules: Sequence[Module]) -> list[bool]:
        of_cells = [getattr(module.part, by) for module in modules]
        known = list(dict.fromkeys(label for label in of_cells if label is not None))
        if not known:
            raise ValueError(
                f"{called}: the differences of this pair are not split by {by}; take {split} and "
                "pass that pair."
            )
        lacking = [label for label in wanted if label not in known]
        if lacking:
            raise ValueError(
                f"{called}: there is no {by} {lacking[0]!r}; the pair is split into "
                f"{', '.join(map(str, sorted(known, key=part_order)))}."
            )
        return [label in wanted for label in of_cells]

    plural = "s" if len(wanted) > 1 else ""
    return mask_of_modules(f"{by}{plural} {', '.join(map(str, wanted))}", inside)
