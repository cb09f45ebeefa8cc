"""Gates of slots that are only remembered: attention that keeps its keys and values compressed.

DeepSeek's attention, and that of its many relatives, keeps one latent per slot and expands those of
all slots, earlier ones too, at every pass. The projection that expands them computes earlier slots
again, and each needs the gate it had. So these gates travel with what is kept: as one more column
behind the values of such a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.compat import Cache, KeysValues
from ..models.sites import Sites

EXPANDING = "kv_b_proj"
"""What transformers calls the projection, in all architectures that have one."""


@dataclass(frozen=True)
class Latents:
    """The gates of one pass at its expanding projections; there are none in most architectures.

    Attributes:
        paths: the projection by block.
        past: keys and values of earlier slots as the model keeps them; None where none are kept.
        earlier: gates of the earlier slots by projection, `(row, slot)`.
        gates: those of earlier and of the pass's own slots, where one is open.
    """

    paths: dict[int, str]
    past: Cache | None
    earlier: dict[str, Tensor]
    gates: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, sites: Sites, past: Cache | None) -> Latents:
        """Of a pass behind `past`, which an earlier pass gave (`kept`)."""
        paths = {
            module.layer: path
            for path, module in sites.modules.items()
            if path.rpartition(".")[2] == EXPANDING
        }
        if not past or not paths:
            return cls(paths, past, {})
        plain, earlier = list(past), {}
        for layer, path in paths.items():
            keys, values = past[layer]
            plain[layer] = KeysValues(keys, values[..., :-1])
            earlier[path] = values[:, 0, :, -1]
        return cls(paths, tuple(plain), earlier)

    def over_all_slots(
        self, path: str, gate: Tensor | float | None, ids: Tensor
    ) -> Tensor | float | None:
        """A module's gate: of the slots that its output has.

        Args:
            path: of any module.
            gate: of the pass's own slots; None where it is closed.
            ids: the pass's token ids `(row, slot)`.
        """
        if self.past is None or path not in self.paths.values():
            return gate
        own = torch.zeros(ids.shape, device=ids.device)
        own = own + (0.0 if gate is None else gate)
        if path in self.earlier:
            before = self.earlier[path].expand(len(ids), -1)
            own = torch.cat([before.to(own), own], 1)
        if gate is None and not bool(own.any()):
            return None
        self.gates[path] = own
        return own

    def kept(self, cache: Cache) -> Cache:
        """What a later pass is given of this one: its keys and values with the gates they had."""
        if not self.paths:
            return cache
        given = list(cache)
        for layer, path in self.paths.items():
            keys, values = cache[layer]
            column = values.new_zeros(values.shape[0], values.shape[2])
            gates = self.gates.get(path, self.earlier.get(path))
            if gates is not None:  # a block that was skipped keeps earlier slots only
                column[:, : gates.shape[1]] = gates[:, : column.shape[1]].detach()
            column = column[:, None, :, None].expand(-1, values.shape[1], -1, -1)
            given[layer] = KeysValues(keys, torch.cat([values, column], -1))
        return tuple(given)
