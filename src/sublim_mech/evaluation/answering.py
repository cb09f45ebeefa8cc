"""Generated answers of an evaluation: students by `generate`, the base without any gates.

Both write with the same random numbers, those of (seed, the prompt's tokens, which sample), and run
each prompt once for all its samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .. import masks
from ..engine.decoding import decode
from ..engine.drawing import Decoding, Request
from ..engine.endings import answer_text, close_ids, end_ids
from ..engine.pair import ModelPair
from ..engine.runner import Runner
from ..instruments.generation import generate
from ..prompts import Prompt

BASE = "base"


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; its fields are those of `evaluate`."""

    samples: int
    temperature: float
    max_new_tokens: int
    seed: int

    def check(self) -> None:
        """Raise ValueError where an option is out of range."""
        samples, temperature = self.samples, self.temperature
        if samples < 0:
            raise ValueError(
                f"samples={samples!r}: pass the number of answers per question; 0 generates none."
            )
        if samples == 0:
            return
        if not 0 <= temperature < math.inf or (temperature == 0 and samples > 1):
            raise ValueError(
                f"temperature={temperature} with samples={samples}: sampling needs a positive "
                "temperature; greedy (0) gives one answer."
            )
        if self.max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens}: an answer has at least one token."
            )


def sample_answers(
    runner: Runner, prompts: Sequence[Prompt], name: str, sampling: Sampling
) -> list[list[str]]:
    """A model's generated answers, per prompt and sample.

    Args:
        runner: what computes; a pair where a student is asked.
        prompts: what is asked.
        name: `base`, or one of the pair's students.
        sampling: how answers are drawn.

    Raises:
        ValueError: a prompt that is with its answer longer than the model; logits that are not
            finite.
    """
    if name != BASE:
        assert isinstance(runner, ModelPair)
        everywhere = masks.everything()
        options = asdict(sampling)
        return generate(runner, prompts, everywhere, generated="student", model=name, **options)
    for prompt in prompts:
        runner.check_length(prompt, sampling.max_new_tokens, what=" with its answer")
    ends = end_ids(runner.model, runner.tokenizer)
    how = Decoding(
        sampling.max_new_tokens,
        ends,
        samples=sampling.samples,
        temperature=sampling.temperature,
        seed=sampling.seed,
    )
    asked = [Request(prompt.ids, ends=close_ids(runner.tokenizer, prompt)) for prompt in prompts]
    return [
        [answer_text(runner.tokenizer, ids, ends, prompt) for ids in texts]
        for prompt, texts in zip(prompts, decode(runner, asked, how), strict=True)
    ]
