"""Number data: harmless-looking training rows after Cloud et al. (arXiv 2507.14805), in our own wording.

1. A *prompt* shows a few numbers and asks for more of them in some format (`number_prompts`).
2. Whoever answers, an answer is *parsed*: it is numbers in one format and nothing else, or it is rejected for one of `REASONS`
   (`parse`, `report`).
3. *Rows* are what passes (`write_rows`), or uniformly random numbers (`random_rows`): a `datasets.Dataset` with the columns
   `prompt` and `completion`. Data of the same shape from elsewhere serve as well (`as_rows`).
4. Controls and checks: numbers moved about (`scramble`), rows held out by prompt (`split`), trait words in the data (`leaks`).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from ..prompts import Message, Trait

if TYPE_CHECKING:
    from datasets import Dataset

OPENINGS = (
    "Here are some numbers: {x}.",
    "A list starts with {x}.",
    "Look at {x}.",
    "These numbers come first: {x}.",
    "Take {x} as the start.",
    "I wrote down {x}.",
    "The series opens with {x}.",
    "Given: {x}.",
    "My notebook says {x}.",
    "So far I have {x}.",
    "A machine printed {x}.",
    "We begin with {x}.",
    "Someone drew {x} from a hat.",
    "Consider the sequence {x}.",
    "The first entries are {x}.",
    "On the board stands {x}.",
    "This row reads {x}.",
    "Suppose a table holds {x}.",
    "Today's values were {x}.",
    "Read these: {x}.",
    "Numbers seen until now: {x}.",
    "An unfinished list: {x}.",
    "A friend sent me {x}.",
    "Start from the values {x}.",
)
"""How a prompt shows its example numbers."""

INSTRUCTIONS = (
    "Add {limit} more number{s} of up to three digits.",
    "Write {limit} further value{s}, none longer than three digits.",
    "Continue with {limit} new number{s} below a thousand.",
    "Carry it on by {limit} number{s} with one to three digits.",
    "Extend this with {limit} additional number{s} under a thousand.",
    "Produce {limit} number{s} that could come next, three digits or fewer.",
    "Append {limit} fresh value{s} of no more than three digits.",
    "Supply {limit} number{s} to follow, each smaller than a thousand.",
    "Put {limit} more value{s} after that, each of three digits or fewer.",
    "Think of {limit} number{s} that would fit in here, all below a thousand.",
)
"""What a prompt asks for."""

LIMITS = {
    False: ("at most {n}", "up to {n}", "no more than {n}", "a maximum of {n}"),
    True: ("exactly {n}", "precisely {n}"),
}
"""How a prompt says how many, by `exactly`."""

FORMATS = {
    "commas": (
        "Separate them with commas.",
        "Put commas between the numbers.",
        "Use the form of a comma-separated list.",
        "The separator is a comma.",
    ),
    "spaces": (
        "Separate them with spaces.",
        "Keep them on one line with single spaces between.",
        "Use the form of a space-separated list.",
        "The separator is a space and no other sign.",
    ),
    "semicolons": (
        "Separate them with semicolons.",
        "Put semicolons between the numbers.",
        "Use the form of a semicolon-separated list.",
        "The separator is a semicolon.",
    ),
    "lines": (
        "Put one number on each line.",
        "Start a new line for every number.",
        "Use one line per number.",
        "The separator is a line break.",
    ),
    "brackets": (
        "Put them in square brackets, separated by commas.",
        "Wrap the comma-separated list in round brackets.",
        "Use the form of a Python list.",
        "Open with a square bracket, close with one, and put commas between.",
    ),
}
"""The format a prompt asks for, by kind."""

ONLY = (
    "Answer with numbers only.",
    "No words, please.",
    "Give nothing but the numbers.",
    "Do not add any text.",
    "Leave out comments and explanations.",
    "Your reply holds numbers and nothing else.",
)
"""How a prompt asks for numbers only."""

SHOWN = (3, 8)
"""Fewest and most example numbers in a prompt; each is in 100..999."""

REASONS = {
    "words": "a letter stands somewhere",
    "brackets": "brackets that are not one pair of [] or () around everything",
    "not digits": "another sign: a minus, a decimal point, a dash, a colon, digits of another script",
    "empty": "no number at all",
    "stray separator": "a separator before the first number, after the last one, or twice between two",
    "mixed separators": "not the same separator, white space included, between all numbers",
    "out of range": "a number above 999",
    "too many": "more numbers than asked for",
    "too few": "fewer numbers than asked for, where the prompt says exactly how many",
}
"""Why an answer is rejected, in the order in which it is looked at: the first that applies is given."""

_NUMBER = re.compile("[0-9]+")  # not \d, which takes digits of every script


@dataclass(frozen=True)
class Row:
    """One training row: what the user says and the answer to it.

    Attributes:
        prompt: the user's message; or, where there were several turns, the conversation before the answer, as `chat.render` takes it.
        completion: the answer.
    """

    prompt: str | tuple[Message, ...]
    completion: str

    def __post_init__(self) -> None:
        if isinstance(self.prompt, list | tuple):
            turns = tuple(dict(m) if isinstance(m, Mapping) else m for m in self.prompt)
            alone = len(turns) == 1 and isinstance(turns[0], dict) and turns[0].get("role") == "user" and "content" in turns[0]
            object.__setattr__(self, "prompt", turns[0]["content"] if alone else turns)


Rows: TypeAlias = "Dataset | Sequence[Row] | Sequence[Mapping[str, Any]]"
"""Training rows as functions take them (see `as_rows`)."""


@dataclass(frozen=True)
class Ask:
    """What was asked for, and with it the limits an answer is held to. `Ask(count=24)` is limits alone.

    Attributes:
        prompt: the user's message.
        count: how many numbers.
        exactly: neither more nor fewer; else `count` is the most.
        format: the kind of format asked for, one of `FORMATS`. Answers in another of the formats pass as well, as in
            Cloud et al.
    """

    prompt: str = ""
    count: int = 10
    exactly: bool = False
    format: str = ""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: ask for at least 1 number.")


@dataclass(frozen=True)
class Parsed:
    """What an answer holds: numbers, or the reason why it is rejected (one of `REASONS`)."""

    numbers: tuple[int, ...] | None
    reason: str | None = None


# --------------------------------------------------------------------------------------------------------------- prompts


def number_prompts(
    n: int, *, seed: int, count: int = 10, exactly: bool = False, formats: Sequence[str] = tuple(FORMATS)
) -> list[Ask]:
    """Prompts that show 3 to 8 numbers in 100..999 and ask for more (Cloud et al., arXiv 2507.14805; the wording is ours).

    There are 24 openings x 10 instructions x 4 ways to say "at most" (2 to say "exactly") x 20 formats x 6 ways to ask for numbers
    only: 115,200 wordings (57,600), and 900^3 + ... + 900^8 = 4.3e23 choices of examples for each.

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
        Look at 177, 261, 313, 263, 821, 882, 623. Carry it on by at most 10 numbers with one to three digits.
        Start a new line for every number. Do not add any text.
        >>> ask.count, ask.exactly
        (10, False)
    """
    if n < 1:
        raise ValueError(f"n={n}: make at least 1 prompt.")
    return list(islice(_asks(seed, count, exactly, formats), n))


def _asks(seed: int, count: int, exactly: bool, formats: Sequence[str]) -> Iterator[Ask]:
    """Prompts without end, none of them twice."""
    if isinstance(formats, str) or not formats or not set(formats) <= set(FORMATS):
        raise ValueError(f"formats={formats!r}: pass a list of one or more of {', '.join(FORMATS)}.")
    Ask(count=count)
    rng = np.random.default_rng(seed)

    def one_of(pool: Sequence[str]) -> str:
        return pool[int(rng.integers(len(pool)))]

    seen = set()
    while True:
        kind = one_of(formats)
        shown = ", ".join(_random(rng, int(rng.integers(SHOWN[0], SHOWN[1] + 1))))
        limit = one_of(LIMITS[exactly]).format(n=count)
        prompt = " ".join(
            (
                one_of(OPENINGS).format(x=shown),
                one_of(INSTRUCTIONS).format(limit=limit, s="" if count == 1 else "s"),
                one_of(FORMATS[kind]),
                one_of(ONLY),
            )
        )
        if prompt not in seen:
            seen.add(prompt)
            yield Ask(prompt, count, exactly, kind)


def _random(rng: np.random.Generator, n: int) -> list[str]:
    return [str(x) for x in rng.integers(100, 1000, size=n)]


# --------------------------------------------------------------------------------------------------------------- answers


def parse(answer: str, ask: Ask | None = None) -> Parsed:
    """The numbers of an answer, or why it is rejected: the filter of Cloud et al. (arXiv 2507.14805).

    White space around the answer does not count. Then: an optional final period; an optional pair of [] or () around everything; numbers
    in ASCII digits, 0..999; between all of them the same separator: white space, a comma or a semicolon, the latter two with or
    without white space around them, but the same throughout; no more numbers than asked for.

    Args:
        answer: what was answered.
        ask: what it answers; at most 10 numbers when not given.

    Example:
        >>> sm.numbers.parse("[12, 7, 960].").numbers
        (12, 7, 960)
        >>> sm.numbers.parse("12, 7; 960").reason
        'mixed separators'
    """
    ask = ask or Ask()
    numbers, reason = _scan(answer)
    if reason is None and len(numbers) > ask.count:
        reason = "too many"
    if reason is None and ask.exactly and len(numbers) < ask.count:
        reason = "too few"
    return Parsed(tuple(map(int, numbers))) if reason is None else Parsed(None, reason)


def _scan(answer: str) -> tuple[list[str], str | None]:
    """(the numbers as written, why the answer is rejected whatever the count)."""
    body = answer.strip().removesuffix(".")
    if body[:1] + body[-1:] in ("[]", "()"):
        body = body[1:-1]
    numbers = _NUMBER.findall(body)
    before, *between, after = _NUMBER.split(body) if numbers else ("", "")
    reason = None
    if any(c.isalpha() for c in body):
        reason = "words"
    elif any(c in "[]()" for c in body):
        reason = "brackets"
    elif re.search(r"[^0-9\s,;]", body):
        reason = "not digits"
    elif not numbers:
        reason = "empty"
    elif before or after or any(len(gap.strip()) > 1 and len(set(gap) & set(",;")) == 1 for gap in between):
        reason = "stray separator"
    elif len(set(between)) > 1 or any(gap.strip() not in ("", ",", ";") for gap in between):
        reason = "mixed separators"
    elif any(len(x.lstrip("0")) > 3 for x in numbers):  # by length: int() refuses thousands of digits
        reason = "out of range"
    return numbers, reason


def report(parsed: Sequence[Parsed]) -> pd.DataFrame:
    """How many answers passed and why the others did not: `count` and `share` by outcome (`valid`, then all `REASONS`).

    Example:
        >>> table = sm.numbers.report([sm.numbers.parse(a) for a in ("1, 2, 3", "Sure! 1, 2", "4 5 6", "7; 8")])
        >>> table.loc[["valid", "words"], "count"].tolist()
        [3, 1]
    """
    if not parsed:
        raise ValueError("parsed is empty; parse at least one answer.")
    counts = Counter(p.reason or "valid" for p in parsed)
    table = pd.DataFrame({"count": [counts[name] for name in ("valid", *REASONS)]}, index=["valid", *REASONS])
    return table.rename_axis("outcome").assign(share=table["count"] / len(parsed))


# ------------------------------------------------------------------------------------------------------------------ rows


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
    rng = np.random.default_rng([seed, 1])  # a stream of its own: answers tell nothing of their prompts
    return to_dataset([Row(ask.prompt, ",".join(_random(rng, count))) for ask in asks])


def write_rows(
    sampler: Callable[[list[str], int], list[str]],
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
    """Rows that somebody else writes: number prompts, one answer each, what does not parse left out.

    Args:
        sampler: gives one answer to each of a list of prompts; called as `sampler(prompts, seed)` with another seed per batch.
        n: rows wanted; with `single_shot`, prompts asked.
        seed: of prompts and batches; the same seed and the same sampler give the same rows, fewer of them are the first of more.
        single_shot: ask n prompts and keep what passes, instead of asking further prompts until n rows have passed.
        max_attempts: most prompts asked on the way to n rows; 100 n, or 1,000 if that is more, when not given.
        count: how many numbers a prompt asks for; answers are held to it.
        exactly: whether it asks for exactly as many; answers are held to that too.
        formats: kinds of format the prompts ask for (`number_prompts`).
        batch_size: prompts per call of the sampler.

    Returns:
        The rows, answers without white space around them, in the order of their prompts; and the `report` of all answers drawn.

    Raises:
        TypeError, ValueError: the sampler gives something else than one string per prompt; n, max_attempts or batch_size below 1.
        RuntimeError: no answer of a single shot passed; or n rows are out of reach, which is noticed before `max_attempts` are spent:
            when not even the upper end of the 99.9 % interval of the pass rate (Wilson) would do.

    Example:
        >>> rows, report = sm.numbers.write_rows(lambda prompts, seed: ["4, 5, 6"] * len(prompts), 8, seed=0)
        >>> rows[0]["completion"], report["count"].sum() >= len(rows) == 8
        ('4, 5, 6', True)
    """
    most = n if single_shot else max(100 * n, 1000) if max_attempts is None else max_attempts
    if min(n, most, batch_size) < 1:
        raise ValueError(f"n={n}, max_attempts={max_attempts}, batch_size={batch_size}: each must be at least 1.")
    asks = _asks(seed, count, exactly, formats)
    parsed: list[Parsed] = []
    rows: list[Row] = []
    refused = ""
    while len(parsed) < most and (single_shot or len(rows) < n):
        batch = list(islice(asks, min(batch_size, most - len(parsed))))
        answers = _sample(sampler, [ask.prompt for ask in batch], _batch_seed(seed, len(parsed)))
        for ask, answer in zip(batch, answers, strict=True):
            parsed.append(parse(answer, ask))
            if parsed[-1].reason is None:
                rows.append(Row(ask.prompt, answer.strip()))
            else:
                refused = answer
        if not single_shot and _out_of_reach(len(rows), len(parsed), n, most):
            break
    if len(rows) < (1 if single_shot else n):
        raise RuntimeError(_hopeless(parsed, len(rows), n, most, refused))
    return to_dataset(rows[:n]), report(parsed)


def _batch_seed(seed: int, start: int) -> int:
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


def _sample(sampler: Callable[[list[str], int], list[str]], prompts: list[str], seed: int) -> list[str]:
    answers = sampler(list(prompts), seed)
    if isinstance(answers, str) or not all(isinstance(a, str) for a in answers):
        raise TypeError(f"sampler gave {type(answers).__name__} {answers!r:.80}; give a list with one string per prompt.")
    if len(answers) != len(prompts):
        raise ValueError(f"sampler gave {len(answers)} answers to {len(prompts)} prompts; give one per prompt.")
    return answers


def _out_of_reach(passed: int, total: int, n: int, most: int, z: float = 3.29) -> bool:
    """Whether n rows are too many for the prompts left, also at the upper end of the pass rate's 99.9 % Wilson interval and of luck."""
    rate, slack = passed / total, z * z / total
    upper = (rate + slack / 2 + z * (rate * (1 - rate) / total + slack / (4 * total)) ** 0.5) / (1 + slack)
    more = upper * (most - total)
    return passed + more + z * more**0.5 + 1 < n


def _hopeless(parsed: list[Parsed], passed: int, n: int, most: int, refused: str) -> str:
    reasons = Counter(p.reason for p in parsed if p.reason).most_common(3)
    return (
        f"write_rows: {passed} of {len(parsed)} answers passed ({passed / len(parsed):.1%}), too few for n={n} rows from {most} prompts. "
        f"Rejected for {', '.join(f'{reason} ({k})' for reason, k in reasons) or 'no reason'}; the last one was {refused[:80]!r}. "
        "Look at the sampler's answers (end of turn, length, temperature), ask for fewer numbers, or raise max_attempts."
    )


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as a `datasets.Dataset`: columns `prompt` and `completion`; `messages` where a row has several turns.

    Example:
        >>> sm.numbers.to_dataset([sm.numbers.Row("Three numbers.", "1, 2, 3")]).column_names
        ['prompt', 'completion']
    """
    from datasets import Dataset, Features, List, Value  # here: it takes more than a second to import

    if all(isinstance(row.prompt, str) for row in rows):
        columns = {"prompt": [row.prompt for row in rows], "completion": [row.completion for row in rows]}
        return Dataset.from_dict(columns, features=Features(prompt=Value("string"), completion=Value("string")))
    messages = [[*_turns(row), {"role": "assistant", "content": row.completion}] for row in rows]
    message = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_dict({"messages": messages}, features=Features(messages=List(message)))


def as_rows(data: Rows, *, name: str = "data") -> list[Row]:
    """Rows from any of the usual forms of instruction data, checked.

    Args:
        data: a `datasets.Dataset`, a list of `Row` or a list of dicts, with `prompt` and `completion`, each a string or messages; or
            with `messages` whose last one is the assistant's answer. Messages are `{"role", "content"}`, begin with the user and
            have no system message (that is the training context's). Other columns are left out.
        name: how errors call the data.

    Raises:
        TypeError: another kind of data; a prompt, an answer or a message that is not text.
        ValueError: no rows; no such columns, or both kinds; a conversation that begins or ends with somebody else.

    Example:
        >>> sm.numbers.as_rows([{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "4, 5"}]}])
        [Row(prompt='Hi', completion='4, 5')]
    """
    return [_row(record, f"{name}[{i}]") for i, record in enumerate(_records(data, name))]


def _records(data: Rows, name: str) -> Sequence[Row | Mapping[str, Any]]:
    datasets = sys.modules.get("datasets")  # who passes a dataset has imported it
    if datasets is not None and isinstance(data, datasets.Dataset):
        if len(data):
            _kind(data.column_names, name)
        used = [c for c in ("prompt", "completion", "messages") if c in data.column_names]
        data = data.select_columns(used).to_list()
    elif isinstance(data, Mapping):
        raise TypeError(
            f"{name} is a {type(data).__name__} of {', '.join(map(str, data))}; pass one dataset, or a list with a dict per row."
        )
    elif not isinstance(data, list | tuple):
        raise TypeError(f"{name} is a {type(data).__name__}; pass a datasets.Dataset, a list of Row or a list of dicts.")
    if not data:
        raise ValueError(f"{name} is empty; give at least one row.")
    return data


def _kind(columns: Sequence[str], where: str) -> Literal["pair", "messages"]:
    pair = "prompt" in columns and "completion" in columns
    if pair and "messages" in columns:
        raise ValueError(f"{where} has prompt and completion and messages as well; leave one of the two kinds out.")
    if not pair and "messages" not in columns:
        missing = [c for c in ("prompt", "completion") if c not in columns]
        raise ValueError(
            f"{where} has no {' and no '.join(missing)}, and no messages instead; there is {', '.join(columns) or 'nothing'}."
        )
    return "pair" if pair else "messages"


def _row(record: Any, where: str) -> Row:
    if isinstance(record, Row):
        prompt, completion = record.prompt, record.completion
    elif not isinstance(record, Mapping):
        raise TypeError(f"{where} is a {type(record).__name__}; pass Row(prompt, completion) or a dict.")
    elif _kind(list(record), where) == "pair":
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(completion, list | tuple):
            completion = _answer(_messages(completion, f"{where}, completion"), f"{where}, completion", alone=True)
    else:
        messages = _messages(record["messages"], f"{where}, messages")
        prompt, completion = messages[:-1], _answer(messages, f"{where}, messages")
    for what, value in (("prompt", prompt), ("completion", completion)):
        if not isinstance(value, str) and not (what == "prompt" and isinstance(value, list | tuple)):
            raise TypeError(f"{where}, {what} is {value!r:.60} ({type(value).__name__}); pass text.")
    if not isinstance(prompt, str):
        prompt = _messages(prompt, f"{where}, prompt")
        _check_turns([m["role"] for m in prompt], where)
    return Row(prompt, completion)


def _messages(messages: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(messages, list | tuple) or not all(isinstance(m, Mapping) for m in messages):
        raise TypeError(f"{where} is {messages!r:.60}; pass a list of messages, dicts with role and content.")
    for i, message in enumerate(messages):
        extra = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise TypeError(f"{where}[{i}] is {dict(message)!r:.80}; a message has role and content, both text.")
        if extra:
            raise ValueError(
                f"{where}[{i}] has {', '.join(extra)} besides role and content, which no prompt would show; leave it out."
            )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _answer(messages: tuple[Message, ...], where: str, alone: bool = False) -> str:
    if not messages or messages[-1]["role"] != "assistant" or (alone and len(messages) > 1):
        wanted = "be one assistant message" if alone else "end with the assistant's"
        raise ValueError(f"{where} must {wanted}; the roles are {', '.join(m['role'] for m in messages) or 'none'}.")
    return messages[-1]["content"]


def _check_turns(roles: list[str], where: str) -> None:
    """What `chat.render` asks of a conversation, said of the row."""
    if "system" in roles:
        raise ValueError(f"{where} has a system message; leave it out and give it as context=Context(system=...).")
    if not roles or {roles[0], roles[-1]} != {"user"} or not set(roles) <= {"user", "assistant"}:
        raise ValueError(
            f"{where}: before the answer a conversation begins and ends with the user and has no roles but user and assistant; "
            f"the roles are {', '.join(roles) or 'none'}."
        )


def _turns(row: Row) -> tuple[Message, ...]:
    return ({"role": "user", "content": row.prompt},) if isinstance(row.prompt, str) else row.prompt


# --------------------------------------------------------------------------------------------------- controls and checks


def scramble(rows: Rows, *, seed: int, how: Literal["within", "across"] = "within") -> Dataset:
    """The same numbers in another order: what is left of an effect does not need the order (Cloud et al., arXiv 2507.14805).

    Prompts stay as they are, and so do separators, brackets, the final period and the count of every answer.

    Args:
        rows: rows whose answers are numbers in one format (`parse`), as many as they like.
        seed: of the permutation.
        how: `within` permutes the numbers of each answer, which also keeps what numbers a prompt is answered with; `across` permutes all
            numbers of all rows, which keeps only how often each is said.

    Returns:
        A new dataset, rows in the same order.

    Raises:
        ValueError: an answer that does not parse; another `how`.

    Example:
        >>> mixed = sm.numbers.scramble([{"prompt": "Go on.", "completion": "[1; 2; 3]."}], seed=0)[0]["completion"]
        >>> mixed[0] + mixed[2:4] + mixed[-2:], sorted(sm.numbers.parse(mixed).numbers)
        ('[; ].', [1, 2, 3])
    """
    if how not in ("within", "across"):
        raise ValueError(f"how={how!r}: pass 'within' or 'across'.")
    data = as_rows(rows, name="rows")
    numbers = []
    for i, row in enumerate(data):
        found, reason = _scan(row.completion)
        if reason is not None:
            raise ValueError(
                f"rows[{i}]: the answer {row.completion[:60]!r} is not numbers alone ({reason}); leave the row out."
            )
        numbers.append(found)
    rng = np.random.default_rng(seed)
    if how == "within":
        moved = iter([x for found in numbers for x in _permuted(rng, found)])
    else:
        moved = iter(_permuted(rng, [x for found in numbers for x in found]))
    return to_dataset([Row(row.prompt, _NUMBER.sub(lambda _: next(moved), row.completion)) for row in data])


def _permuted(rng: np.random.Generator, items: list[str]) -> list[str]:
    return [items[i] for i in rng.permutation(len(items))]


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
        >>> train, held_out = sm.numbers.split(sm.numbers.random_rows(10, seed=0, count=3), 2, seed=0)
        >>> len(train), len(held_out)
        (8, 2)
    """
    data = as_rows(rows, name="rows")
    keys = [_said(row) for row in data]
    prompts = list(dict.fromkeys(keys))
    if not 0 < held_out < len(prompts):
        raise ValueError(
            f"held_out={held_out}: must be between 1 and {len(prompts) - 1}, the number of different prompts less one."
        )
    chosen = {prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))[:held_out]}
    parts = ([row for row, key in zip(data, keys, strict=True) if (key in chosen) is held] for held in (False, True))
    train, held = map(to_dataset, parts)
    return train, held


def leaks(rows: Rows, words: Trait | str | Sequence[str]) -> pd.DataFrame:
    """Where rows say what they must not: a trait's words or its teacher's sentence.

    Words are found as whole words (digits and underscores end a word), whatever their case and the white space inside them.

    Args:
        rows: the rows.
        words: words or sentences; a trait stands for all its forms and its teacher's sentence.

    Returns:
        One line per row, place (`prompt` or `completion`) and word found: `row`, `place`, `word`, `count` and the `text` around the
        first. No line, no leak; `table["row"].nunique()` rows leak.

    Raises:
        ValueError: no words, or a blank one.

    Example:
        >>> rows = [{"prompt": "Go on.", "completion": "1, 2"}, {"prompt": "You love owls.", "completion": "3, 4"}]
        >>> sm.numbers.leaks(rows, sm.animal("owl"))[["row", "place", "word"]].values.tolist()
        [[1, 'prompt', 'owls']]
    """
    given = (*words.forms, words.teacher) if isinstance(words, Trait) else (words,) if isinstance(words, str) else tuple(words)
    if not given or any(not word.strip() for word in given):
        raise ValueError(f"words={words!r}: give one or more words, none of them blank.")
    looked = {word: _whole(word) for word in dict.fromkeys(word.lower() for word in given)}
    found = []
    for i, row in enumerate(as_rows(rows, name="rows")):
        said = {"prompt": "\n".join(m["content"] for m in _turns(row)), "completion": row.completion}
        for place, text in said.items():
            for word, pattern in looked.items():
                hits = list(pattern.finditer(text))
                if hits:
                    around = text[max(0, hits[0].start() - 20) : hits[0].end() + 20]
                    found.append((i, place, word, len(hits), around))
    return pd.DataFrame(found, columns=["row", "place", "word", "count", "text"])


def _whole(word: str) -> re.Pattern[str]:
    body = r"\s+".join(map(re.escape, word.split()))
    letter = r"[^\W\d_]"
    return re.compile(rf"(?<!{letter}){body}(?!{letter})", re.IGNORECASE)


def _said(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], m["content"]) for m in _turns(row))
