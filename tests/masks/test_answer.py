"""The answer's own tokens as a set: what it combines with, and what cannot mean anything exact."""

import re

import numpy as np
import pytest
from mask_cases import marked_prompts, network

from sublim_mech import masks
from sublim_mech.masks import AnswerMask

ANSWER = masks.role("answer")
MODULES = network("llama")
LAYER = masks.layers(1)


@pytest.fixture(scope="module")
def owl(smol_tokenizer):
    return marked_prompts(smol_tokenizer)[0]


@pytest.mark.parametrize(
    ("mask", "modules", "name"),
    [
        (ANSWER, masks.everything(), "answer"),
        (masks.sharing("answer"), masks.everything(), "answer"),
        (masks.role("answer", "answer"), masks.everything(), "answer"),
        (ANSWER & LAYER, LAYER, "answer & layer 1"),
        (LAYER & ANSWER, LAYER, "layer 1 & answer"),
        (ANSWER & ~masks.modules("mlp", "norms"), ~masks.modules("mlp", "norms"), None),
        (ANSWER & masks.everything(), masks.everything(), "answer & everything"),
        (ANSWER & (ANSWER & LAYER), LAYER, "answer & answer & layer 1"),
        (
            (ANSWER & masks.modules("mlp")) | (LAYER & ANSWER),
            masks.modules("mlp") | LAYER,
            "answer & mlp | layer 1 & answer",
        ),
    ],
)
def test_it_is_the_answer_in_some_modules(owl, mask, modules, name):
    assert isinstance(mask, AnswerMask)
    np.testing.assert_array_equal(mask.modules(owl, MODULES), modules(owl, MODULES)[0])
    assert name in (None, mask.name)


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda: ANSWER | masks.role("user"), "answer | user: a set is of the prompt's tokens or"),
        (lambda: masks.role("user") | ANSWER, "user | answer: a set is of the prompt's tokens or"),
        (lambda: ANSWER | LAYER, "answer | layer 1: a set is of the prompt's tokens or"),
        (lambda: ~ANSWER, "not answer: a mask of the answer's own tokens has no complement"),
        (lambda: ~(ANSWER & LAYER), "not answer & layer 1: a mask of the answer's"),
    ],
)
def test_what_would_mix_it_with_the_prompt_points_at_the_answers_gates(combine, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        combine()
    assert "answer_in_sufficiency" in str(refused.value)
    assert "answer_in_necessity" in str(refused.value)


@pytest.mark.parametrize("mask", [ANSWER & masks.role("user"), ~masks.positions(0) & ANSWER])
def test_it_has_no_token_in_common_with_the_prompt(owl, mask):
    message = "no token is the answer's own and the prompt's; combine the answer with masks of mod"
    with pytest.raises(ValueError, match=message):
        mask.modules(owl, MODULES)


def test_it_is_no_set_of_the_prompts_tokens(owl):
    for ask in (lambda: ANSWER(owl, MODULES), lambda: ANSWER.tokens(owl)):
        with pytest.raises(ValueError, match=r"follow the prompt.*patch say answer_in_sets=True"):
            ask()


@pytest.mark.parametrize("wrong", [None, [0], "system"])
def test_only_masks_combine(wrong):
    for combine in (lambda: ANSWER & wrong, lambda: ANSWER | wrong):
        with pytest.raises(TypeError, match="masks combine with masks only"):
            combine()


def test_it_is_among_the_built_in_sets_only_where_it_is_asked_for(owl):
    for by in (masks.by_role, masks.by_sharing):
        without, both = by([owl]), by([owl], answer=True)
        assert [name for name in both if name != "answer"] == list(without)
        assert isinstance(both["answer"], AnswerMask)
        assert "answer" not in without
