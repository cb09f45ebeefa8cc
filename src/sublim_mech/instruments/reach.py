"""Activations that no student changes: patching them moves nothing, whatever was learned."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.pair import ModelPair
from ..models.names import Module, module_group
from ..results.record import SILENT

_BEHIND = {
    "resid_pre": (),
    "q": ("q",),
    "k": ("k",),
    "v": ("v",),
    "z": ("q", "k", "v"),
}
"""Of a block's own attention, the projections that a site is behind."""


def silent_layers(pair: ModelPair, site: str, layers: Sequence[int]) -> list[int]:
    """The layers at which base and students compute the same at a site: no module that any student
    changes stands before it. None of them where no student is any different.
    """
    paths = {path for student in pair.students.values() for path in student.deltas}
    changed = [module for path, module in pair.sites.modules.items() if path in paths]
    if not changed:
        return []
    return [at for at in layers if not any(_before(module, site, at) for module in changed)]


def reach_notes(pair: ModelPair, site: str, layers: Sequence[int]) -> tuple[str, ...]:
    """What to say of layers at which no student changes anything, as a note for the scores."""
    silent = silent_layers(pair, site, layers)
    if not silent:
        return ()
    at = f"layer{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}"
    if len(silent) == len(layers) > 1:
        at = "all of these layers"
    return (f"{at}: {SILENT} {site} there, so that the effect is 0 whatever was learned",)


def _before(module: Module, site: str, layer: int) -> bool:
    """Whether a module may stand before a site; where that is not known, it may."""
    if module.layer != layer:
        return module.layer < layer
    first, _, last = module.name.partition(".")
    if site == "resid_pre":
        return False
    if module_group(module) == "norms":
        return first not in ("ln2_post",) or site == "resid_post"
    if site in ("mlp_out", "resid_post"):
        return True
    if module_group(module) == "mlp":
        return False
    if site in _BEHIND and last in ("q", "k", "v", "o"):
        return last in _BEHIND[site]
    return True
