"""`intruders`: singular vectors of the fine-tuned weights that the base does not have.

What is compared are the singular vectors of whole weights, the base's and the fine-tuned, so this
needs two decompositions per module where `spectrum` of an adapter needs none. Its cost is told
first (`intruder_cost`), and refused above a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from ..arguments import checked
from ..engine.pair import ModelPair
from ..hints import check_choice
from ..models.names import Module
from ..models.placement import plain
from ..models.quantised import is_quantised
from ..models.spectra import change_of, weight_of
from ..models.students import Student
from ..results.alignments import SIDES
from ..results.intruders import IntruderCost, IntruderModule, Intruders
from .weights import chosen, named

MOST = 5e12
"""Operations above which a cost is refused unless it is allowed."""


@checked
def intruder_cost(
    pair: ModelPair,
    *,
    model: str = "student",
    modules: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> IntruderCost:
    """What `intruders` would take, from shapes alone.

    Args:
        pair: base, student, controls.
        model: whose weights, one of `pair.students`, or a student's own name.
        modules: groups, names or full names of modules, as `masks.modules` takes them; all that the
            student changes as a matrix when not given.
        layers: of which blocks; all when not given.

    Raises:
        ValueError: see `intruders`.

    Example:
        >>> cost = sm.instruments.intruder_cost(pair, modules="mlp", layers=[0])
        >>> cost.modules, cost.seconds < 1
        (3, True)
    """
    student = pair.named_student(model)
    return _cost(pair, _looked_at(pair, student, modules, layers))


@checked
def intruders(
    pair: ModelPair,
    *,
    model: str = "student",
    modules: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    k: int = 10,
    threshold: float = 0.5,
    side: str = "left",
    most: float = MOST,
    progress: bool = True,
) -> Intruders:
    """Which singular vectors of the fine-tuned weights does the base not have?

    An intruder dimension (arXiv 2410.21228) is one of the first k singular vectors of the
    fine-tuned weight whose largest absolute cosine to every singular vector of the base's weight is
    below a threshold.

    Args:
        pair: base, student, controls.
        model: whose weights, one of `pair.students`, or a student's own name.
        modules: groups, names or full names of modules, as `masks.modules` takes them; all that the
            student changes as a matrix when not given.
        layers: of which blocks; all when not given.
        k: how many of the fine-tuned weight's singular vectors are looked at.
        threshold: of the cosine.
        side: `left` vectors (what a weight writes) or `right` ones (what it reads).
        most: floating-point operations this may take (`intruder_cost` says how many it would).
        progress: show a progress bar.

    Returns:
        Cosines and counts by module, with their table and map.

    Raises:
        ValueError: a cost above `most`; no student, module or layer of this name; k below 1, a
            threshold outside 0 to 1, another side; no matrix that changed; a quantised base, whose
            weights are packed.

    Example:
        >>> found = sm.instruments.intruders(pair, modules="mlp.out", k=4, progress=False)
        >>> bool(found.table()["intruders"].between(0, 4).all())
        True
    """
    if k < 1:
        raise ValueError(f"k={k}: how many singular vectors must be at least 1.")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: a cosine must be above 0 and at most 1.")
    check_choice("side", side, SIDES)
    model, student = named(pair, model)
    places = _looked_at(pair, student, modules, layers)
    cost = _cost(pair, places)
    if not cost.operations <= most:
        raise ValueError(
            f"intruders would take {cost}: more than most={most:.2g} operations allow. Choose "
            f"fewer, modules=... or layers=..., or allow it: most={cost.operations * 1.01:.2g}."
        )
    base, depth, found = plain(pair.model), pair.sites.n_layers, []
    for place in tqdm(places, desc="intruders", disable=not progress):
        module = base.get_submodule(place.path)
        before = weight_of(module)
        after = before + change_of(student.deltas[place.path], module)
        values, own = _vectors(after, side)
        theirs = _vectors(before, side)[1]
        cosines = (theirs.T @ own[:, :k]).abs().amax(0).clamp(max=1.0)
        found.append(
            IntruderModule(
                name=place.full_name(depth),
                layer=place.layer,
                module=place.name,
                shape=(before.shape[0], before.shape[1]),
                values=values[:k].numpy(),
                cosines=cosines.numpy(),
            )
        )
    return Intruders(model, side, k, threshold, depth, tuple(found), student.notes)


def _vectors(weight: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values, and the singular vectors of one side as columns."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return s, u if side == "left" else v.T


def _looked_at(
    pair: ModelPair,
    student: Student,
    modules: str | Sequence[str] | None,
    layers: Sequence[int] | None,
) -> list[Module]:
    """The modules whose weights are decomposed.

    Raises:
        ValueError: there are none, or one of them is quantised; see `chosen`.
    """
    places = chosen(pair, student, modules, layers)
    if not places:
        raise ValueError(
            f"intruders: student={student.name!r} changes no matrix, so that no singular vector of "
            "its weights is another than the base's; spectrum(pair).table() lists what it changes."
        )
    for place in places:
        if is_quantised(pair.model.get_submodule(place.path)):
            raise ValueError(
                f"base={pair.name!r} is quantised ({place.path}), and packed weights have no "
                "singular vectors; load the checkpoint it was quantised from."
            )
    return places


def _cost(pair: ModelPair, places: Sequence[Module]) -> IntruderCost:
    """What decomposing these takes: base and fine-tuned weight of each, one after the other."""
    operations, most = 0.0, 0
    for place in places:
        module: Any = pair.model.get_submodule(place.path)
        rows, columns = module.weight.shape
        large, small = max(rows, columns), min(rows, columns)
        operations += 2 * (6.0 * large * small**2 + 20.0 * small**3)
        most = max(most, 8 * (6 * large * small + 4 * small**2))
    return IntruderCost(len(places), operations, most)
