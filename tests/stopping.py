"""A training that stops with an exception, as a stand-in for one that is killed."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class StopError(Exception):
    pass


class StopAt(TrainerCallback):
    """An exception after a step, in every process."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise StopError
