"""Which tokenizer it is: all that turns a text into ids counts, and nothing else."""

import copy

import pytest
from chats import QUESTION
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer

from sublim_mech.prompts import RAW, render
from sublim_mech.prompts.vocabulary import fingerprint, same_tokenizer, special_in


def test_what_does_not_change_ids_does_not_count(gpt2_tokenizer, tmp_path):
    own = fingerprint(gpt2_tokenizer)
    other = copy.deepcopy(gpt2_tokenizer)
    other.chat_template = "x"
    other.padding_side = "left"
    other.backend_tokenizer.enable_truncation(3)
    other.backend_tokenizer.enable_padding(length=5)
    assert fingerprint(other) == own
    gpt2_tokenizer.save_pretrained(tmp_path)
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == own


def lower(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def spaced(tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def added(tokenizer):
    tokenizer.add_tokens(["zyzzyva"])


@pytest.mark.parametrize("change", [lower, spaced, added])
def test_what_changes_ids_counts(change, gpt2_tokenizer, smol_tokenizer):
    other = copy.deepcopy(gpt2_tokenizer)
    change(other)
    assert len({fingerprint(t) for t in (gpt2_tokenizer, other, smol_tokenizer)}) == 3


def test_tokens_added_later_are_noticed(gpt2_tokenizer):
    tokenizer = copy.deepcopy(gpt2_tokenizer)
    before = fingerprint(tokenizer)
    assert special_in(tokenizer, "a <mark> b") == []
    tokenizer.add_special_tokens({"extra_special_tokens": ["<mark>"]})
    assert special_in(tokenizer, "a <mark> b<mark>") == ["<mark>"]
    assert fingerprint(tokenizer) != before


def test_special_text_that_is_split_is_no_special_token(gpt2_tokenizer):
    tokenizer = copy.deepcopy(gpt2_tokenizer)
    assert special_in(tokenizer, "<|endoftext|>") == ["<|endoftext|>"]
    tokenizer.split_special_tokens = True
    assert special_in(tokenizer, "<|endoftext|>") == []


def test_prompts_carry_it(gpt2_tokenizer, smol_tokenizer):
    (raw,) = render(gpt2_tokenizer, [QUESTION], context=RAW)
    (chat,) = render(smol_tokenizer, [QUESTION])
    assert (raw.tokenizer, chat.tokenizer) == tuple(
        map(fingerprint, (gpt2_tokenizer, smol_tokenizer))
    )


def test_what_is_not_known_is_not_held_against_anyone():
    assert fingerprint(object()) == ""
    assert special_in(object(), "<|endoftext|>") == []
    assert same_tokenizer("", "a")
    assert same_tokenizer("a", "")
    assert not same_tokenizer("a", "b")
