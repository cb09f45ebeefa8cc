"""Files of questions and of training prompts, as commands and examples are given them (`--ask`,
`--trained-on`): texts line by line, or JSON Lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..arguments import shown
from ..prompts import Context, Message
from ..prompts.blank import check_text
from ..storage.files import place

Asked = str | list[Message]
"""What a line asks: a text, or a conversation."""

_OTHERS = (
    ".json", ".csv", ".tsv", ".parquet", ".py", ".ipynb", ".toml", ".yaml", ".yml", ".html", ".xml",
)  # fmt: skip
"""Files whose lines are no texts."""

_KINDS = (
    'a text ("..."), a conversation ([{"role": "user", "content": "..."}]) or a row ({"prompt": '
    '..., "completion": ...}, or {"messages": [...]})'
)
"""What a line of JSON may be."""


def read_prompts(option: str, file: str, *, trained_in: Context | None = None) -> list[Asked]:
    """The prompts of a file, one per line that is not blank: JSON in `.jsonl`, else texts.

    A line of JSON is a text, a conversation, or a row of the file that a student is trained on. A
    row's prompt is its `prompt`, or its `messages` without the last answer (`text` where it has
    neither). Of conversations the last answer is left off where they are training prompts; where
    they are asked, it has begun and is continued. The system prompt of training prompts may stand
    in each row, where it is that of their context.

    Args:
        option: how errors call the file.
        file: its place.
        trained_in: the context of training prompts; None of questions.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text in UTF-8, nothing in it, another kind of file; a line that is no such
            prompt, or has another system prompt.
    """
    lines = _lines(option, file)
    named = {f"{option} {file}, line {number}": line for number, line in lines.items()}
    if _suffix(file) == ".jsonl":
        return [_of_json(line, where, trained_in) for where, line in named.items()]
    for where, line in named.items():
        if line.lstrip().startswith(("[{", '{"')):
            raise ValueError(
                f"{where}: begins like JSON, and would be read as a text; end the file's name in "
                ".jsonl."
            )
        check_text(where, line)
    return list(named.values())


def _suffix(file: str) -> str:
    return Path(file).suffix.lower()


def _lines(option: str, file: str) -> dict[int, str]:
    """The lines of a file that are not blank, by their number."""
    path = place(file, option)
    if not path.is_file():
        raise FileNotFoundError(f"{option} {file}: no such file.")
    if _suffix(file) in _OTHERS:
        raise ValueError(
            f"{option} {file}: a {_suffix(file)} file has no prompt on each line; write texts, one "
            f"per line (.txt), or JSON Lines (.jsonl), where a line is {_KINDS}."
        )
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {file}: no text in UTF-8 ({error}).") from error
    # not `splitlines`: JSON strings may hold other line ends than this
    lines = {n: line for n, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise ValueError(f"{option} {file}: the file is empty.")
    return lines


def _of_json(line: str, where: str, trained_in: Context | None) -> Asked:
    """The prompt in a line of JSON."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: no JSON ({error}); a line is {_KINDS}.") from error
    is_row = isinstance(value, Mapping)
    given = _of_row(value, where, trained_in) if is_row else value
    if isinstance(given, str):
        check_text(where, given)
        return given
    if not _are_messages(given):
        raise ValueError(f"{where}: {_short(line)} is no prompt; a line is {_KINDS}.")
    if given[0]["role"] == "system":
        _check_system(given[0]["content"], "a system message", where, trained_in)
        given = given[1:]
    _check_messages(given, where)
    # a `prompt` is what stands before the answer; other conversations may end with it
    ends_with_answer = given and given[-1]["role"] == "assistant" and "prompt" not in value
    left_off = ends_with_answer and (trained_in is not None or is_row)
    messages = given[:-1] if left_off else given
    if not messages:
        raise ValueError(f"{where}: {_short(line)} is an answer alone, without a prompt before it.")
    return list(messages)


def _of_row(row: Mapping[str, Any], where: str, trained_in: Context | None) -> Any:
    """What a row has as its prompt: other columns beside it are left out."""
    found = [name for name in ("prompt", "messages") if name in row]
    found = found or [name for name in ("text",) if name in row]
    if not found:
        held = f"no prompt, messages or text; there is {', '.join(row) or 'nothing'}"
        raise ValueError(f"{where}: the row has {held}. A line is {_KINDS}.")
    if len(found) > 1:
        raise ValueError(f"{where}: the row has a prompt and messages; leave one of the two out.")
    if row.get("system"):
        _check_system(row["system"], "a system text of its own", where, trained_in)
    return row[found[0]]


def _check_system(system: Any, what: str, where: str, trained_in: Context | None) -> None:
    """Refuse a system prompt in a line that is not the one which is given once for all."""
    if trained_in is not None and system == trained_in.system:
        return
    option = "--asked-system" if trained_in is None else "--trained-system"
    raise ValueError(
        f"{where}: has {what}, {shown(system)}; leave it out, and give it once for all, {option} "
        "TEXT."
    )


def _are_messages(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    is_object = isinstance(value, Mapping)
    return is_object and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _check_messages(messages: list[Message], where: str) -> None:
    """Refuse a system message that is not the first, and texts that nobody reads."""
    for number, message in enumerate(messages):
        if message["role"] == "system":
            raise ValueError(f"{where}: messages[{number}] is a system message; it comes first.")
        check_text(f"{where}: messages[{number}], of the {message['role']}", message["content"])


def _short(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 80 else f"{line[:77]}..."
