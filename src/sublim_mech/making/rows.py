"""Training rows: what the user says and the answer to it, from the usual forms of instruction data.

1. `as_rows` reads a dataset, dicts or `Row`s, with a prompt and its completion or with messages.
   What no training could use is an error that names the row.
2. `Row` keeps one turn as plain text and several turns as messages, so that equal rows are equal
   whatever form they came in.
3. `to_dataset` gives rows back in the form of other tools, a `datasets.Dataset`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..prompts import Message

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Row:
    """One training row: what the user says and the answer to it.

    Attributes:
        prompt: the user's message; or, where there were several turns, the conversation before the
            answer, as `chat.render` takes it.
        completion: the answer.
    """

    prompt: str | tuple[Message, ...]
    completion: str

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


Rows: TypeAlias = "Dataset | Sequence[Row] | Sequence[Mapping[str, Any]]"
"""Training rows as functions take them (see `as_rows`)."""


def _one_question(turns: tuple[Any, ...]) -> bool:
    """Whether a conversation is a single message of the user, which is kept as plain text."""
    if len(turns) != 1 or not isinstance(turns[0], dict):
        return False
    return turns[0].get("role") == "user" and "content" in turns[0]


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as a `datasets.Dataset`.

    Its columns are `prompt` and `completion`, or `messages` where a row has several turns.

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
        return Dataset.from_dict(pairs, features=features)

    # a column holds one type, so a single conversation of several turns makes messages of all rows
    conversations = [[*row.turns, {"role": "assistant", "content": row.completion}] for row in rows]
    message = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_dict({"messages": conversations}, features=Features(messages=List(message)))


def as_rows(data: Rows, *, name: str = "data") -> list[Row]:
    """Rows from any of the usual forms of instruction data, checked.

    Args:
        data: a `datasets.Dataset`, a list of `Row` or a list of dicts, with `prompt` and
            `completion`, each a string or messages; or with `messages` whose last one is the
            assistant's answer. Messages are `{"role", "content"}`, begin with the user and have no
            system message (that is the training context's). Other columns are left out.
        name: how errors call the data.

    Raises:
        TypeError: another kind of data; a prompt, an answer or a message that is not text.
        ValueError: no rows; no such columns, or both kinds; a conversation that begins or ends with
            somebody else.

    Example:
        >>> chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "4, 5"}]
        >>> sm.numbers.as_rows([{"messages": chat}])
        [Row(prompt='Hi', completion='4, 5')]
    """
    return [_row(record, f"{name}[{i}]") for i, record in enumerate(_records(data, name))]


def _records(data: Rows, name: str) -> Sequence[Row | Mapping[str, Any]]:
    """The data as a list that is not empty, one record per row."""
    datasets = sys.modules.get("datasets")  # who passes a dataset has imported it
    if datasets is not None and isinstance(data, datasets.Dataset):
        if len(data):
            _kind(data.column_names, name)
        used = [c for c in ("prompt", "completion", "messages") if c in data.column_names]
        data = data.select_columns(used).to_list()
    elif isinstance(data, Mapping):
        raise TypeError(
            f"{name} is a {type(data).__name__} of {', '.join(map(str, data))}; "
            "pass one dataset, or a list with a dict per row."
        )
    elif not isinstance(data, list | tuple):
        raise TypeError(
            f"{name} is a {type(data).__name__}; "
            "pass a datasets.Dataset, a list of Row or a list of dicts."
        )
    if not data:
        raise ValueError(f"{name} is empty; give at least one row.")
    return data


def _kind(columns: Sequence[str], where: str) -> Literal["pair", "messages"]:
    """Which of the two forms of a row these columns make."""
    missing = [c for c in ("prompt", "completion") if c not in columns]
    has_messages = "messages" in columns
    if not missing and has_messages:
        raise ValueError(
            f"{where} has prompt and completion and messages as well; "
            "leave one of the two kinds out."
        )
    if missing and not has_messages:
        raise ValueError(
            f"{where} has no {' and no '.join(missing)}, and no messages instead; "
            f"there is {', '.join(columns) or 'nothing'}."
        )
    return "messages" if has_messages else "pair"


def _row(record: Any, where: str) -> Row:
    """One record, checked."""
    if isinstance(record, Row):
        prompt, completion = record.prompt, record.completion
    elif not isinstance(record, Mapping):
        raise TypeError(
            f"{where} is a {type(record).__name__}; pass Row(prompt, completion) or a dict."
        )
    elif _kind(list(record), where) == "pair":
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(completion, list | tuple):
            answer = _messages(completion, f"{where}, completion")
            completion = _answer(answer, f"{where}, completion", alone=True)
    else:
        messages = _messages(record["messages"], f"{where}, messages")
        prompt, completion = messages[:-1], _answer(messages, f"{where}, messages")

    _check_text(prompt, f"{where}, prompt", or_messages=True)
    _check_text(completion, f"{where}, completion")
    if isinstance(prompt, str):
        return Row(prompt, completion)
    turns = _messages(prompt, f"{where}, prompt")
    _check_turns([message["role"] for message in turns], where)
    return Row(turns, completion)


def _check_text(value: Any, where: str, *, or_messages: bool = False) -> None:
    allowed = (str, list, tuple) if or_messages else (str,)
    if not isinstance(value, allowed):
        raise TypeError(f"{where} is {value!r:.60} ({type(value).__name__}); pass text.")


def _messages(messages: Any, where: str) -> tuple[Message, ...]:
    """Messages with role and content alone, each text."""
    is_list = isinstance(messages, list | tuple)
    if not is_list or not all(isinstance(message, Mapping) for message in messages):
        raise TypeError(
            f"{where} is {messages!r:.60}; pass a list of messages, dicts with role and content."
        )
    for i, message in enumerate(messages):
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise TypeError(
                f"{where}[{i}] is {dict(message)!r:.80}; a message has role and content, both text."
            )
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
