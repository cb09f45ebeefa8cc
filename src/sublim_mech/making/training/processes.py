"""The processes of one training: one, or several under `torchrun` and `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...models.base import Base

REFUSED = -2
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # torchrun, accelerate; MPI's


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is."""

    count: int = 1
    process: int = 0

    @classmethod
    def now(cls, base: Base) -> Processes:
        """As the launcher's environment says."""
        if all(int(os.environ.get(name, "1")) <= 1 for name in SIZES):
            return cls()
        from accelerate import PartialState  # type: ignore[import-untyped]

        state = PartialState(cpu=base.device.type == "cpu")
        return cls(state.num_processes, state.process_index)

    def agree(self, decide: Callable[[], int]) -> int:
        """What process 0 decides, a number from -1; where it raises, the others do as well."""
        if self.count == 1:
            return decide()
        from accelerate import PartialState
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        value = torch.tensor(REFUSED, device=PartialState().device)
        try:
            if self.process == 0:
                value.fill_(decide())
        finally:
            value = broadcast(value)
        if int(value) == REFUSED:
            raise RuntimeError("process 0 does not train this run; its error says why.")
        return int(value)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
