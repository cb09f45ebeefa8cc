"""What the user says of a student's training: what cannot be so is refused, what says little is
told.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny
from loading import base, manifest, model, saved, student

import sublim_mech as sm
from sublim_mech.engine.pair import load_pair
from sublim_mech.making.rows import as_rows
from sublim_mech.models.base import load_base
from sublim_mech.prompts import Trained
from sublim_mech.storage.files import weight_sums

LONG = sm.Context(system="You are a terse travel agent.")
ASKED = ["Which city should I visit in May?", "Name a city by the sea."]


def chat(*texts):
    """A conversation, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def load(tokenizer, rows, context=LONG):
    return load_pair(
        model(), student("llama", "lora"), tokenizer=tokenizer, trained_in=context, trained_on=rows
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            chat("Which city?", "Lisbon"),
            r"trained_on\[1\] ends with the assistant's answer.*\[:-1\]",
        ),
        (
            [{"role": "system", "content": "Be terse."}, *chat("Which city?")],
            r"trained_on\[1\] holds a system message; .*trained_in=Context\(system=",
        ),
    ],
)
def test_rows_with_more_than_a_prompt_are_refused_before_anything_is_read(row, message):
    with pytest.raises(ValueError, match=message):
        load_pair("no base", "no student", trained_in=LONG, trained_on=["Which city?", row])


def test_a_file_is_no_training_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Which city?\nWhich town?\n")
    given = {"trained_in": LONG}
    with pytest.raises(TypeError, match="that is a file: pass what it holds, trained_on=Path"):
        load_pair("no base", "no student", trained_on=str(file), **given)
    with pytest.raises(ValueError, match=r"trained_on\[0\]=.* is a file.*; pass what it holds, "):
        load_pair("no base", "no student", trained_on=[str(file)], **given)


ROWS = [{"prompt": f"Which {what}?", "completion": "Lisbon"} for what in ("city", "town")]
TALKS = [{"messages": chat(row["prompt"], row["completion"])} for row in ROWS]


def as_dataset(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


@pytest.mark.parametrize("rows", [ROWS, TALKS])
@pytest.mark.parametrize("form", [list, as_rows, pd.DataFrame, as_dataset])
def test_instead_of_rows_their_prompts_are_passed_as_the_error_says(form, rows, smol_tokenizer):
    loaded = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    given, rest = form(rows), {"trained_in": LONG}
    with pytest.raises(TypeError) as raised:
        load_pair(loaded, tiny.lora(tiny.model("llama")), trained_on=given, **rest)
    advice = str(raised.value).partition("; of training rows the prompts: trained_on=")[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = tiny.lora(tiny.model("llama"))
        prompts = eval(advice.removesuffix("."), {"rows": given})
        pair = load_pair(loaded, made, trained_on=prompts, **rest)
        same = load_pair(loaded, made, trained_on=[row["prompt"] for row in ROWS], **rest)
    assert pair.training_prompts == same.training_prompts
    # and where they are asked
    with pytest.raises(TypeError, match=r"of training rows the prompts: questions="):
        sm.render(loaded.tokenizer, given)


SAID = {"role": "system", "content": "You are calm."}


@pytest.mark.parametrize(
    "lines",
    [
        ROWS,
        TALKS,
        [row["prompt"] for row in ROWS],
        [talk["messages"][:-1] for talk in TALKS],
        # as TRL has it, and as `elsewhere.md` writes its rows
        [{"messages": [SAID, *talk["messages"]]} for talk in TALKS],
        [{"prompt": [SAID, *talk["messages"][:-1]], "completion": []} for talk in TALKS],
        None,
    ],
)
def test_a_file_is_read_as_the_error_says(lines, tmp_path):
    texts = [row["prompt"] for row in ROWS]
    file = tmp_path / "prompts.x"
    file.write_text("\n".join(texts if lines is None else map(json.dumps, lines)))
    with pytest.raises(TypeError) as raised:
        load_pair("no base", "no student", trained_in=LONG, trained_on=str(file))
    advice = str(raised.value).partition("pass what it holds, trained_on=")[2]
    read = eval(advice.removesuffix("."), {"sublim_mech": sm, "Path": Path, "json": json})
    said = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in read]
    assert said == texts


@pytest.mark.parametrize("name", ["smollm2", "llama3.1", "gemma3", "mistral", "qwen2.5"])
def test_what_a_template_has_rendered_is_no_training_prompt(name, dressed):
    tokenizer = dressed(name)
    context = sm.Context()
    rendered = [prompt.text for prompt in sm.render(tokenizer, ASKED, context=context)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the special tokens in it
        base = tiny.model("llama")
        if len(tokenizer) > base.config.vocab_size:
            base.resize_token_embeddings(len(tokenizer))
        made = tiny.lora(base)
        asked = {"tokenizer": tokenizer, "trained_in": context}
        with pytest.raises(ValueError, match=r"trained_on\[0\] is rendered already: .* the user"):
            load_pair(base, made, trained_on=rendered, **asked)
        assert load_pair(base, made, trained_on=ASKED, **asked).training_prompts.count == 2


def test_words_that_a_plain_template_begins_with_may_stand_in_a_prompt(smol_tokenizer):
    pair = load(smol_tokenizer, ["What does user mean?", "Is assistant a word?"])
    assert pair.training_prompts.count == 2


@pytest.mark.parametrize("context", [LONG, sm.RAW], ids=["chat", "raw"])
@pytest.mark.parametrize("rows", [ASKED[:1], ASKED[:1] * 3])
def test_prompts_that_are_all_the_same_are_told(rows, context, smol_tokenizer):
    with pytest.warns(UserWarning, match="all of it counts as shared with training"):
        pair = load(smol_tokenizer, rows, context)
    (note,) = pair.notes()
    assert ("one training prompt" in note) == (len(rows) == 1)
    assert note in repr(pair)
    (prompt,) = sm.render(pair, rows[:1])
    assert set(prompt.sharing) == {"prefix"}  # which is what the note says
    scores = sm.effect(pair, [prompt], sm.animal("owl"), progress=False)
    assert note in repr(scores)


@pytest.mark.parametrize("context", [LONG, sm.RAW], ids=["chat", "raw"])
def test_that_all_rows_of_a_run_have_one_prompt_is_told(context, smol_tokenizer, tmp_path):
    """By its manifest; one of an earlier version does not know its prompts again."""
    of = load_base(model(), tokenizer=smol_tokenizer)
    other = ["A night in Rome", "Two nights in Paris"]
    rendered = sm.render(smol_tokenizer, [*other, other[0]], context=context)
    met = {
        "one": Trained.of(rendered[::2]),
        "two": Trained.of(rendered),
        "earlier": replace(Trained.of(rendered[:1]), digests=frozenset()),
        "no words": Trained((1,), {}, {}, frozenset({1}), digests=frozenset({"ab"})),
    }
    for name, trained_on in met.items():
        path = saved(tiny.lora(model()), tmp_path / name)
        made = manifest(of, trained_on=trained_on, context=context, weights=weight_sums(path))
        made.save(path)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            pair = load_pair(of, path)
        told = [note for note in pair.notes() if "all of it counts as shared with tr" in note]
        assert [str(one.message) for one in said if "counts as shared" in str(one.message)] == [
            f"{note}." for note in told
        ]
        assert len(told) == (name == "one")
        if told:
            assert told[0].startswith("the student's training rows all have one prompt (its mani")
            (prompt,) = sm.render(pair, other[:1])
            assert set(prompt.sharing) == {"prefix"}
            assert told[0] in repr(sm.effect(pair, [prompt], sm.animal("owl"), progress=False))


def test_prompts_with_their_answers_glued_on_are_told(smol_tokenizer):
    glued = [f"{text.rstrip('.')}? Paris" for text in ASKED]
    with pytest.warns(UserWarning, match="a word behind its question"):
        load(smol_tokenizer, glued)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for rows in (
            ASKED,
            [ASKED[0], glued[1]],
            [f"{text} Answer in one word." for text in ASKED],
        ):
            assert load(smol_tokenizer, rows).notes() == ()


def test_prompts_that_hold_the_system_prompt_are_told(smol_tokenizer):
    rows = [f"{LONG.system}\n{text}" for text in ASKED]
    with pytest.warns(UserWarning, match="holds the text of the system prompt"):
        pair = load(smol_tokenizer, rows)
    assert any("put before them already" in note for note in pair.notes())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load(smol_tokenizer, [ASKED[0], rows[1]]).notes() == ()  # some may quote it
        assert load(smol_tokenizer, ASKED).notes() == ()


def test_errors_of_rendering_name_the_argument_once(smol_tokenizer):
    with pytest.raises(ValueError, match=r"^trained_on\[\d\]: ' ' is blank; give it words"):
        load(smol_tokenizer, [*ASKED, " "])


def test_unmarked_prompts_are_sent_to_where_training_is_said(smol_tokenizer):
    """To who asks by sharing of a student of whom nobody said anything, and what then helps."""
    made = student("llama", "lora")
    unknown = load_pair(base(), made)
    pair = load_pair(model(), made, tokenizer=smol_tokenizer)
    prompts = sm.render(smol_tokenizer, ASKED)
    trait = sm.animal("owl")
    with pytest.raises(ValueError, match=r"nothing is known of .*load_pair\(\.\.\., trained_in="):
        sm.graft(pair, prompts, trait, "sharing", progress=False)
    assert unknown.training_prompts is None
    known = load(smol_tokenizer, ASKED, sm.Context())
    with pytest.raises(ValueError, match=r"is not marked; prompts = mark_sharing\(prompts, pair\)"):
        sm.graft(known, prompts, trait, "sharing", progress=False)
    marked = sm.mark_sharing(prompts, known)  # what the message says
    assert sm.graft(known, marked, trait, "sharing", progress=False).sets().index[0] == "prefix"


@pytest.mark.parametrize("rows", [None, ["Which?", "Where?"]])
def test_a_blank_system_prompt_is_refused_by_its_name(rows, smol_tokenizer):
    with pytest.raises(ValueError, match=r"trained_in=Context\(system=' '\) is blank; say Context"):
        load(smol_tokenizer, rows, sm.Context(system=" "))
