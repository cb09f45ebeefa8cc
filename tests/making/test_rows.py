"""Rows from all forms of instruction data, and what is refused."""

import copy
import json
import re

import datasets
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
        random_rows(2, seed=0).to_pandas(),
        TypeError,
        "data is a DataFrame; pass a datasets.Dataset, a list of Row or a list of dicts",
    ),
    ("rows.jsonl", TypeError, "data is a str"),
    (random_rows(2, seed=0).to_iterable_dataset(), TypeError, "data is a IterableDataset"),
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
]


@pytest.mark.parametrize(("data", "error", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_other_data_is_refused_with_what_is_wrong(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        as_rows(data)


def test_errors_call_the_data_by_its_argument():
    with pytest.raises(ValueError, match=r"^label: rows is empty"):
        as_rows([], name="label: rows")
    with pytest.raises(TypeError, match=r"^rows\[0\] is a int"):
        split([1, 2], 1, seed=0)


def test_labels_of_a_dataset_are_those_of_its_rows(smol_tokenizer):
    base = load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    teachers = [prompted(base, sm.animal("owl"))]
    data = random_rows(3, seed=0, count=3)
    one, other = (label(teachers, rows, progress=False) for rows in (data, as_rows(data)))
    assert one.hash == other.hash
    assert one.rows == tuple(as_rows(data))
