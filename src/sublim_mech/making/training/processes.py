"""The processes of one training: one, or several under `torchrun` and `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...models.base import Base

REFUSED = -2
"""What process 0 tells the others where it raised an error."""

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""In which environment variables launchers say how many they start: torchrun, accelerate; MPI."""


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Attributes:
        count: how many.
        process: which one, from 0; process 0 holds the run folder and writes.
    """

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

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder."""
        return self.process == 0

    def agree(self, decide: Callable[[], int]) -> int:
        """What process 0 decides, a number from -1; where it raises, the others do as well.

        Raises:
            RuntimeError: in the others, where process 0 raised an error.
        """
        if self.count == 1:
            return decide()
        from accelerate import PartialState
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        # the others wait in the broadcast, so process 0 comes there even with an error on its way
        decision = torch.tensor(REFUSED, device=PartialState().device)
        try:
            if self.writes:
                decision.fill_(decide())
        finally:
            decision = broadcast(decision)
        if int(decision) == REFUSED:
            raise RuntimeError("process 0 does not train this run; its error says why.")
        return int(decision)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
