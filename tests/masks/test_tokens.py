"""Masks by position, role, turn and sharing, against the prompt's own labels."""

import re
from dataclasses import replace

import numpy as np
import pytest
from mask_cases import assert_same, marked_prompts, network

from sublim_mech import masks
from sublim_mech.prompts import render


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return marked_prompts(smol_tokenizer)


@pytest.fixture(scope="module")
def owl(prompts):
    return prompts[0]


def test_positions_count_from_both_ends(owl):
    n = len(owl)
    assert masks.everything().tokens(owl) == list(range(n))
    assert masks.positions(-1, 0, 2, n - 1, -n).tokens(owl) == [0, 2, n - 1]
    assert masks.positions(np.int64(1)).tokens(owl) == [1]
    for wrong in (n, -n - 1):
        message = rf"'position {wrong}' gives positions \[{wrong}\] for a prompt of {n} tokens"
        with pytest.raises(ValueError, match=message):
            masks.positions(wrong).tokens(owl)


@pytest.mark.parametrize("role", ["template", "system", "user", "assistant"])
def test_roles_partition_the_prompt(prompts, role):
    for prompt in prompts:
        chosen = masks.role(role).tokens(prompt)
        assert {prompt.roles[t] for t in chosen} <= {role}
        assert len(chosen) == prompt.roles.count(role)
    assert masks.role("system").tokens(prompts[2]) == [], "no system block, no tokens"


def test_turns_are_the_texts_between_the_template_s_marks(prompts):
    for prompt in prompts:
        opened = [t for t, token in enumerate(prompt.tokens) if token == "<|im_start|>"]
        bounds = [*opened, len(prompt)]
        n = len(opened)
        for k in range(n):
            expected = list(range(bounds[k], bounds[k + 1]))
            assert masks.turn(k).tokens(prompt) == expected
            assert masks.turn(k - n).tokens(prompt) == expected
        for wrong in (n, -n - 1):
            message = (
                rf"turn\(0, {wrong}\): the prompt .* has {n} turns; give 0 to {n - 1}, or -{n}"
            )
            with pytest.raises(ValueError, match=message):
                masks.turn(0, wrong).tokens(prompt)


def test_sharing_classes_and_their_unions(owl):
    modules = network("llama")
    assert owl.sharing is not None
    assert len(set(owl.sharing)) == 4, "the prompt has all classes"
    for name in set(owl.sharing):
        expected = [t for t, class_ in enumerate(owl.sharing) if class_ == name]
        assert masks.sharing(name).tokens(owl) == expected
    shared, not_shared = masks.sharing("shared"), masks.sharing("not shared")
    assert_same(shared, masks.sharing("prefix") | masks.sharing("aligned"), owl, modules)
    assert_same(not_shared, masks.sharing("seen", "novel"), owl, modules)
    assert_same(not_shared, ~shared, owl, modules)
    message = r"is not marked by what training shares with it; render\(pair, questions\)"
    with pytest.raises(ValueError, match=message):
        masks.sharing("seen").tokens(replace(owl, sharing=None))


def test_by_role_has_the_roles_that_occur_in_the_order_of_tables(prompts):
    sets = masks.by_role(prompts)
    assert list(sets) == ["template", "system", "user", "assistant", "all prompt tokens"]
    for prompt in prompts:
        by_name = {name: set(mask.tokens(prompt)) for name, mask in sets.items()}
        every = by_name.pop("all prompt tokens")
        assert every == set(range(len(prompt))) == set().union(*by_name.values())
        assert sum(map(len, by_name.values())) == len(prompt), "no token has two roles"
    assert list(masks.by_role(prompts[2:3])) == ["template", "user", "all prompt tokens"]


def test_by_sharing_has_the_classes_that_occur_and_their_two_unions(prompts):
    sets = masks.by_sharing(prompts)
    assert list(sets) == ["prefix", "aligned", "seen", "novel", "shared", "not shared"]
    for prompt in prompts:
        by_name = {name: set(mask.tokens(prompt)) for name, mask in sets.items()}
        assert by_name["shared"] == by_name["prefix"] | by_name["aligned"]
        assert by_name["not shared"] == by_name["seen"] | by_name["novel"]
    only_prefix = replace(prompts[0], sharing=("prefix",) * len(prompts[0]))
    assert list(masks.by_sharing([only_prefix])) == ["prefix", "shared"], "what is not there is not"


def test_sets_by_sharing_of_unmarked_prompts_say_so_when_applied(smol_tokenizer):
    unmarked = render(smol_tokenizer, ["hi"])
    for mask in masks.by_sharing(unmarked).values():
        with pytest.raises(ValueError, match="is not marked"):
            mask.tokens(unmarked[0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masks.positions(), ValueError, "positions() is empty"),
        (
            lambda: masks.positions([1, 2]),
            TypeError,
            "positions(*numbers=[1, 2]): pass a whole number; unpack it: *[1, 2].",
        ),
        (
            lambda: masks.positions(1.0),
            TypeError,
            "positions(*numbers=1.0): pass a whole number: 1.",
        ),
        (
            lambda: masks.positions(True),
            TypeError,
            "positions(*numbers=True): pass a whole number.",
        ),
        (
            lambda: masks.role(),
            ValueError,
            "role() is empty; give at least one of bos, template, system, user, assistant, text, "
            "answer.",
        ),
        (
            lambda: masks.role("sytem"),
            ValueError,
            "role('sytem') is not known; choose among bos, template, system, user, assistant",
        ),
        (
            lambda: masks.role("answer", "user"),
            ValueError,
            "role('answer', 'user'): the answer's own tokens are none of the prompt's; give "
            "role('answer') alone. Who computes the answer while a set of prompt tokens is tested "
            "is said by answer_in_sufficiency=True and answer_in_necessity=False of graft.",
        ),
        (
            lambda: masks.sharing("novel", "answer"),
            ValueError,
            "give sharing('answer') alone",
        ),
        (lambda: masks.turn(), ValueError, "turn() is empty"),
        (lambda: masks.turn("user"), TypeError, "turn(*turns='user'): pass a whole number."),
        (lambda: masks.sharing(), ValueError, "sharing() is empty"),
        (
            lambda: masks.sharing("new"),
            ValueError,
            "choose among prefix, aligned, seen, novel, shared, not shared, answer.",
        ),
        (
            lambda: masks.as_mask("system", "it"),
            TypeError,
            "as_mask(where='system'): pass a Mask (sublim_mech.masks.role('system'), "
            "sublim_mech.masks.sharing('shared')) or a function or a list of whole numbers.",
        ),
        (lambda: masks.as_mask(3, "it"), TypeError, "as_mask(where=3): pass a Mask"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_as_mask(owl):
    role = masks.role("user")
    assert masks.as_mask(role, "another name") is role
    n, user = len(owl), [t for t, r in enumerate(owl.roles) if r == "user"]
    for where in (
        lambda p: [t for t, r in enumerate(p.roles) if r == "user"],
        user,
        np.array(user),
        tuple(t - n for t in user),
    ):
        mask = masks.as_mask(where, "mine")
        assert mask.name == "mine"
        assert_same(mask, role, owl, network("llama"))
    assert masks.as_mask([], "none").tokens(owl) == []
    assert masks.as_mask(lambda p: range(len(p)), "all").tokens(owl) == list(range(n))
    message = rf"'far' gives positions \[0, {n}\] for a prompt of {n} tokens"
    with pytest.raises(ValueError, match=message):
        masks.as_mask(lambda p: [0, len(p)], "far").tokens(owl)
    with pytest.raises(
        TypeError, match=r"'flags': the function <lambda> gives array.*np\.flatnonzero"
    ):
        masks.as_mask(lambda p: np.array(p.roles) == "user", "flags").tokens(owl)


def test_a_list_given_as_positions_may_change_afterwards(owl):
    positions = [1, 2]
    mask = masks.as_mask(positions, "mine")
    positions.append(3)
    assert mask.tokens(owl) == [1, 2]
