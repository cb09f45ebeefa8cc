"""What decoding is asked for, and how a token is drawn.

A token is drawn by the inverse of the cumulated softmax at a uniform number of its own: that of
(seed, the prompt's tokens, sample, place in the answer). So an answer depends neither on the batch
nor on what else is asked, and two samples are the first two of three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from .forward import Pass

ROWS_SUMMED = 64  # distributions whose cumulated sums are in memory at once

COLDEST = 1e-30
"""The least that logits are divided by: far below what tells two of them apart, and far from where
fp32 overflows."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: tokens after which an answer ends, if the model does not end it.
        ends: tokens that end every answer.
        samples: answers per prompt.
        temperature: the logits are divided by it; 0 takes the largest logit.
        seed: of the sampling.
        together: the most answers decoded together.
    """

    max_new_tokens: int
    ends: Sequence[int]
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    together: int = 128


@dataclass(frozen=True)
class Request:
    """A prompt to be continued.

    Attributes:
        ids: its token ids.
        prompt_gates: where a student computes it; the base everywhere when None.
        answer_gates: which of the student's modules compute the generated tokens; none when None.
        ends: tokens that end its answers, beside those that end every answer.
    """

    ids: Ids
    prompt_gates: Float[Tensor, "token module"] | None = None
    answer_gates: Float[Tensor, "module"] | None = None
    ends: Ids = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Requests of one key are one prompt, of which further samples are wanted."""

        def content(gates: Tensor | None) -> bytes | None:
            return None if gates is None else gates.numpy().tobytes()

        return self.ids, content(self.prompt_gates), content(self.answer_gates), self.ends


class Row(NamedTuple):
    """One answer being written: of which prompt, and which of its samples."""

    prompt: int
    sample: int


def next_token_logits(done: Pass) -> Float[Tensor, "row vocab"]:
    """At the last slot, in fp32 at least."""
    logits = done.logits[:, -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def uniforms(how: Decoding, prompt: Ids, sample: int) -> Float64[Tensor, "place"]:
    """The random numbers of one answer."""
    identity = np.array([how.seed, sample, *prompt], np.int64).tobytes()
    digest = hashlib.sha256(identity).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    return torch.from_numpy(rng.random(how.max_new_tokens))


def goes_on(
    chosen: Int[Tensor, "row"], requests: Sequence[Request], how: Decoding
) -> Bool[Tensor, "row"]:
    """Which rows the tokens that were chosen for them do not end; a request per row."""
    ended = [
        token in how.ends or token in request.ends
        for token, request in zip(chosen.tolist(), requests, strict=True)
    ]
    return ~torch.tensor(ended)


def choose(
    logits: Float[Tensor, "source vocab"],
    sources: Int[Tensor, "row"],
    draws: Float64[Tensor, "row"] | None,
    temperature: float,
) -> Int[Tensor, "row"]:
    """A token per row: the largest of its logits, or where the cumulated probability passes its
    draw; `sources` ascend.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(
            "the model's logits are not finite; check its dtype, or the scale of its steering."
        )
    if draws is None:
        return logits.argmax(-1).cpu()[sources]
    # rows of the same logits stand side by side in a table, so that each distribution is summed up
    # once
    place = torch.arange(len(sources)) - torch.searchsorted(sources, sources)
    table = torch.zeros(len(logits), int(place.max()) + 1, dtype=torch.float64)
    table[sources, place] = draws
    chosen = []
    blocks = zip(logits.split(ROWS_SUMMED), table.to(logits.device).split(ROWS_SUMMED), strict=True)
    for some, uniforms in blocks:
        sums = (some / max(temperature, COLDEST)).softmax(-1).cumsum(-1, dtype=torch.float64)
        chosen.append(torch.searchsorted(sums, uniforms * sums[:, -1:], right=True))
    return torch.cat(chosen).clamp(max=logits.shape[-1] - 1).cpu()[sources, place]
