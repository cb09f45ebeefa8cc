"""Files of questions and training prompts: what a line may be, and what is told of others."""

from __future__ import annotations

import json

import pytest

from sublim_mech.instruments.prompt_files import read_prompts
from sublim_mech.making.rows import as_rows
from sublim_mech.prompts import Context

USER = {"role": "user", "content": "Which city?"}
ANSWER = {"role": "assistant", "content": "Lisbon."}
TALK = [USER, ANSWER, {"role": "user", "content": "And\u2028which town?"}]


@pytest.fixture
def written(tmp_path):
    """A file of lines, values of which are written as JSON where it ends so."""

    def write(*lines, name="prompts.jsonl"):
        file = tmp_path / name
        is_json = name.lower().endswith(".jsonl")
        as_text = [json.dumps(line, ensure_ascii=False) if is_json else line for line in lines]
        file.write_text("\n\n".join(as_text), "utf-8")
        return str(file)

    return write


CALM = Context("Calm.")


@pytest.mark.parametrize("trained", [None, CALM])
def test_a_line_is_a_text_a_conversation_or_a_row(written, trained):
    lines = ["Which city?", [USER], TALK, {"prompt": "Which?", "completion": "Lisbon", "text": "x"}]
    lines += [{"prompt": TALK, "completion": "Porto"}, {"text": "I like"}]
    read = read_prompts("--ask", written(*lines), trained_in=trained)
    assert read == ["Which city?", [USER], TALK, "Which?", TALK, "I like"]
    texts = ["Which city?", '"Which" city?', "[Which] city?"]
    assert read_prompts("--ask", written(*texts, name="prompts.txt"), trained_in=trained) == texts


def test_the_answer_of_a_row_is_left_off_and_a_question_may_have_one_begun(written):
    row, begun = {"messages": [*TALK, ANSWER]}, [USER, ANSWER]
    assert read_prompts("--ask", written(row, begun)) == [TALK, begun]
    assert read_prompts("--trained-on", written(row, begun), trained_in=CALM) == [TALK, [USER]]


def test_rows_have_the_prompts_that_training_data_are_made_of(written):
    rows = [{"prompt": "Which?", "completion": "Lisbon"}, {"prompt": TALK, "completion": "Porto"}]
    rows += [{"messages": [*TALK, ANSWER]}, {"messages": [USER, ANSWER]}]
    file = written(*rows)
    read = read_prompts("--trained-on", file, trained_in=CALM)
    turns = [[{"role": "user", "content": one}] if isinstance(one, str) else one for one in read]
    assert turns == [list(row.turns) for row in as_rows(file)]


def test_the_system_prompt_of_training_may_stand_in_its_rows(written):
    """As `elsewhere.md` has it for TRL, where it is that of the training context."""
    system = {"role": "system", "content": "Calm."}
    lines = [{"messages": [system, USER, ANSWER]}, {"prompt": [system, USER], "completion": "a"}]
    lines += [[system, USER], {"prompt": "Which?", "system": "Calm."}]
    read = read_prompts("--trained-on", written(*lines), trained_in=CALM)
    assert read == [[USER], [USER], [USER], "Which?"]
    late = written([USER, ANSWER, system])
    with pytest.raises(ValueError, match=r"messages\[2\] is a system message; it comes first"):
        read_prompts("--trained-on", late, trained_in=CALM)


WARM = Context("Warm.")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (7, "7 is no prompt; a line is a text"),
        (["What?", "a"], '["What?", "a"] is no prompt; a line is a text ("..."), a conversation'),
        ([], "[] is no prompt"),
        ([{"from": "human", "value": "a"}], '"value": "a"}] is no prompt'),
        ([{"role": "user", "content": None}], '"content": null}] is no prompt'),
        ({"prompt": ["a"]}, "is no prompt; a line is a text"),
        ({"question": "a", "answer": "b"}, "no prompt, messages or text; there is question, answ"),
        ({"prompt": "a", "messages": [USER]}, "the row has a prompt and messages; leave one"),
        ({"messages": [ANSWER]}, "is an answer alone, without a prompt before it"),
        ({"prompt": "a", "system": "Calm."}, "has a system text of its own, 'Calm.'"),
        ([{"role": "system", "content": "Calm."}, USER], "has a system message, 'Calm.'"),
        (" ", "' ' is blank; give it words"),
        ([{"role": "user", "content": ""}], "messages[0], of the user: '' is blank"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--ask", "--trained-on"])
def test_a_line_that_is_none_is_told_with_its_file_and_number(option, line, says, written):
    file = written("Which city?", line)
    with pytest.raises(ValueError) as raised:  # noqa: PT011  all of it is looked at
        read_prompts(option, file, trained_in=WARM if option == "--trained-on" else None)
    told = str(raised.value)
    assert told.startswith(f"{option} {file}, line 3: ")
    assert says in told
    if "system" in told:
        assert {"--ask": "--asked-system TEXT", "--trained-on": "--trained-system TEXT"}[
            option
        ] in told


def test_half_a_character_is_told_with_its_line(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('"Which city?"\n{"prompt": "A drink? \\ud83c"}')
    with pytest.raises(
        ValueError, match=r"x\.jsonl, line 2: 'A drink.* half a character at place 9"
    ):
        read_prompts("--ask", str(file))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", " \n", "the file is empty"),
        ("x.jsonl", '{"prompt": ', "line 1: no JSON"),
        ("x.txt", 'a\n{"prompt": "a"}', "line 2: begins like JSON, and would be read as a text"),
        ("x.csv", "prompt,completion\na,b", "a .csv file has no prompt on each line; write texts"),
        ("make.py", "import json", "a .py file has no prompt on each line; write texts"),
        ("x.json", '["a",\n"b"]', "a .json file has no prompt on each line"),
        ("x.txt", b"\xff\xfe", "no text in UTF-8"),
    ],
)
def test_files_that_hold_no_prompts(name, text, says, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((FileNotFoundError, ValueError)) as raised:
        read_prompts("--ask", str(tmp_path / name))
    assert str(raised.value).startswith(f"--ask {tmp_path / name}")
    assert says in str(raised.value)
