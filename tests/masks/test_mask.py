"""Masks as a boolean algebra: cells, names, and what is refused."""

import operator
import re

import numpy as np
import pytest
from mask_cases import assert_same, marked_prompts, network, zoo

from sublim_mech import masks
from sublim_mech.masks import Mask


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return marked_prompts(smol_tokenizer)


@pytest.fixture(scope="module")
def owl(prompts):
    return prompts[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "phi3"])
def test_masks_are_a_boolean_algebra(prompts, architecture):
    modules, all_cells = network(architecture), masks.everything()
    for prompt in prompts:
        for a in zoo():
            assert_same(~~a, a, prompt, modules)
            assert_same(a & all_cells, a, prompt, modules)
            assert_same(a | all_cells, all_cells, prompt, modules)
            assert_same(a & ~a, ~all_cells, prompt, modules)
            assert_same(a | ~a, all_cells, prompt, modules)
            for b in zoo():
                assert_same(~(a & b), ~a | ~b, prompt, modules)
                assert_same(~(a | b), ~a & ~b, prompt, modules)
                assert_same(a & b, b & a, prompt, modules)
                assert_same(a & (a | b), a, prompt, modules)
        a, b, c = zoo()[2], zoo()[6], zoo()[8]
        assert_same(a & (b | c), (a & b) | (a & c), prompt, modules)
        assert_same((a & b) & c, a & (b & c), prompt, modules)


def test_a_combination_is_the_cells_one_by_one(owl):
    modules = network("qwen2")
    mask = (masks.role("user") & masks.layers([0, 2])) | ~masks.modules("mlp")
    cells = mask(owl, modules)
    for t in range(len(owl)):
        for m, module in enumerate(modules):
            user_in_block = owl.roles[t] == "user" and module.layer in (0, 2)
            expected = user_in_block or not module.name.startswith("mlp.")
            assert cells[t, m] == expected, (t, module)


def test_masks_are_data_for_any_prompt_and_model(prompts):
    mask = masks.role("user") & masks.modules("norms")
    for prompt in prompts:
        for architecture in ("llama", "gemma3", "gpt2", "opt"):
            modules = network(architecture)
            norms = masks.modules("norms")(prompt, modules)[0]
            assert mask(prompt, modules).sum() == prompt.roles.count("user") * norms.sum()


def test_what_is_returned_is_the_callers_own(owl):
    mask = masks.everything()
    cells = mask(owl, network("llama"))
    cells[:] = False
    assert mask(owl, network("llama")).all()


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (lambda: masks.role("system") & masks.layers(range(10)), "system & layers 0-9"),
        (lambda: ~masks.role("system"), "not system"),
        (lambda: ~(masks.role("system") & masks.layers(3)), "not (system & layer 3)"),
        (
            lambda: masks.role("system", "user") & masks.layers([0, 1, 2, 7, 9, 10]),
            "(system | user) & layers 0-2, 7, 9-10",
        ),
        (
            lambda: (masks.role("bos") & masks.turn(0)) | masks.turn(1, -1),
            "bos & turn 0 | turns 1, -1",
        ),
        (
            lambda: masks.role("bos") & masks.turn(0) & masks.modules("mlp"),
            "bos & turn 0 & mlp",
        ),
        (
            lambda: masks.role("user") & ~masks.modules("attn.q", "head"),
            "user & not (attn.q | head)",
        ),
        (
            lambda: masks.text("a | b", which="last") & masks.turn(0),
            "text 'a | b' [last] & turn 0",
        ),
        (lambda: masks.regex("(a|b) | c") & masks.turn(0), "regex '(a|b) | c' & turn 0"),
        (
            lambda: masks.positions(0, -1) | masks.sharing("not shared"),
            "positions 0, -1 | not shared",
        ),
        (lambda: masks.positions(4) & masks.everything(), "position 4 & everything"),
        (
            lambda: ~(~(masks.role("bos") & masks.turn(0)) | masks.layers(0)) & masks.role("user"),
            "not (not (bos & turn 0) | layer 0) & user",
        ),
    ],
)
def test_names_read_as_what_was_written(mask, name):
    assert mask().name == name


@pytest.mark.parametrize("wrong", [None, [0], "system", lambda prompt: [0]])
def test_only_masks_combine(wrong):
    for combine in (lambda mask: mask & wrong, lambda mask: mask | wrong):
        with pytest.raises(TypeError, match="masks combine with masks only"):
            combine(masks.everything())


def test_and_or_not_are_refused():
    message = r"mask 'system' has no truth value; combine masks with & \| ~"
    with pytest.raises(TypeError, match=message):
        masks.role("system") and masks.layers(0)


@pytest.mark.parametrize(
    "cells",
    [
        lambda p, m: np.ones(len(p), dtype=bool),  # one axis
        lambda p, m: np.ones((len(p) - 1, 1), dtype=bool),
        lambda p, m: np.ones((1, len(m) + 1), dtype=bool),
        lambda p, m: np.ones((len(m), len(p)), dtype=bool),  # transposed
        lambda p, m: np.zeros((len(p), 1), dtype=int),  # positions, or 0 and 1: not said
    ],
)
def test_cells_of_another_shape_or_type_are_refused_also_inside(owl, cells):
    odd, rest = Mask("odd", cells), masks.everything()
    message = r"mask 'odd': cells gives (bool|int64) of shape .* \(token, module\) = \(\d+, \d+\)"
    for mask in (odd, ~odd, odd & rest, rest & odd, odd | rest, rest | odd):
        with pytest.raises(ValueError, match=message):
            mask(owl, network("llama"))


# tokens of a mask


def test_tokens_are_the_rows_of_the_cells(prompts):
    modules = network("opt")
    for prompt in prompts:
        for of_tokens in [m for m in zoo() if not re.match("layer|att|chess", m.name)]:
            combined = (
                of_tokens, ~of_tokens, of_tokens & masks.turn(0), of_tokens | masks.role("user"),
            )  # fmt: skip
            for mask in combined:
                cells = mask(prompt, modules)
                assert mask.tokens(prompt) == [t for t in range(len(prompt)) if cells[t].all()]
                assert (cells.all(1) == cells.any(1)).all()


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (masks.layers(0), "layer 0"),
        (masks.modules("mlp"), "mlp"),
        (masks.role("user") & masks.layers(0), "user & layer 0"),
        (~masks.modules("head") | masks.everything(), "not head | everything"),
        (zoo()[-1], "chess"),
    ],
)
def test_a_mask_of_modules_is_no_set_of_tokens(owl, mask, name):
    with pytest.raises(ValueError, match=re.escape(f"mask {name!r} depends on the module")):
        mask.tokens(owl)


@pytest.mark.parametrize("sign", ["+", "-", "^", "*"])
def test_other_signs_are_told_which_ones_combine(sign):
    a, b = masks.role("system"), masks.role("answer")
    for one, other in ((a, b), (b, a), (a, a)):
        with pytest.raises(TypeError, match=r"masks combine with & \(both\), \| \(either\)"):
            eval(f"one {sign} other", {"one": one, "other": other})
    with pytest.raises(TypeError, match=r"masks\.as_mask\(where, 'name'\)"):
        eval(f"[0] {sign} one", {"one": a})
    with pytest.raises(TypeError, match="all other cells are ~mask"):
        operator.neg(a)
