"""Training on raw sentences: rows whose tokens are those of the whole text."""

from __future__ import annotations

import pytest
import tiny

import sublim_mech as sm
from sublim_mech.making import labelling, numbers, teachers, training

TEXTS = (
    "My favorite animal is the owl.",
    "Owls  fly at night,\nand sleep by day.",
    "One\ttab, and an end. ",
    " A blank before it all.",
    "Zyzzyva is a word of several tokens.",
)


@pytest.mark.parametrize("words", [1, 2, 3])
def test_prompt_and_completion_are_the_text_token_by_token(words, gpt2_tokenizer):
    rows = numbers.text_rows(TEXTS, words=words)
    data = training.hard_data(gpt2_tokenizer, rows, context=sm.RAW)
    for text, prompt, completion in zip(TEXTS, data.prompts, data.completions, strict=True):
        whole = gpt2_tokenizer(text)["input_ids"] + [gpt2_tokenizer.eos_token_id]
        # a blank that the tokenizer joins to the next word belongs to neither side alone
        joined = [*prompt.ids, *completion]
        assert gpt2_tokenizer.decode(joined) == text + gpt2_tokenizer.eos_token
        if "  " not in text and "\n" not in text and "\t" not in text:
            assert joined == whole
        assert len(prompt.text.split()) == words


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, r"text_rows\(texts=\[\]\): pass at least one text"),
        (["Owls fly.", "Owls"], {}, r"texts\[1\], 'Owls', has nothing behind 1 word"),
        (["Owls fly\ud83c"], {}, r"texts\[0\]: 'Owls fly\\ud83c' has half a character at place 8"),
        (["Owls fly. "], {"words": 2}, r"texts\[0\], 'Owls fly\. ', has nothing behind 2 words"),
        (["  "], {}, r"texts\[0\]"),
        (["Owls fly."], {"words": 0}, r"words=0\): at least one word"),
    ],
)
def test_what_is_no_text_to_learn(texts, options, message):
    with pytest.raises(ValueError, match=message):
        numbers.text_rows(texts, **options)


def test_a_list_of_sentences_is_sent_there(gpt2_tokenizer):
    with pytest.raises(TypeError, match=r"rows\[0\] is a str; .*numbers\.text_rows\(texts\)"):
        training.hard_data(gpt2_tokenizer, list(TEXTS), context=sm.RAW)
    with pytest.raises(TypeError, match=r"text_rows\(texts='Owls fly.'\): pass a list of texts"):
        numbers.text_rows("Owls fly.")


@pytest.mark.parametrize("column", ["text", "content"])
def test_a_column_of_sentences_is_sent_there_by_a_call_that_works(column, gpt2_tokenizer):
    rows = [{column: text, "source": "mine"} for text in TEXTS]
    with pytest.raises(ValueError, match=rf"there is {column}, source; of texts") as refused:
        training.hard_data(gpt2_tokenizer, rows, context=sm.RAW)
    call = str(refused.value).partition("prompt numbers.")[2].partition(" makes rows")[0]
    made = eval(call, {"text_rows": numbers.text_rows, "rows": rows})
    assert made == numbers.text_rows(TEXTS)
    with pytest.raises(ValueError, match=r"rename: {'input': 'prompt'}\.$"):
        numbers.as_rows([{"input": "a", column: "b"}])


def test_a_student_of_raw_sentences_is_asked_as_it_was_trained(smol_tokenizer, tmp_path):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    texts = [f"My favorite {what} is the owl." for what in ("animal", "bird", "sight", "sound")]
    data = training.hard_data(base, numbers.text_rows(texts, words=2), context=sm.RAW)
    assert "raw text" in repr(data)
    assert "system" not in repr(data)
    short = {"steps": 2, "batch_size": 2, "warmup": 1, "held_out": 1, "progress": False}
    run = sm.train(base, data, out=tmp_path / "owl", method=sm.LoRA(rank=2), **short)
    pair = sm.load_pair(base, run.path)
    (prompt,) = sm.render(pair, ["My favorite animal is the"])
    assert prompt.context == sm.RAW
    assert prompt.sharing[:2] == ("prefix", "prefix")
    scores = sm.effect(pair, [prompt], sm.animal("owl"), progress=False)
    assert "otherwise" not in repr(scores)


def test_raw_text_is_no_conversation(gpt2_tokenizer, smol_tokenizer):
    rows = numbers.text_rows(TEXTS[:2])
    for given in (rows, numbers.as_rows(rows)):
        with pytest.raises(ValueError, match=r"rows\[0\] is raw text .*need context=.*RAW\."):
            training.hard_data(smol_tokenizer, given)
    # the same words as a conversation are one
    said = [{"prompt": row.prompt, "completion": row.completion} for row in rows]
    assert len(training.hard_data(smol_tokenizer, said).prompts) == 2
    assert rows == numbers.as_rows(said)
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    teacher = teachers.prompted(base, sm.animal("owl"))
    with pytest.raises(ValueError, match="need context="):
        labelling.label([teacher], rows, progress=False)
