"""Raw text: the tokens, roles and answers of a text as Hugging Face's tokenizer has it."""

import copy
import re
import warnings

import pytest
from chats import TALK
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing

from sublim_mech.prompts import PLAIN, RAW, completion_ids, mark_sharing, render
from sublim_mech.prompts.notices import said_once

TEXT = "My favorite animal is the"
TEXTS = [TEXT, "One line.\n\nAnother 🦉 line, 日本語:", "Owls\tare", "x"]


@pytest.fixture(params=["gpt2", "smollm2", "bos", "prefix space"])
def tokenizer(request, gpt2_tokenizer, dressed):
    """As models of raw text have them: one that adds a BOS, one that adds a space to a text."""
    if request.param == "gpt2":
        return gpt2_tokenizer
    if request.param == "smollm2":
        return dressed("smollm2")
    made = copy.deepcopy(dressed("gemma3"))
    start = ("<bos>", made.bos_token_id)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[start]
    )
    if request.param == "prefix space":
        spaced = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.backend_tokenizer.pre_tokenizer = spaced
    return made


def adds_bos(tokenizer):
    return tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_are_the_tokenizers_own(text, tokenizer):
    (prompt,) = render(tokenizer, [text], context=RAW)
    assert list(prompt.ids) == tokenizer(text)["input_ids"]
    bos = "<bos>" if adds_bos(tokenizer) else ""
    assert prompt.text == bos + text
    assert prompt.question == text
    assert list(prompt.roles) == ["bos"] * bool(bos) + ["text"] * (len(prompt) - bool(bos))
    assert set(prompt.turns) == {0}
    assert prompt.context == RAW
    assert {i for start, end in prompt.offsets for i in range(start, end)} == set(
        range(len(prompt.text))
    )


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_continues_the_text_as_text_does(text, tokenizer):
    (prompt,) = render(tokenizer, [text], context=RAW)
    assert prompt.lead == " "
    whole = tokenizer(f"{text} owl")["input_ids"]
    assert [*prompt.ids, *completion_ids(tokenizer, prompt, "owl")] == whole
    closed = completion_ids(tokenizer, prompt, "owl", close=True)
    assert [*prompt.ids, *closed] == [*whole, tokenizer.eos_token_id], "as documents end"


def test_a_space_that_only_the_first_word_gets_is_not_lost_behind_the_bos(dressed):
    """Llama's tokenizers write ` My`, but `My` where the BOS is part of the text."""
    tokenizer = copy.deepcopy(dressed("gemma3"))
    start = ("<bos>", tokenizer.bos_token_id)
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[start])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="Ġ", prepend_scheme="first")
    assert tokenizer(TEXT)["input_ids"] != tokenizer(f"<bos>{TEXT}")["input_ids"][1:]
    (prompt,) = render(tokenizer, [TEXT], context=RAW)
    answer = completion_ids(tokenizer, prompt, "owl")
    assert [*prompt.ids, *answer] == tokenizer(f"{TEXT} owl")["input_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        completion_ids(tokenizer, prompt, "owl")


def test_a_text_without_end_of_text_stays_open(gpt2_tokenizer):
    endless = copy.deepcopy(gpt2_tokenizer)
    endless.eos_token = None
    (prompt,) = render(endless, [TEXT], context=RAW)
    assert prompt.close == ""
    closed = completion_ids(endless, prompt, "owl", close=True)
    assert closed == completion_ids(endless, prompt, "owl")


@pytest.mark.parametrize("end", [" ", "\n", "\t", "\u3000"])
def test_after_white_space_nothing_is_added(end, gpt2_tokenizer):
    (prompt,) = render(gpt2_tokenizer, [TEXT + end], context=RAW)
    assert prompt.lead == ""
    assert prompt.text == TEXT + end


def test_a_text_that_ends_in_a_space_says_that_its_space_is_another_token(gpt2_tokenizer):
    (prompt,) = render(gpt2_tokenizer, [f"{TEXT} "], context=RAW)
    with pytest.warns(UserWarning, match=r"is the ' \+ 'owl' are not.*End the text without"):
        answer = completion_ids(gpt2_tokenizer, prompt, "owl")
    assert answer == gpt2_tokenizer("owl")["input_ids"]
    # a line's end is a token of its own, whatever follows
    (line,) = render(gpt2_tokenizer, [f"{TEXT}\n"], context=RAW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = [*line.ids, *completion_ids(gpt2_tokenizer, line, "owl")]
    assert together == gpt2_tokenizer(f"{TEXT}\nowl")["input_ids"]


def test_it_is_said_once_for_all_forms(gpt2_tokenizer):
    prompts = render(gpt2_tokenizer, [f"{TEXT} ", "I love the "], context=RAW)
    with warnings.catch_warnings(record=True) as said, said_once():
        warnings.simplefilter("always")
        for prompt in prompts:
            for form in ("owl", "owls", "Owl"):
                completion_ids(gpt2_tokenizer, prompt, form)
    (only,) = said
    assert re.search(
        r"is the ' \+ 'owl' are not.*\(5 more notices on answers that share .*\.\)$",
        str(only.message),
    )


def test_a_bos_that_stands_in_the_text_is_not_doubled(tokenizer, recwarn):
    (plain,) = render(tokenizer, [TEXT], context=RAW)
    (given,) = render(tokenizer, [tokenizer.bos_token + TEXT], context=RAW)
    assert given.roles[0] == "bos"
    assert given.ids == (tokenizer.bos_token_id, *plain.ids[adds_bos(tokenizer) :])
    assert not recwarn.list
    answer = completion_ids(tokenizer, given, "owl")
    assert answer == completion_ids(tokenizer, plain, "owl")
    assert not recwarn.list


def test_what_training_shares_are_common_beginnings_and_tokens(gpt2_tokenizer):
    trained = render(
        gpt2_tokenizer, ["My favorite bird is the", "My favorite film is the"], context=RAW
    )
    (prompt,) = mark_sharing(render(gpt2_tokenizer, [TEXT], context=RAW), trained)
    assert dict(zip(prompt.tokens, prompt.sharing, strict=True)) == {
        "My": "prefix",
        " favorite": "prefix",
        " animal": "novel",
        " is": "seen",
        " the": "seen",  # a text has no end to count from: it goes on
    }


def test_a_conversation_or_a_template_is_no_raw_text(gpt2_tokenizer):
    with pytest.raises(ValueError, match=r"context=RAW takes texts.*conversation"):
        render(gpt2_tokenizer, [TEXT, TALK], context=RAW)
    with pytest.raises(ValueError, match="context=RAW has no chat template"):
        render(gpt2_tokenizer, [TEXT], context=RAW, template=PLAIN)
