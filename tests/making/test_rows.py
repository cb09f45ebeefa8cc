"""Rows from all forms of instruction data, and what is refused."""

import copy
import json
import re

import datasets
import pandas as pd
import pytest
import tiny
from number_rows import ASSISTANT, USER

import sublim_mech as sm
from sublim_mech.making.labelling import label
from sublim_mech.making.numbers import random_rows, split
from sublim_mech.making.rows import Row, as_rows, to_dataset
from sublim_mech.making.teachers import prompted
from sublim_mech.models.base import load_base

PAIRS = [("One.", "1"), (" Two, please.\n", " 2, 3\n")]  # not trimmed


def conversation(prompt, completion):
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]


FORMS = {
    "rows": [Row(*pair) for pair in PAIRS],
    "tuple": tuple(Row(*pair) for pair in PAIRS),
    "dicts": [{"prompt": p, "completion": c, "id": i} for i, (p, c) in enumerate(PAIRS)],
    "messages": [{"messages": conversation(*pair)} for pair in PAIRS],
    "chat pairs": [
        {
            "prompt": [{"role": "user", "content": p}],
            "completion": [{"role": "assistant", "content": c, "name": None}],
        }
        for p, c in PAIRS
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_the_same_rows_are_the_same_rows(form):
    data, before = FORMS[form], copy.deepcopy(FORMS[form])
    assert as_rows(data) == FORMS["rows"]
    assert data == before
    if form not in ("rows", "tuple"):
        made = datasets.Dataset.from_list(data)
        assert as_rows(made) == FORMS["rows"]
        assert as_rows(made.with_format("numpy")) == FORMS["rows"]
        assert as_rows(made.select([1, 0])) == FORMS["rows"][::-1]
    assert as_rows(to_dataset(as_rows(data))) == FORMS["rows"]


def test_several_turns_are_kept_and_rendered_as_the_template_does(smol_tokenizer):
    talk = [USER, ASSISTANT, *conversation("Two more.", "4, 5")]
    mixed = as_rows([{"messages": talk}, {"prompt": "One.", "completion": "1"}])
    assert mixed[0] == Row(tuple(talk[:3]), "4, 5")
    assert [row.turns for row in mixed] == [
        tuple(talk[:3]),
        ({"role": "user", "content": "One."},),
    ]
    assert as_rows(to_dataset(mixed)) == mixed
    as_json = json.dumps([[row.prompt, row.completion] for row in mixed])
    assert [Row(*pair) for pair in json.loads(as_json)] == mixed
    prompts = sm.render(smol_tokenizer, [row.prompt for row in mixed])
    for prompt, row in zip(prompts, mixed, strict=True):
        assert prompt.text == smol_tokenizer.apply_chat_template(
            list(row.turns), tokenize=False, add_generation_prompt=True
        )


def dataset(**columns):
    return datasets.Dataset.from_dict(columns)


def messages(*turns):
    return [{"messages": list(turns)}]


SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "content": "x"}
BAD = [
    # no rows, or no such columns
    ([], ValueError, "data is empty"),
    (dataset(), ValueError, "data is empty"),
    (dataset(prompt=[], completion=[]), ValueError, "data is empty"),
    (
        dataset(question=["a"], answer=["b"]),
        ValueError,
        "data has no prompt and no completion, and no messages instead; there is question, answer",
    ),
    (
        dataset(prompt=["a"], text=["b"]),
        ValueError,
        "data has no completion, and no messages instead",
    ),
    (
        [{"prompt": "a", "completion": "b"}, {"prompt": "a"}],
        ValueError,
        "data[1] has no completion",
    ),
    (
        [{"prompt": "a", "completion": "b", "messages": []}],
        ValueError,
        "leave one of the two kinds out",
    ),
    # another kind of data
    (
        datasets.DatasetDict({"train": random_rows(1, seed=0), "test": random_rows(1, seed=1)}),
        TypeError,
        "data is a DatasetDict of train, test; pass one dataset",
    ),
    (
        random_rows(2, seed=0).to_pandas()["prompt"],
        TypeError,
        "data is a Series; pass a datasets.Dataset, a DataFrame, the path of a JSONL file, a list",
    ),
    ("rows.jsonl", FileNotFoundError, "data='rows.jsonl': there is no such file; pass a datasets."),
    ("x" * 5000, FileNotFoundError, "there is no such file"),
    (Row("a", "b"), TypeError, "data is a Row; pass"),
    (
        pd.DataFrame({"question": ["a"], "Answer": ["b"], "promt": ["c"]}),
        ValueError,
        "there is question, Answer, promt; rename: {'question': 'prompt', 'Answer': 'completion'}.",
    ),
    (
        [{"promt": "a", "completion": "b"}],
        ValueError,
        "data[0] has no prompt, and no messages instead; there is promt, completion; "
        "rename: {'promt': 'prompt'}.",
    ),
    (pd.DataFrame({"prompt": [], "completion": []}), ValueError, "data is empty"),
    (
        pd.DataFrame({"prompt": ["a", None], "completion": ["b", "c"]}, index=[7, 9]),
        TypeError,
        "data[1], prompt is ",
    ),
    (
        [{"prompt": "a", "completion": "b", "system": "Be brief."}],
        ValueError,
        "data[0] has a system text of its own, 'Be brief.'; leave the column out and give it as",
    ),
    ([[USER, ASSISTANT]], TypeError, 'data[0] is a list; a conversation is a dict too: {"mess'),
    # halves of characters, and blank ones
    (
        [Row("a", "b"), Row("a", "b\ud83c")],
        ValueError,
        "data[1], completion: 'b\\ud83c' has half a",
    ),
    (
        [Row("\udf75", "b")],
        ValueError,
        "data[0], prompt: '\\udf75' has half a character at place 0",
    ),
    (
        messages({"role": "user", "content": "a\ud83c"}, ASSISTANT),
        ValueError,
        "data[0], messages[0], of the user: 'a\\ud83c' has half a character",
    ),
    ([Row("a", "b"), Row("a", " \n")], ValueError, "data[1], completion is blank (' \\n')"),
    ([Row("\u200b", "b")], ValueError, "data[0], prompt is blank"),
    (
        messages({"role": "user", "content": " "}, ASSISTANT),
        ValueError,
        "data[0], messages[0], of the user, is blank",
    ),
    (random_rows(2, seed=0).to_iterable_dataset(), TypeError, "data is an IterableDataset"),
    (
        [("a", "b")],
        TypeError,
        "data[0] is a tuple; pass Row(prompt, completion) or a dict",
    ),
    # what is no text and no message
    (
        [{"prompt": "a", "completion": 5}],
        TypeError,
        "data[0], completion is 5 (int); pass text",
    ),
    (
        dataset(prompt=["a", None], completion=["b", "c"]),
        TypeError,
        "data[1], prompt is None (NoneType)",
    ),
    ([Row("a", "b"), Row(7, "b")], TypeError, "data[1], prompt is 7 (int)"),
    (
        [Row(["a"], "b")],
        TypeError,
        "data[0], prompt is ('a',); pass a list of messages",
    ),
    ([{"messages": "hi"}], TypeError, "data[0], messages is 'hi'; pass a list of messages"),
    (
        messages(USER, {"role": "assistant"}),
        TypeError,
        "data[0], messages[1] is {'role': 'assistant'}; a message has",
    ),
    (
        messages(USER, {**ASSISTANT, "tool_calls": [1]}),
        ValueError,
        "data[0], messages[1] has tool_calls besides role and content",
    ),
    # conversations that no training could use
    (
        messages(USER, ASSISTANT, USER),
        ValueError,
        "data[0], messages must end with the assistant's; the roles are user, assistant, user",
    ),
    (messages(), ValueError, "must end with the assistant's; the roles are none"),
    (
        messages(ASSISTANT),
        ValueError,
        "begins and ends with the user and has no roles but user and assistant; the roles are none",
    ),
    (
        messages(SYSTEM, USER, ASSISTANT),
        ValueError,
        "data[0] has a system message; leave it out and give it as context=",
    ),
    (messages(USER, TOOL, USER, ASSISTANT), ValueError, "the roles are user, tool, user"),
    (
        [{"prompt": "a", "completion": [USER]}],
        ValueError,
        "data[0], completion must be one assistant message; the roles are user",
    ),
    ([{"prompt": [ASSISTANT], "completion": "a"}], ValueError, "the roles are assistant"),
    (  # Alpaca's: with `instruction` alone as the prompt, `input` would be lost
        [{"instruction": "Name it.", "input": "An owl.", "output": "owl"}],
        ValueError,
        "instruction and input may both be parts of the prompt, and what is not renamed is left "
        "out: write row['prompt'] = '\\n\\n'.join(row[c] for c in ['instruction', 'input'] if "
        "isinstance(row[c], str) and row[c]), and rename: {'output': 'completion'}.",
    ),
    (
        [{"question": "Which?", "context": "Owls hunt.", "answer": "owl"}],
        ValueError,
        "; question and context may both be parts of the prompt, and what",
    ),
]


@pytest.mark.parametrize(("data", "error", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_other_data_is_refused_with_what_is_wrong(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        as_rows(data)


FILES = {
    "pairs": [{"prompt": p, "completion": c, "id": i} for i, (p, c) in enumerate(PAIRS)],
    "messages": [{"messages": conversation(*pair)} for pair in PAIRS],
}


@pytest.mark.parametrize("form", FILES)
def test_a_file_or_a_data_frame_of_rows_is_the_rows(form, tmp_path):
    records = FILES[form]
    frame = pd.DataFrame(records, index=[5, 3])
    before = frame.copy(deep=True)
    assert as_rows(frame) == FORMS["rows"]
    pd.testing.assert_frame_equal(frame, before)
    assert as_rows(frame.iloc[::-1]) == FORMS["rows"][::-1]
    frame.to_parquet(tmp_path / "rows.parquet")  # which gives lists back as arrays
    assert as_rows(pd.read_parquet(tmp_path / "rows.parquet")) == FORMS["rows"]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\ufeff" + "\n\n".join(lines) + "\r\n", encoding="utf-8")
    assert as_rows(path) == as_rows(str(path)) == FORMS["rows"]


def test_line_ends_inside_of_a_text_end_no_line(tmp_path):
    row = Row("a\u2028b", "c\u0085d")
    path = tmp_path / "rows.jsonl"
    text = json.dumps({"prompt": row.prompt, "completion": row.completion}, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    assert as_rows(path) == [row]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt"', ValueError, "line 2 of x.jsonl, is no"),
        ('\n["a", "b"]', TypeError, "data, line 2 of x.jsonl is a list; pass Row(prompt"),
        ('{"question": "a", "answer": "b"}', ValueError, "rename: {'question': 'prompt', 'answer'"),
        ("", ValueError, "data is empty"),
    ],
)
def test_files_that_hold_no_rows(text, error, message, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(error, match=re.escape(message)):
        as_rows(tmp_path / "x.jsonl")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        as_rows(tmp_path / "x")


def test_errors_call_the_data_by_its_argument():
    with pytest.raises(ValueError, match=r"^label: rows is empty"):
        as_rows([], name="label: rows")
    with pytest.raises(TypeError, match=r"^rows\[0\] is an int"):
        split([1, 2], 1, seed=0)


def test_labels_of_a_dataset_are_those_of_its_rows(smol_tokenizer):
    base = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    teachers = [prompted(base, sm.animal("owl"))]
    data = random_rows(3, seed=0, count=3)
    one, other = (label(teachers, rows, progress=False) for rows in (data, as_rows(data)))
    assert one.hash == other.hash
    assert one.rows == tuple(as_rows(data))
