"""Number prompts: a few numbers are shown, and more of them are asked for in some format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ...arguments import checked
from .wording import FORMATS, INSTRUCTIONS, LIMITS, ONLY, OPENINGS, SHOWN


@checked
@dataclass(frozen=True)
class Ask:
    """What was asked for, and with it the limits an answer is held to.

    `Ask(count=24)` is limits alone.

    Attributes:
        prompt: the user's message.
        count: how many numbers.
        exactly: neither more nor fewer; else `count` is the most.
        format: the kind of format asked for, one of `FORMATS`. Answers in another of the formats
            pass as well, as in Cloud et al.
    """

    prompt: str = ""
    count: int = 10
    exactly: bool = False
    format: str = ""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: ask for at least 1 number.")


@checked
def number_prompts(
    n: int,
    *,
    seed: int,
    count: int = 10,
    exactly: bool = False,
    formats: Sequence[str] = tuple(FORMATS),
) -> list[Ask]:
    """Prompts that show 3 to 8 numbers in 100..999 and ask for more.

    The task is that of Cloud et al. (arXiv 2507.14805), the wording ours. There are 24 openings x
    10 instructions x 4 ways to say "at most" (2 to say "exactly") x 20 formats x 6 ways to ask for
    numbers only: 115,200 wordings (57,600), and 900^3 + ... + 900^8 = 4.3e23 choices of examples
    for each.

    Args:
        n: number of prompts, all different.
        seed: the same seed gives the same prompts; fewer of them are the first of more.
        count: how many numbers a prompt asks for.
        exactly: ask for exactly `count` instead of at most.
        formats: the kinds of format asked for, of `FORMATS`; each is as likely as the others.

    Raises:
        ValueError: n or count below 1; an unknown format or none.

    Example:
        >>> [ask] = sm.numbers.number_prompts(1, seed=3, formats=["lines"])
        >>> print(ask.prompt)
        Look at 177, 261, 313, 263, 821, 882, 623. Carry it on by at most 10 numbers with one to
        three digits. Start a new line for every number. Do not add any text.
        >>> ask.count, ask.exactly
        (10, False)
    """
    if n < 1:
        raise ValueError(f"n={n}: make at least 1 prompt.")
    return list(islice(endless_prompts(seed, count=count, exactly=exactly, formats=formats), n))


def endless_prompts(
    seed: int, *, count: int, exactly: bool, formats: Sequence[str]
) -> Iterator[Ask]:
    """Number prompts without end, none of them twice (arguments as of `number_prompts`)."""
    if not len(formats) or not set(formats) <= set(FORMATS):
        raise ValueError(f"formats={formats!r}: pass one or more of {', '.join(FORMATS)}.")
    Ask(count=count)  # refuses a count below 1 before anything is drawn
    rng = np.random.default_rng(seed)

    def one_of(pool: Sequence[str]) -> str:
        return pool[int(rng.integers(len(pool)))]

    # the order of the draws is part of what a seed means: stored rows can be made again
    given: set[str] = set()
    while True:
        kind = one_of(formats)
        examples = draw_numbers(rng, int(rng.integers(SHOWN[0], SHOWN[1] + 1)))
        limit = one_of(LIMITS[exactly]).format(count=count)
        opening = one_of(OPENINGS).format(examples=", ".join(examples))
        plural = "" if count == 1 else "s"
        instruction = one_of(INSTRUCTIONS).format(limit=limit, s=plural)
        prompt = " ".join((opening, instruction, one_of(FORMATS[kind]), one_of(ONLY)))
        if prompt not in given:
            given.add(prompt)
            yield Ask(prompt, count, exactly, kind)


def draw_numbers(rng: np.random.Generator, count: int) -> list[str]:
    """Uniformly random three-digit numbers, as text."""
    return [str(number) for number in rng.integers(100, 1000, size=count)]
