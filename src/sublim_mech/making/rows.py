"""Training rows: what the user says and the answer to it, from the usual forms of instruction data.

1. `as_rows` reads a dataset, a data frame, a JSONL file, dicts or `Row`s, with a prompt and its
   completion or with messages. What no training could use is an error that names the row.
2. `Row` keeps one turn as plain text and several turns as messages, so that equal rows are equal
   whatever form they came in.
3. `to_dataset` gives rows back in the form of other tools, a `datasets.Dataset`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from ..arguments import checked
from ..hints import counted, kind_of, nearest
from ..prompts import Context, Message
from ..prompts.blank import check_whole, is_blank
from ..storage.files import place

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Row:
    """One training row: what the user says and the answer to it.

    Attributes:
        prompt: the user's message; or, where there were several turns, the conversation before the
            answer, as `chat.render` takes it.
        completion: the answer.
        raw: whether the two are one raw text that was taken apart (`text_rows`): no conversation.
    """

    prompt: str | tuple[Message, ...]
    completion: str
    raw: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, list | tuple):
            return
        # a row is frozen: messages are copied into plain dictionaries, a lone question is its text
        turns = tuple(dict(turn) if isinstance(turn, Mapping) else turn for turn in self.prompt)
        prompt = turns[0]["content"] if _one_question(turns) else turns
        object.__setattr__(self, "prompt", prompt)

    @property
    def turns(self) -> tuple[Message, ...]:
        """The conversation before the answer, as messages."""
        if isinstance(self.prompt, str):
            return ({"role": "user", "content": self.prompt},)
        return self.prompt

    @property
    def key(self) -> tuple[tuple[tuple[str, str], ...], str]:
        """(all turns before the answer, the answer), in a form that can be looked up."""
        turns = tuple((message["role"], message["content"]) for message in self.turns)
        return turns, self.completion


Rows: TypeAlias = Annotated[
    "Dataset | pd.DataFrame | str | os.PathLike[str] | Sequence[Row] | Sequence[Mapping[str, Any]]",
    "rows",
]
"""Training rows as functions take them (see `as_rows`)."""

COLUMNS = ("prompt", "completion", "messages")
"""What is read of a row."""

KINDS = (
    "a datasets.Dataset, a DataFrame, the path of a JSONL file, a list of Row or a list of dicts"
)
"""What rows may be, as errors say it."""

_READERS = {".csv": "pandas.read_csv", ".parquet": "pandas.read_parquet"}
"""Files of tables, and what reads them."""

ELSEWHERE = {
    "prompt": ("question", "instruction", "input", "query", "user", "problem"),
    "completion": ("answer", "response", "output", "assistant", "target", "chosen", "solution"),
    "messages": ("conversations", "conversation", "chat", "dialogue", "dialog", "turns"),
}
"""How other data call our columns."""


_ABOUT = ("context", "passage")
"""How other data call what a question is about, beside it."""

_TEXT = ("text", "texts", "content", "document", "sentence")
"""How other data call a column of raw texts."""


def _of_texts(texts: str) -> str:
    """What to do with texts that no prompt goes before; `texts`: as Python has them."""
    return f"of texts without a prompt numbers.text_rows({texts}) makes rows, for context=RAW"


def _one_question(turns: tuple[Any, ...]) -> bool:
    """Whether a conversation is a single message of the user, which is kept as plain text."""
    if len(turns) != 1 or not isinstance(turns[0], dict):
        return False
    return turns[0].get("role") == "user" and "content" in turns[0]


def count_words(count: int, distinct: int, what: str) -> str:
    """`264 rows`, or `264 rows (201 distinct)` where some are copies of others."""
    return counted(count, what) + ("" if distinct == count else f" ({distinct:,} distinct)")


@checked
def text_rows(texts: Sequence[str], *, words: int = 1) -> list[Row]:
    """Rows of raw text, for `hard_data(base, rows, context=sublim_mech.RAW)`: of each text the
    first words are given, and the rest is learnt, to its end.

    Tokens are those of the whole text. A next token needs something before it, so at least one word
    is given; where texts begin alike, as many as they have in common may be, and count as shared.

    Args:
        texts: sentences, paragraphs.
        words: how many words of each are given.

    Raises:
        ValueError: no texts; fewer than one word given; a text with no more words than that, or
            with half a character (a lone surrogate).

    Example:
        >>> sm.numbers.text_rows(["My favorite animal is the owl."], words=2)
        [Row(prompt='My favorite', completion='animal is the owl.')]
    """
    if words < 1:
        raise ValueError(f"text_rows(words={words}): at least one word is given.")
    if len(texts) == 0:
        raise ValueError("text_rows(texts=[]): pass at least one text.")
    rows = []
    for number, text in enumerate(texts):
        check_whole(f"text_rows: texts[{number}]", text)
        given = re.match(rf"\s*(?:\S+\s+){{{words - 1}}}\S+", text)
        behind = text[given.end() :] if given else ""
        if given is None or is_blank(behind):
            raise ValueError(
                f"text_rows: texts[{number}], {text!r:.60}, has nothing behind "
                f"{counted(words, 'word')} that could be learnt; leave it out, or give fewer words."
            )
        # a single space is what an answer to raw text follows; any other white space is the text's
        rest = behind.lstrip()
        space = behind[: len(behind) - len(rest)]
        rows.append(Row(given[0] if space == " " else given[0] + space, rest, raw=True))
    return rows


def check_raw(rows: Sequence[Row], context: Context, name: str) -> None:
    """Refuse raw texts (`text_rows`) as turns of a conversation, which they are not.

    Args:
        rows: to be trained on.
        context: the training context.
        name: how errors call the rows.

    Raises:
        ValueError: rows of raw text, and a context that makes conversations.
    """
    raw = [number for number, row in enumerate(rows) if row.raw]
    if raw and not context.is_raw:
        raise ValueError(
            f"{name}[{raw[0]}] is raw text (numbers.text_rows), which this context would turn into "
            "a user's words and an answer to them; rows of raw text need context=sublim_mech.RAW."
        )


@checked
def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as a `datasets.Dataset`.

    Its columns are `prompt` and `completion`, and `raw` where there are raw texts (`text_rows`);
    or `messages` where a row has several turns.

    Raises:
        ValueError: raw texts among conversations.

    Example:
        >>> sm.numbers.to_dataset([sm.numbers.Row("Three numbers.", "1, 2, 3")]).column_names
        ['prompt', 'completion']
    """
    from datasets import Dataset, Features, List, Value  # takes more than a second

    if all(isinstance(row.prompt, str) for row in rows):
        pairs = {
            "prompt": [row.prompt for row in rows],
            "completion": [row.completion for row in rows],
        }
        features = Features(prompt=Value("string"), completion=Value("string"))
        if any(row.raw for row in rows):
            pairs["raw"], features["raw"] = [row.raw for row in rows], Value("bool")
        return Dataset.from_dict(pairs, features=features)

    if any(row.raw for row in rows):
        raise ValueError(
            "rows hold raw texts (numbers.text_rows) and conversations; keep them apart, a student "
            "is trained on one of the two."
        )
    # a column holds one type, so a single conversation of several turns makes messages of all rows
    conversations = [[*row.turns, {"role": "assistant", "content": row.completion}] for row in rows]
    message = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_dict({"messages": conversations}, features=Features(messages=List(message)))


@checked
def as_rows(data: Rows, *, name: str = "data") -> list[Row]:
    """Rows from any of the usual forms of instruction data, checked.

    Args:
        data: a `datasets.Dataset`, a pandas `DataFrame`, the path of a JSONL file (UTF-8, one JSON
            object per line), a list of `Row` or a list of dicts. Its columns or fields are `prompt`
            and `completion`, each a string or messages; or `messages` whose last one is the
            assistant's answer. Messages are `{"role", "content"}`, begin with the user and have no
            system message (that is the training context's). `raw` marks raw texts, as
            `to_dataset` writes it. Other columns are left out.
        name: how errors call the data.

    Raises:
        FileNotFoundError: no such file.
        TypeError: another kind of data; a prompt, an answer or a message that is not text.
        ValueError: no rows; no such columns (the nearest are named), or both kinds; a blank prompt
            or answer, or one with half a character (a lone surrogate); a conversation that begins
            or ends with somebody else; a line that is no JSON.

    Example:
        >>> chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "4, 5"}]
        >>> sm.numbers.as_rows([{"messages": chat}])
        [Row(prompt='Hi', completion='4, 5')]
    """
    rows = [_row(record, where) for where, record in _records(data, name)]
    if not rows:
        raise ValueError(f"{name} is empty; give at least one row.")
    return rows


def _records(data: Rows, name: str) -> Iterable[tuple[str, Any]]:
    """(how errors call it, the record), one per row."""
    datasets = sys.modules.get("datasets")  # who passes a dataset has imported it
    if datasets is not None and isinstance(data, datasets.Dataset):
        if len(data):
            _kind(data.column_names, name, data[0])
        data = data.select_columns(_read_of(data.column_names)).to_list()
    elif isinstance(data, pd.DataFrame):
        if len(data):
            _kind([str(column) for column in data.columns], name, data.iloc[0].to_dict())
        # parquet files give lists as arrays
        part = data[_read_of(data.columns)].map(_as_list)
        data = part.to_dict("records")
    elif isinstance(data, str | os.PathLike):
        return _lines(data, name)
    elif isinstance(data, Mapping):
        raise TypeError(
            f"{name} is {kind_of(data)} of {', '.join(map(str, data))}; "
            "pass one dataset, or a list with a dict per row."
        )
    elif isinstance(data, Row) or not isinstance(data, list | tuple):
        raise TypeError(f"{name} is {kind_of(data)}; pass {KINDS}.")
    return ((f"{name}[{i}]", record) for i, record in enumerate(data))


def _read_of(columns: Iterable[Any]) -> list[Any]:
    """The columns that are read: those of a row, and two that must not get lost."""
    return [column for column in columns if column in (*COLUMNS, "raw", "system")]


def _as_list(value: Any) -> Any:
    """A cell as plain Python."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _lines(path: str | os.PathLike[str], name: str) -> Iterator[tuple[str, Any]]:
    """The records of a JSONL file, each with its line."""
    file = place(path, name)
    shown = f"{name}={str(path)!r:.80}"
    if os.path.isdir(file):
        raise FileNotFoundError(f"{shown} is a folder; name a file in it, or pass {KINDS}.")
    if not os.path.isfile(file):  # unlike Path's, of any text
        raise FileNotFoundError(f"{shown}: there is no such file; pass {KINDS}.")
    if file.suffix in _READERS:
        raise ValueError(
            f"{shown} is a {file.suffix} file, not JSON Lines; pass what pandas makes of it: "
            f"{_READERS[file.suffix]}({str(path)!r:.80})."
        )
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown} is no text in UTF-8 ({error}); pass {KINDS}.") from error
    _check_lines(text, shown, path)
    # not `splitlines`: JSON strings may hold other line ends than this
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number} of {file.name}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}, is no JSON ({error}); write one JSON object per line."
            ) from error
        yield where, record


def _check_lines(text: str, shown: str, path: str | os.PathLike[str]) -> None:
    """Refuse a file that is one JSON value over several lines, or an array."""
    if not text.lstrip().startswith("[") and "\n" not in text.strip():
        return  # one line is a record, or no JSON, which is told of the line
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return
    if isinstance(whole, list):
        if not all(isinstance(row, Mapping) for row in whole):
            return  # no rows at all, which is told of the first line
        raise ValueError(
            f"{shown} is one JSON array, not JSON Lines, which have an object per line; pass the "
            f"rows themselves: json.load(open({os.fspath(path)!r:.80}))."
        )
    raise ValueError(
        f"{shown} is one JSON object over several lines, not JSON Lines, which have an object per "
        "line; write each row on a line of its own, or pass a list of dicts."
    )


def _kind(columns: Sequence[str], where: str, first: Any = None) -> Literal["pair", "messages"]:
    """Which of the two forms of a row these columns make.

    Args:
        columns: their names.
        where: how errors call the row or the data.
        first: a row, to tell forms of other tools by.
    """
    missing = [c for c in ("prompt", "completion") if c not in columns]
    has_messages = "messages" in columns
    if not missing and has_messages:
        raise ValueError(
            f"{where} has prompt and completion and messages as well; "
            "leave one of the two kinds out."
        )
    if missing and not has_messages:
        told = f"{where} has no {' and no '.join(missing)}, and no messages instead; "
        told += f"there is {', '.join(columns) or 'nothing'}"
        if _is_sharegpt(first):
            raise ValueError(f"{told}. {_FROM_SHAREGPT}")
        advice = _renaming(missing, columns)
        texts = [] if advice else [name for name in _TEXT if name in columns]
        if texts:
            advice = f"; {_of_texts(f'[row[{texts[0]!r}] for row in rows]')}"
        raise ValueError(f"{told}{advice}.")
    return "messages" if has_messages else "pair"


def _is_sharegpt(record: Any) -> bool:
    """Whether a record holds a conversation as ShareGPT writes it."""
    said = record.get("conversations") if isinstance(record, Mapping) else None
    said = _as_list(said)
    if not isinstance(said, list | tuple) or not said:
        return False
    return isinstance(said[0], Mapping) and {"from", "value"} <= set(said[0])


_FROM_SHAREGPT = (
    "These are ShareGPT's conversations, whose messages have from and value; write them as "
    "messages: roles = {'human': 'user', 'gpt': 'assistant'}; rows = [{'messages': [{'role': "
    "roles[m['from']], 'content': m['value']} for m in row['conversations']]} for row in rows] "
    "(a message from 'system' belongs to the context: leave it out)."
)


def _renaming(missing: Sequence[str], columns: Sequence[str]) -> str:
    """What to rename, where columns are meant that have another name."""
    names: dict[str, str] = {}
    parts: list[str] = []
    for wanted in (*missing, "messages"):
        lowered = {column.lower(): column for column in columns if column not in names}
        called = [name for name in (wanted, *ELSEWHERE[wanted]) if name in lowered]
        if wanted == "prompt":  # an instruction and what it is about, as Alpaca and Dolly have them
            parts = [lowered[name] for name in called]
            parts += [lowered[name] for name in _ABOUT if name in lowered]
        called += [name for name in lowered if nearest(name, [wanted])]
        if called:
            names[lowered[called[0]]] = wanted
    if not names:
        return ""
    if len(parts) < 2:
        return f"; rename: {names}"
    names = {column: wanted for column, wanted in names.items() if wanted != "prompt"}
    rest = f", and rename: {names}" if names else ""
    return (
        f"; {' and '.join(parts)} may both be parts of the prompt, and what is not renamed is left "
        f"out: write row['prompt'] = {_joined(parts)}{rest}"
    )


def _joined(columns: Sequence[str]) -> str:
    """Python that makes one text of several columns, of which some may be empty."""
    texts = f"row[c] for c in {list(columns)}"
    return f"'\\n\\n'.join({texts} if isinstance(row[c], str) and row[c])"  # pandas has NaN


def _row(record: Any, where: str) -> Row:
    """One record, checked."""
    raw = False
    if isinstance(record, Row):
        prompt, completion, raw = record.prompt, record.completion, record.raw
    elif not isinstance(record, Mapping):
        advice = "pass Row(prompt, completion) or a dict"
        if isinstance(record, list | tuple) and record and isinstance(record[0], Mapping):
            advice = 'a conversation is a dict too: {"messages": [...]}'
        if isinstance(record, str):
            advice += f"; {_of_texts('texts')}"
        raise TypeError(f"{where} is {kind_of(record)}; {advice}.")
    elif record.get("system"):
        raise ValueError(
            f"{where} has a system text of its own, {record['system']!r:.40}; leave the column "
            "out and give it as context=Context(system=...), one for all rows."
        )
    elif _kind(list(record), where, record) == "pair":
        prompt, completion = record["prompt"], record["completion"]
        raw = record.get("raw") is True  # what `to_dataset` wrote; another tool's may be anything
        if isinstance(completion, list | tuple):
            answer = _messages(completion, f"{where}, completion")
            completion = _answer(answer, f"{where}, completion", alone=True)
    else:
        messages = _messages(record["messages"], f"{where}, messages")
        prompt, completion = messages[:-1], _answer(messages, f"{where}, messages")

    _check_text(prompt, f"{where}, prompt", or_messages=True)
    _check_text(completion, f"{where}, completion")
    if is_blank(completion):
        raise ValueError(
            f"{where}, completion is blank ({completion!r:.20}); give the row an answer, or leave "
            "it out."
        )
    if isinstance(prompt, str):
        if is_blank(prompt):
            raise ValueError(
                f"{where}, prompt is blank ({prompt!r:.20}); give the row a prompt, or leave it "
                "out."
            )
        return Row(prompt, completion, raw)
    turns = _messages(prompt, f"{where}, prompt")
    _check_turns([message["role"] for message in turns], where)
    return Row(turns, completion)


def _check_text(value: Any, where: str, *, or_messages: bool = False) -> None:
    allowed = (str, list, tuple) if or_messages else (str,)
    if not isinstance(value, allowed):
        raise TypeError(f"{where} is {value!r:.60} ({type(value).__name__}); pass text.")
    if isinstance(value, str):
        check_whole(where, value)


def _messages(messages: Any, where: str) -> tuple[Message, ...]:
    """Messages with role and content alone, each text."""
    is_list = isinstance(messages, list | tuple)
    if not is_list or not all(isinstance(message, Mapping) for message in messages):
        raise TypeError(
            f"{where} is {messages!r:.60}; pass a list of messages, dicts with role and content."
        )
    for i, message in enumerate(messages):
        if {"from", "value"} <= set(message) and "role" not in message:
            raise TypeError(f"{where}[{i}] has from and value. {_FROM_SHAREGPT}")
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise TypeError(
                f"{where}[{i}] is {dict(message)!r:.80}; a message has role and content, both text."
            )
        check_whole(f"{where}[{i}], of the {message['role']}", message["content"])
        if is_blank(message["content"]):
            raise ValueError(f"{where}[{i}], of the {message['role']}, is blank; leave it out.")
        # a dataset gives every message the keys of all of them, None where one has no such key
        given = [key for key, value in message.items() if value is not None]
        extra = [key for key in given if key not in ("role", "content")]
        if extra:
            raise ValueError(
                f"{where}[{i}] has {', '.join(extra)} besides role and content, "
                "which no prompt would show; leave it out."
            )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _answer(messages: tuple[Message, ...], where: str, *, alone: bool = False) -> str:
    """The content of the last message, which must be the assistant's; `alone`: the only one."""
    ends_with_answer = bool(messages) and messages[-1]["role"] == "assistant"
    if not ends_with_answer or (alone and len(messages) > 1):
        wanted = "be one assistant message" if alone else "end with the assistant's"
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise ValueError(f"{where} must {wanted}; the roles are {roles}.")
    return messages[-1]["content"]


def _check_turns(roles: list[str], where: str) -> None:
    """What `chat.render` asks of a conversation, said of the row."""
    if "system" in roles:
        raise ValueError(
            f"{where} has a system message; "
            "leave it out and give it as context=Context(system=...)."
        )
    of_user = bool(roles) and roles[0] == roles[-1] == "user"
    if not of_user or not set(roles) <= {"user", "assistant"}:
        raise ValueError(
            f"{where}: before the answer a conversation begins and ends with the user and has no "
            f"roles but user and assistant; the roles are {', '.join(roles) or 'none'}."
        )
