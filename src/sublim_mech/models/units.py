"""What is gated as one: a module, or the whole part of a block that it stands in."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .experts import find_experts, inside
from .mixers import find_mixers, is_projection


def gated_units(model: nn.Module, changed: Iterable[str]) -> tuple[str, ...]:
    """The units of a student that changes these modules, as `load_student` will find them.

    Args:
        model: the base's model.
        changed: paths of the modules whose parameters change.

    Returns:
        Paths: of the modules themselves; of a block of experts in place of what changes in it
        (`experts`); of a mixer where more than projections change in it (`mixers`).

    Example:
        >>> from sublim_mech.models.units import gated_units
        >>> gated_units(pair.model, ["model.layers.0.self_attn.q_proj"])
        ('model.layers.0.self_attn.q_proj',)
    """
    blocks, mixers = find_experts(model), find_mixers(model)
    paths = [inside(path, blocks) or path for path in changed]
    units: dict[str, None] = {}
    for path in paths:
        mixer = inside(path, mixers)
        if mixer is not None and path not in blocks:
            among = [other for other in paths if inside(other, (mixer,))]
            if not all(is_projection(model.get_submodule(other)) for other in among):
                path = mixer
        units[path] = None
    return tuple(units)
