"""Sampling: what a teacher answers, many answers to many prompts at once.

1. Prompts are dressed in the teacher's context.
2. They are continued together (`engine.decoding`), the tokens that they begin with and each prompt
   run once for all samples.
3. An answer ends where the model, the tokenizer or the chat template says that it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...arguments import checked
from ...engine.decoding import decode
from ...engine.drawing import Decoding, Request
from ...engine.endings import answer_text, close_ids, end_ids, is_ended
from ...engine.runner import open_runner
from ...prompts import Message, Prompt, render
from .teacher import Teacher


@checked
def sample(
    teacher: Teacher,
    prompts: Sequence[str | Sequence[Message]],
    *,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> list[list[str]]:
    """Answers of a teacher, in its own context.

    A prompt that is listed twice gets further samples, not the same ones.

    Args:
        teacher: who answers.
        prompts: user messages, or conversations that end with one.
        n: answers per prompt.
        max_new_tokens: tokens after which an answer ends, if the teacher does not end its turn.
        temperature: the logits are divided by it; 0 takes the largest logit, and gives one answer.
        seed: of the sampling. An answer is a function of seed, prompt and which of the n it is:
            other prompts, their order and `batch_size` do not matter, as far as rounding goes.
        batch_size: answers decoded together.

    Returns:
        Per prompt, its answers as text, without special tokens and outer white space; the text that
        there is also of those that were cut off.

    Raises:
        ValueError: no prompts; a number out of range; greedy decoding of several answers; a prompt
            too long for the model; logits that are not finite; an architecture whose modules are
            not known.

    Example:
        >>> from sublim_mech.making.teachers import prompted, sample
        >>> owl = prompted(pair, trait)
        >>> asked = ["Three numbers.", "Go on: 1, 2."]
        >>> one, other = sample(owl, asked, n=2, max_new_tokens=3, seed=1)
        >>> one == sample(owl, asked[:1], n=2, max_new_tokens=3, seed=1)[0], len(other)
        (True, 2)
    """
    drawn = sample_ids(
        teacher,
        prompts,
        n=n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
    )
    tokenizer = teacher.base.tokenizer
    return [
        [answer_text(tokenizer, ids, drawn.ends, prompt) for ids in texts]
        for prompt, texts in zip(drawn.prompts, drawn.answers, strict=True)
    ]


@checked
def sampler(
    teacher: Teacher, *, max_new_tokens: int = 64, temperature: float = 1.0, batch_size: int = 128
) -> Callable[[list[str], int], list[str | None]]:
    """A teacher as the function from prompts and a seed to one answer each.

    That is what `numbers.write_rows` takes; options as of `sample`. An answer is None where
    `max_new_tokens` cut it off: its end is missing, and a student would be taught that it ends
    there.

    Example:
        >>> from sublim_mech.making.teachers import prompted, sampler
        >>> write = sampler(prompted(pair, trait), max_new_tokens=3)
        >>> len(write(["Three numbers.", "Go on: 1, 2."], 0))
        2
    """
    _check(1, max_new_tokens, temperature=temperature, seed=0, batch_size=batch_size)

    def write(prompts: list[str], seed: int) -> list[str | None]:
        drawn = sample_ids(
            teacher,
            prompts,
            n=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
        )
        tokenizer = teacher.base.tokenizer
        return [
            answer_text(tokenizer, ids, drawn.ends, prompt)
            if is_ended(tokenizer, ids, drawn.ends, prompt)
            else None
            for prompt, (ids,) in zip(drawn.prompts, drawn.answers, strict=True)
        ]

    return write


class Drawn(NamedTuple):
    """Sampled answers as token ids.

    Attributes:
        prompts: what was answered, in the teacher's context.
        ends: tokens that end these answers.
        answers: per prompt and sample, the ids with the one that ended it.
    """

    prompts: list[Prompt]
    ends: list[int]
    answers: list[list[list[int]]]


def sample_ids(
    teacher: Teacher,
    prompts: Sequence[str | Sequence[Message]],
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> Drawn:
    """Answers of a teacher as token ids; arguments as of `sample`."""
    _check(n, max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size)
    runner = open_runner(teacher.runner)
    tokenizer = teacher.base.tokenizer
    rendered = render(tokenizer, prompts, context=teacher.context, template=teacher.template)
    for prompt in rendered:
        runner.check_length(prompt, max_new_tokens, what=" with its answer")
    ends = end_ids(teacher.base.model, tokenizer)
    how = Decoding(
        max_new_tokens,
        ends,
        samples=n,
        temperature=temperature,
        seed=seed,
        together=batch_size,
    )
    asked = [Request(prompt.ids, ends=close_ids(tokenizer, prompt)) for prompt in rendered]
    closes = [token for request in asked for token in request.ends]
    return Drawn(rendered, list(dict.fromkeys([*ends, *closes])), decode(runner, asked, how))


def _check(n: int, max_new_tokens: int, *, temperature: float, seed: int, batch_size: int) -> None:
    """Raise ValueError where an option of sampling is out of range."""
    least = {"n": 1, "max_new_tokens": 1, "seed": 0, "batch_size": 1}
    given = {"n": n, "max_new_tokens": max_new_tokens, "seed": seed, "batch_size": batch_size}
    for name, value in given.items():
        if value < least[name]:
            raise ValueError(f"{name}={value}: must be at least {least[name]}.")
    if not 0 <= temperature < math.inf or (temperature == 0 and n > 1):
        raise ValueError(
            f"temperature={temperature} with n={n}: sampling needs a positive temperature; greedy "
            "(0) gives one answer per prompt."
        )
