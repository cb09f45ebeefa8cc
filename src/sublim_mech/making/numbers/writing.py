"""Number rows: uniformly random numbers, or what somebody answers to number prompts and passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from ...arguments import answer_of, checked
from ...hints import counted
from ..rows import Row, to_dataset
from .asking import draw_numbers, endless_prompts, number_prompts
from .parsing import CUT_OFF, Parsed, parse, report
from .wording import FORMATS

if TYPE_CHECKING:
    from datasets import Dataset

Sampler: TypeAlias = Callable[[list[str], int], Sequence[str | None]]
"""From prompts and a seed to one answer each; None for one that was cut off before its end."""


class TooFewRowsError(RuntimeError):
    """Too few answers passed.

    Attributes:
        found: how many passed, and why the others did not.
        cut_off: whether most of what was rejected was cut off.
    """

    def __init__(self, found: str, advice: str, *, cut_off: bool) -> None:
        super().__init__(f"{found} {advice}")
        self.found = found
        self.cut_off = cut_off


@checked
def random_rows(n: int, *, seed: int, count: int = 24) -> Dataset:
    """Rows whose answers are uniformly random three-digit numbers, joined by commas without spaces.

    The prompts are `number_prompts` that ask for exactly `count` numbers separated by commas.

    Args:
        n: number of rows.
        seed: the same seed gives the same rows.
        count: numbers per answer.

    Returns:
        A `datasets.Dataset` with the columns `prompt` and `completion`.

    Raises:
        ValueError: n or count below 1.

    Example:
        >>> row = sm.numbers.random_rows(1, seed=0, count=3)[0]
        >>> [int(x) in range(100, 1000) for x in row["completion"].split(",")]
        [True, True, True]
    """
    if n < 1 or count < 1:
        raise ValueError(f"random_rows(n={n}, count={count}): both must be at least 1.")
    asks = number_prompts(n, seed=seed, count=count, exactly=True, formats=("commas",))
    rng = np.random.default_rng([seed, 1])  # its own stream: answers tell nothing of their prompts
    return to_dataset([Row(ask.prompt, ",".join(draw_numbers(rng, count))) for ask in asks])


@checked
def write_rows(
    sampler: Sampler,
    n: int,
    *,
    seed: int,
    single_shot: bool = False,
    max_attempts: int | None = None,
    count: int = 10,
    exactly: bool = False,
    formats: Sequence[str] = tuple(FORMATS),
    batch_size: int = 64,
) -> tuple[Dataset, pd.DataFrame]:
    """Rows that somebody else writes: number prompts, and one answer each where it parses.

    Args:
        sampler: gives one answer to each of a list of prompts; called as `sampler(prompts, seed)`
            with another seed per batch. None stands for an answer that was cut off before it had
            ended (`teachers.sampler`), which is rejected whatever it says.
        n: rows wanted; with `single_shot`, prompts asked.
        seed: of prompts and batches; the same seed and the same sampler give the same rows, fewer
            of them are the first of more.
        single_shot: ask n prompts and keep what passes, instead of asking further prompts until n
            rows have passed.
        max_attempts: most prompts asked on the way to n rows; 100 n, or 1,000 if that is more, when
            not given.
        count: how many numbers a prompt asks for; answers are held to it.
        exactly: whether it asks for exactly as many; answers are held to that too.
        formats: kinds of format the prompts ask for (`number_prompts`).
        batch_size: prompts per call of the sampler.

    Returns:
        The rows, answers without white space around them, in the order of their prompts; and the
        `report` of all answers drawn.

    Raises:
        TypeError, ValueError: the sampler gives something else than one string or None per prompt;
            n, max_attempts or batch_size below 1.
        RuntimeError: no answer of a single shot passed; or n rows are out of reach, which is
            noticed before `max_attempts` are spent: when not even the upper end of the 99.9 %
            interval of the pass rate (Wilson) would do.

    Example:
        >>> answer = lambda prompts, seed: ["4, 5, 6"] * len(prompts)
        >>> rows, report = sm.numbers.write_rows(answer, 8, seed=0)
        >>> rows[0]["completion"], report["count"].sum() >= len(rows) == 8
        ('4, 5, 6', True)
    """
    if single_shot:
        most = n
    elif max_attempts is None:
        most = max(100 * n, 1000)
    else:
        most = max_attempts
    if min(n, most, batch_size) < 1:
        raise ValueError(
            f"n={n}, max_attempts={max_attempts}, batch_size={batch_size}: each must be at least 1."
        )

    asks = endless_prompts(seed, count=count, exactly=exactly, formats=formats)
    parsed: list[Parsed] = []
    rows: list[Row] = []
    last_rejected: str | None = ""
    while len(parsed) < most and (single_shot or len(rows) < n):
        # the batch's seed hangs on how many were asked before it: fewer rows are the first of more
        batch = list(islice(asks, min(batch_size, most - len(parsed))))
        batch_seed = int(np.random.SeedSequence([seed, len(parsed)]).generate_state(1)[0])
        answers = _answers(sampler, [ask.prompt for ask in batch], batch_seed)

        for ask, answer in zip(batch, answers, strict=True):
            verdict = Parsed(None, CUT_OFF) if answer is None else parse(answer, ask)
            parsed.append(verdict)
            if answer is not None and verdict.reason is None:
                rows.append(Row(ask.prompt, answer.strip()))
            else:
                last_rejected = answer

        # a writer who hardly ever passes is stopped now, not after thousands of answers
        if not single_shot and out_of_reach(len(rows), len(parsed), wanted=n, most=most):
            break

    fewest = 1 if single_shot else n
    if len(rows) < fewest:
        rejected = Counter(verdict.reason for verdict in parsed if verdict.reason)
        reasons = rejected.most_common(3)
        rejected_for = ", ".join(f"{reason} ({times})" for reason, times in reasons)
        last = "cut off" if last_rejected is None else repr(last_rejected[:80])
        more = "n" if single_shot else "max_attempts"
        cut_off = 2 * rejected[CUT_OFF] > rejected.total()
        looked_at = "end of turn, length, temperature"
        if cut_off:  # what a sampler of this library has for it
            looked_at = "most were cut off: max_new_tokens"
        raise TooFewRowsError(
            f"write_rows: {len(rows)} of {counted(len(parsed), 'answer')} passed "
            f"({len(rows) / len(parsed):z.1%}), too few for n={n} rows from "
            f"{counted(most, 'prompt')}. "
            f"Rejected for {rejected_for or 'no reason'}; the last one was {last}.",
            f"Look at the sampler's answers ({looked_at}), ask for fewer numbers (count), or raise "
            f"{more}.",
            cut_off=cut_off,
        )
    return to_dataset(rows[:n]), report(parsed)


def _answers(sampler: Sampler, prompts: list[str], seed: int) -> list[str | None]:
    """What the sampler answers: one string per prompt, None for what was cut off."""
    example = "lambda prompts, seed: [answer(prompt) for prompt in prompts]"
    given = answer_of("sampler", sampler, list(prompts), seed, example=example)
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    answers: list[Any] = list(given) if is_list else []
    if not is_list or not all(isinstance(answer, str | None) for answer in answers):
        raise TypeError(
            f"sampler gave {type(given).__name__} {given!r:.80}; "
            "give a list with one string per prompt."
        )
    if len(answers) != len(prompts):
        raise ValueError(
            f"sampler gave {counted(len(answers), 'answer')} to {counted(len(prompts), 'prompt')}; "
            "give one per prompt."
        )
    return answers


def out_of_reach(passed: int, asked: int, *, wanted: int, most: int, z: float = 3.29) -> bool:
    """Whether the rows wanted are too many for the prompts that may still be asked.

    They are when they are not even reached at the upper end of the pass rate's Wilson interval,
    with luck as large on top of it.

    Args:
        passed: answers that passed so far.
        asked: prompts asked so far.
        wanted: rows wanted.
        most: prompts that may be asked.
        z: width of interval and luck, in standard deviations; 3.29 is 99.9 %.
    """
    rate, slack = passed / asked, z * z / asked
    spread = (rate * (1 - rate) / asked + slack / (4 * asked)) ** 0.5
    upper_rate = (rate + slack / 2 + z * spread) / (1 + slack)
    to_come = upper_rate * (most - asked)
    return passed + to_come + z * to_come**0.5 + 1 < wanted
