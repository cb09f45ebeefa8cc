"""A penalty on chosen tokens: how far the student's activations there are from the base's.

    penalty = strength * mean over chosen tokens and blocks of |h_student - h_base|^2 / d_model

with h the residual stream after a block. The mean is over the whole step's chosen tokens, however
the step is cut into forwards and processes. After arXiv 2606.06667, where what a student carries
over sits in the representations of the tokens before the question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...masks import AnswerMask, Mask
from ...models.placement import forward_replaced
from ...models.sites import Sites
from ...prompts import Trained, mark_sharing
from .data import TrainingData
from .gating import FrozenBase
from .lesson import Lesson


@dataclass(frozen=True)
class Pull:
    """Holds a model's activations to its base's.

    Attributes:
        base: the base beside it.
        sites: the map of both.
        strength: what the mean squared distance is multiplied by.
    """

    base: FrozenBase
    sites: Sites
    strength: float
    _recorded: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @contextmanager
    def watching(self, inner: Any) -> Iterator[None]:
        """Keep the residual stream after each block of the model in training."""
        self._recorded.clear()
        with _recording(inner, self.sites, self._recorded):
            yield

    def distance(self, batch: dict[str, Tensor]) -> Tensor:
        """Sum over a batch's chosen tokens of the mean squared distance, blocks averaged."""
        at = batch["pulled"]
        if not bool(at.any()):
            return torch.zeros((), device=at.device)
        of_base: dict[int, Tensor] = {}
        model: Any = self.base.module("", at.device)
        # nobody reads its logits
        no_head = forward_replaced(model.get_output_embeddings(), lambda hidden: hidden)
        with torch.no_grad(), _recording(model, self.sites, of_base), no_head:
            model(input_ids=batch["ids"], use_cache=False)
        total = torch.zeros((), device=at.device)
        for layer, hidden in self._recorded.items():
            gap = hidden[at].float() - of_base[layer][at].float()
            total = total + gap.square().mean(-1).sum()
        self._recorded.clear()
        return total / self.sites.n_layers


@contextmanager
def _recording(model: Any, sites: Sites, kept: dict[int, Tensor]) -> Iterator[None]:
    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            kept[layer] = output[0] if isinstance(output, (tuple, list)) else output

        return hook

    handles = [
        model.get_submodule(path).register_forward_hook(keep(layer))
        for layer, path in enumerate(sites.blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_penalty(penalty: tuple[Mask, float]) -> tuple[Mask, float]:
    """A mask of tokens and a strength.

    Raises:
        ValueError: a strength that is no number above 0.
    """
    mask, strength = penalty
    if not 0 < strength < math.inf:
        raise ValueError(
            f"penalty=({mask.name!r}, {strength}): the strength must be a number above 0."
        )
    return mask, float(strength)


def check_reached(mask: Mask, where: Mask, lesson: Lesson) -> None:
    """Refuse a penalty on tokens which a student that learns elsewhere cannot change.

    Raises:
        ValueError: in no row it is open at a chosen token or before one.
    """
    assert lesson.cells is not None
    assert lesson.pulled is not None
    for row in lesson.rows:
        cells = lesson.cells.of(row, len(lesson.data.completions[row])).any(1)
        if (np.logical_or.accumulate(cells) & lesson.pulled[row]).any():
            return
    raise ValueError(
        f"penalty: with where={where.name!r} the student is closed at the tokens of mask "
        f"{mask.name!r} and at all before them, so that its activations there are the base's and "
        "nothing is held to them; choose tokens behind open ones, or leave it out."
    )


def pulled_tokens(
    mask: Mask, data: TrainingData, trained_on: Trained, trained: Sequence[int]
) -> list[np.ndarray]:
    """Per row, the tokens of prompt and answer that are held to the base's activations.

    Raises:
        ValueError: the mask depends on modules, or holds no token of any row that is trained on.
    """
    found = []
    for prompt, completion in zip(
        mark_sharing(data.prompts, trained_on), data.completions, strict=True
    ):
        tokens = np.zeros(len(prompt) + len(completion), dtype=bool)
        if isinstance(mask, AnswerMask):
            if mask.cells(prompt, ()).shape[1] != 1:
                raise ValueError(
                    f"penalty: mask {mask.name!r} depends on the module, tokens alone are needed; "
                    "leave layers and modules out of it."
                )
            tokens[len(prompt) :] = True
        else:
            tokens[mask.tokens(prompt)] = True
        found.append(tokens)
    if not any(found[row].any() for row in trained):
        raise ValueError(f"penalty: mask {mask.name!r} holds no token of any row; choose others.")
    return found
