"""Controls and checks of rows: numbers moved about, prompts held out, trait words in the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from ...arguments import checked
from ...prompts import Trait
from ..rows import Row, Rows, as_rows, to_dataset
from .parsing import NUMBER, read_numbers

if TYPE_CHECKING:
    from datasets import Dataset

AROUND = 20
"""Characters before and after a leak that its line shows."""


@checked
def scramble(rows: Rows, *, seed: int, how: Literal["within", "across"] = "within") -> Dataset:
    """The same numbers in another order: what is left of an effect does not need the order.

    A control of Cloud et al. (arXiv 2507.14805). Prompts stay as they are, and so do separators,
    brackets, the final period and the count of every answer.

    Args:
        rows: rows whose answers are numbers in one format (`parse`), as many as they like.
        seed: of the permutation.
        how: `within` permutes the numbers of each answer, which also keeps what numbers a prompt is
            answered with; `across` permutes all numbers of all rows, which keeps only how often
            each is said.

    Returns:
        A new dataset, rows in the same order.

    Raises:
        ValueError: an answer that does not parse; another `how`.

    Example:
        >>> rows = [{"prompt": "Go on.", "completion": "[1; 2; 3]."}]
        >>> mixed = sm.numbers.scramble(rows, seed=0)[0]["completion"]
        >>> mixed[0] + mixed[2:4] + mixed[-2:], sorted(sm.numbers.parse(mixed).numbers)
        ('[; ].', [1, 2, 3])
    """
    if how not in ("within", "across"):
        raise ValueError(f"how={how!r}: pass 'within' or 'across'.")
    data = as_rows(rows, name="rows")

    numbers_of_rows = []
    for i, row in enumerate(data):
        numbers, reason = read_numbers(row.completion)
        if reason is not None:
            raise ValueError(
                f"rows[{i}]: the answer {row.completion[:60]!r} is not numbers alone ({reason}); "
                "leave the row out."
            )
        numbers_of_rows.append(numbers)

    rng = np.random.default_rng(seed)
    if how == "within":
        numbers_of_rows = [_permuted(rng, numbers) for numbers in numbers_of_rows]
    moved = [number for numbers in numbers_of_rows for number in numbers]
    if how == "across":
        moved = _permuted(rng, moved)

    # each number of the text is replaced by the next one, so that everything between them stays
    following = iter(moved)
    return to_dataset(
        [Row(row.prompt, NUMBER.sub(lambda _: next(following), row.completion)) for row in data]
    )


def _permuted(rng: np.random.Generator, items: list[str]) -> list[str]:
    return [items[i] for i in rng.permutation(len(items))]


@checked
def split(rows: Rows, held_out: int, *, seed: int) -> tuple[Dataset, Dataset]:
    """Training rows and held-out rows that share no prompt.

    Args:
        rows: the rows.
        held_out: how many different prompts are held out, each with all its rows.
        seed: of the choice.

    Returns:
        (the rows to train on, the rows held out), each in the order of `rows`.

    Raises:
        ValueError: held_out below 1, or no prompt left to train on.

    Example:
        >>> rows = sm.numbers.random_rows(10, seed=0, count=3)
        >>> train, held_out = sm.numbers.split(rows, 2, seed=0)
        >>> len(train), len(held_out)
        (8, 2)
    """
    data = as_rows(rows, name="rows")
    prompts = [row.key[0] for row in data]
    different = list(dict.fromkeys(prompts))
    if not 0 < held_out < len(different):
        raise ValueError(
            f"held_out={held_out}: must be between 1 and {len(different) - 1}, "
            "the number of different prompts less one."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    chosen = {different[i] for i in order[:held_out]}
    trained_on = [row for row, prompt in zip(data, prompts, strict=True) if prompt not in chosen]
    kept_out = [row for row, prompt in zip(data, prompts, strict=True) if prompt in chosen]
    return to_dataset(trained_on), to_dataset(kept_out)


@checked
def leaks(rows: Rows, words: Trait | str | Sequence[str]) -> pd.DataFrame:
    """Where rows say what they must not: a trait's words or its teacher's sentence.

    Words are found as whole words (digits and underscores end a word), whatever their case and the
    white space inside them.

    Args:
        rows: the rows.
        words: words or sentences; a trait stands for all its forms and its teacher's sentence,
            where it has one.

    Returns:
        One line per row, place (`prompt` or `completion`) and word found: `row`, `place`, `word`,
        `count` and the `text` around the first. No line, no leak; `table["row"].nunique()` rows
        leak.

    Raises:
        ValueError: no words, or a blank one.

    Example:
        >>> rows = [
        ...     {"prompt": "Go on.", "completion": "1, 2"},
        ...     {"prompt": "You love owls.", "completion": "3, 4"},
        ... ]
        >>> sm.numbers.leaks(rows, sm.animal("owl"))[["row", "place", "word"]].values.tolist()
        [[1, 'prompt', 'owls']]
    """
    if isinstance(words, Trait):
        sentences = [words.sentence] if words.sentence else []
        given: tuple[str, ...] = (*words.forms, *sentences)
    elif isinstance(words, str):
        given = (words,)
    else:
        given = tuple(words)
    if not given or any(not word.strip() for word in given):
        raise ValueError(f"words={words!r}: give one or more words, none of them blank.")

    patterns = {word: _whole_word(word) for word in dict.fromkeys(map(str.lower, given))}
    lines = []
    for i, row in enumerate(as_rows(rows, name="rows")):
        prompt = "\n".join(message["content"] for message in row.turns)
        for place, text in (("prompt", prompt), ("completion", row.completion)):
            for word, pattern in patterns.items():
                hits = list(pattern.finditer(text))
                if hits:
                    begin, end = hits[0].span()
                    shown = text[max(0, begin - AROUND) : end + AROUND]
                    lines.append((i, place, word, len(hits), shown))
    return pd.DataFrame(lines, columns=["row", "place", "word", "count", "text"])


def _whole_word(word: str) -> re.Pattern[str]:
    """Finds a word or sentence that is no piece of a longer word."""
    body = r"\s+".join(map(re.escape, word.split()))
    letter = r"[^\W\d_]"
    return re.compile(rf"(?<!{letter}){body}(?!{letter})", re.IGNORECASE)
